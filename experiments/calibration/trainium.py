"""What each calibration case times: a kernel with parameters, read by the clock of any other."""

import functools
import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from emu import EmulationError, Program
from emu.clock.reading import Event, Reading
from emu.datasheet import Device
from emu.trainium.datasheets.sheet import DMA_QUEUES
from kernels.trainium import microbench
from kernels.trainium.gemm.ladder import gemm

PARTITIONS = 128
DTYPES = ("float32", "bfloat16", "float16")
INTEGERS = ("int16", "uint16")  # of a wafer's vector operations
STREAM_TILES = 16
RUN = 4  # independent instructions of a run: the last two give the steady distance
STEADY = 512  # matmuls of a run: enough that the Tensor Engine is no longer cold
UNITS = {
    "latency_us": "us",
    "latency_ns": "ns",
    "interval_ns": "ns",
    "tflops_active": "TFLOPS",
    "gbytes_per_s": "GB/s",
    "cycles": "cycles",
}
Metrics = dict[str, float]


class Unsupported(Exception):
    """A point that the emulator cannot predict, and why."""


# --- reading a kernel ---


def _read(
    device: Device, kernel: Callable[..., Any], *arrays: Any, **options: Any
) -> Reading:
    """The clock of one core, once the kernel is known to fit."""
    program = Program(kernel, {"core": 1}, ((),) * len(arrays))
    program.memory(device, *arrays)
    return program.read(device, *arrays, **options)


def _events(
    device: Device, name: str, kernel: Callable[..., Any], *arrays: Any
) -> list[Event]:
    """The executions of instruction `name`."""
    events = _read(device, kernel, *arrays, trace_core=(0,)).events
    return [event for event in events if event.name == name]


def _array(*shape: int, dtype: str) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jnp.dtype(dtype))


def _ns(device: Device, ticks: float) -> float:
    return ticks / device.tick_hz * 1e9


def _instruction(device: Device, events: list[Event], instructions: int = 1) -> Metrics:
    """Bar and steady distance of the last event, which a profiler shows as `instructions` bars."""
    # The profiler shows a float32 matmul as two bars, one behind the other, where the clock has one
    # event. Of 128 columns, 4 · 128 + 2 · 8 = 528 busy cycles, each bar has 264: the second ends
    # with the event, so its own latency is the event's less 264, and bars follow each other at half
    # the events' distance.
    before, last = events[-2:]
    others = (last.end - last.start) * (instructions - 1) / instructions
    return {
        "latency_ns": _ns(device, last.done - last.start - others),
        "interval_ns": _ns(device, (last.start - before.start) / instructions),
    }


# --- cases ---


def matmul(
    device: Device,
    *,
    m: int,
    k: int,
    n: int,
    dtype: str,
    variant: str,
    lhs_loads: int = 0,
) -> Metrics:
    """First DMA packet to last of a whole kernel."""
    lhs = (m, k) if variant == "tiled_transposing_lhs" else (k, m)
    kernel = functools.partial(
        gemm,
        variant=variant,
        lhs_loads=lhs_loads or None,
        sbuf_partition_bytes=device.sbuf_partition_bytes,
        turned_dtype=(
            None if device.transposes_in_input_dtype else jnp.dtype(jnp.float32)
        ),
    )
    clock = _read(device, kernel, _array(*lhs, dtype=dtype), _array(k, n, dtype=dtype))
    return {"latency_us": _packets_s(device, clock) * 1e6}


def tensor_engine(
    device: Device, *, count: int, shapes: list[list[int]], dtype: str
) -> Metrics:
    """FLOPs over the time in which the Tensor Engine is busy, from a cold start."""
    events = _matmuls(device, shapes, count, dtype)
    # Busy time alone, as the profiler's active time: what lies between the matmuls is not in it.
    active_s = sum(error.end - error.start for error in events) / device.tick_hz
    flops = count * sum(2 * math.prod(shape) for shape in shapes)
    return {"tflops_active": flops / active_s / 1e12}


def tensor_engine_pass(
    device: Device, *, k: int, m: int, n: int, dtype: str
) -> Metrics:
    """One MATMUL instruction in a steady run; a float32 `nc_matmul` is two of them."""
    events = _matmuls(device, [[k, m, n]], STEADY, dtype)
    return _instruction(device, events, 2 if dtype == "float32" else 1)


def _matmuls(
    device: Device, shapes: list[list[int]], count: int, dtype: str
) -> list[Event]:
    largest = [max(sizes) for sizes in zip(*shapes, strict=True)]
    kernel = functools.partial(microbench.matmul_runs, shapes=shapes, count=count)
    k, m, n = largest
    arrays = _array(k, m, dtype=dtype), _array(k, n, dtype=dtype)
    return _events(device, "trn.nc_matmul", kernel, *arrays)


def activation(
    device: Device, *, op: str, partitions: int, free: int, dtype: str
) -> Metrics:
    kernel = functools.partial(microbench.activations, op=op, count=RUN)
    tile = _array(partitions, free, dtype=dtype)
    return _instruction(device, _events(device, "trn.activation", kernel, tile))


def activation_chain(
    device: Device, *, op: str, partitions: int, free: int, dtype: str
) -> Metrics:
    kernel = functools.partial(microbench.activation_chain, op=op, count=RUN)
    tile = _array(partitions, free, dtype=dtype)
    return _instruction(device, _events(device, "trn.activation_bias", kernel, tile))


def tensor_tensor(
    device: Device, *, op: str, partitions: int, free: int, dtype: str
) -> Metrics:
    kernel = functools.partial(microbench.tensor_tensors, op=op, count=RUN)
    tile = _array(partitions, free, dtype=dtype)
    return _instruction(
        device, _events(device, "trn.tensor_tensor", kernel, tile, tile)
    )


def tensor_copy(
    device: Device, *, partitions: int, free: int, dtype: str, src: str, dst: str
) -> Metrics:
    for name, space in (("src", src), ("dst", dst)):
        if space not in ("sbuf", "psum"):
            raise Unsupported(f"tensor_copy: {name} is {space!r}, must be sbuf or psum")
    kernel = functools.partial(microbench.tensor_copies, src=src, dst=dst, count=RUN)
    arrays = (
        _array(partitions, free, dtype=dtype),
        _array(partitions, partitions, dtype=dtype),
    )
    return _instruction(device, _events(device, "trn.tensor_copy", kernel, *arrays))


def dma_transfer(
    device: Device, *, partitions: int, bytes_per_partition: int, engines: int
) -> Metrics:
    """The data phase of one engine's part of a load: its descriptors, one after the other."""
    rows = math.ceil(partitions / engines)
    limit = device.dma_partitions_per_engine
    if rows > limit:
        raise Unsupported(
            f"dma_transfer: {rows} partitions an engine, at most {limit}: one engine serves those"
        )
    # So many partitions as one engine serves: its descriptors follow each other, as in the profile.
    tile = _array(1, rows, bytes_per_partition, dtype="uint8")
    kernel = functools.partial(microbench.dma_copies, queues=DMA_QUEUES, buffers=1)
    (load,) = _events(device, "trn.dma_load", kernel, tile)
    # A profile's bar begins with the first packet and ends with the last.
    outside = device.ticks(device.dma_trigger_s) + device.ticks(device.dma_wakeup_s)
    return {"latency_ns": _ns(device, load.done - load.start - outside)}


def dma_stream(
    device: Device, *, bytes_per_descriptor: int, partitions: int
) -> Metrics:
    """Bytes loaded and stored, over the time from the first DMA packet to the last."""
    tiles = _array(STREAM_TILES, partitions, bytes_per_descriptor, dtype="uint8")
    room = device.sbuf_bytes // device.partitions // bytes_per_descriptor
    kernel = functools.partial(
        microbench.dma_copies,
        queues=DMA_QUEUES,
        buffers=max(1, min(STREAM_TILES, room)),
    )
    clock = _read(device, kernel, tiles)
    # Every byte goes in and out.
    moved = 2 * math.prod(tiles.shape)
    return {"gbytes_per_s": moved / _packets_s(device, clock) / 1e9}


def _packets_s(device: Device, clock: Reading) -> float:
    """From first to last DMA packet of a kernel that starts with a load and ends with a store."""
    return clock.seconds - device.dma_trigger_s - device.dma_wakeup_s


CASES: Mapping[str, Callable[..., Metrics]] = {
    f.__name__: f
    for f in (
        matmul,
        tensor_engine,
        tensor_engine_pass,
        activation,
        activation_chain,
        tensor_tensor,
        tensor_copy,
        dma_transfer,
        dma_stream,
    )
}


# --- prediction ---


def predict(
    device: Device,
    case: str,
    params: Mapping[str, Any],
    cases: Mapping[str, Callable[..., Metrics]] = CASES,
) -> Metrics:
    """Every metric of a case with these parameters.

    Args:
      device: of the machine that `cases` are for.
      case: a key of `cases`.
      params: its parameters.
      cases: the machine's, by default the NeuronCore's.

    Raises:
      Unsupported: no such case or parameters, or a kernel that the machine cannot run as it is.
    """
    if case not in cases:
        raise Unsupported(f"no case {case!r}, has {', '.join(cases)}")
    try:
        return cases[case](device, **_checked(cases[case], params))
    except (EmulationError, ValueError) as error:
        raise Unsupported(" ".join(str(error).split())) from None


def _checked(
    call: Callable[..., Metrics], params: Mapping[str, Any]
) -> Mapping[str, Any]:
    """The parameters, once they are known to be those of the case, of its types and above 0."""
    case = call.__name__
    wanted = list(inspect.signature(call).parameters.values())[1:]
    names = [parameter.name for parameter in wanted]
    lacking = [
        parameter.name
        for parameter in wanted
        if parameter.default is parameter.empty and parameter.name not in params
    ]
    if lacking or set(params) - set(names):
        raise Unsupported(
            f"{case}: has parameters {', '.join(params) or 'none'}, must have {', '.join(names)}"
        )
    for parameter in wanted:
        value = params.get(parameter.name, parameter.default)
        if (
            parameter.annotation is int
            and not _counts(value)
            and parameter.name in params
        ):
            raise Unsupported(
                f"{case}: {parameter.name} is {value!r}, must be a whole number above 0"
            )
        if parameter.annotation is str and not isinstance(value, str):
            raise Unsupported(f"{case}: {parameter.name} is {value!r}, must be a name")
        dtypes = DTYPES + (INTEGERS if case.startswith("vector_op") else ())
        if parameter.name == "dtype" and value not in dtypes:
            raise Unsupported(
                f"{case}: dtype is {value!r}, must be one of {', '.join(dtypes)}"
            )
        if parameter.name == "shapes" and not _shapes(value):
            raise Unsupported(
                f"{case}: shapes is {value!r}, must be a list of [k, m, n]"
            )
    return params


def _counts(x: Any) -> bool:
    return type(x) is int and x > 0


def _shapes(x: Any) -> bool:
    return (
        isinstance(x, list)
        and bool(x)
        and all(isinstance(s, list) and len(s) == 3 and all(map(_counts, s)) for s in x)
    )
