"""What an instruction costs on the Vector, Scalar and GpSimd Engines, and which one can run it.

An interval is one of AWS's published formulas in N, elements per partition (NKI ISA reference, SDK
2.26.1), at least the datasheet's minimum; fixed latency and hand-over are the datasheet's. Fast
modes, shared ports and data-path widths are those of the architecture guides (SDK 2.32).

Not modelled: slower rates of strided accesses, but that copies lose their fast modes. Approximated:
from NeuronCore-v3 on the Vector Engine's fast modes share a bus with the GpSimd Engine, and neither
waits for it here.
"""

import dataclasses
from collections import Counter
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from emu.datasheet import Device
from emu.errors import LimitExceeded, WrongSpace
from emu.instruction import Cost, Operand, limit
from emu.trainium.datasheets import GENERATIONS
from emu.trainium.datasheets.limits import FREE_DIMENSIONS, FREE_ELEMENTS
from emu.trainium.engines.memory import EITHER

# `writes` of an instruction whose result, or two results, may lie in SBUF or PSUM.
ON_CHIP = (EITHER,)
TWO_ON_CHIP = (EITHER, EITHER)


def compute(
    device: Device,
    name: str,
    engine: str,
    cycles: float,
    writes: Sequence[Operand],
    reads: Sequence[Operand],
    *,
    flops: int = 0,
    across: bool = False,
) -> Cost:
    """The cost of an instruction whose published interval is `cycles` of `engine`.

    The published intervals leave out what every access to SBUF or PSUM takes before its first
    element, so the engine is busy that much longer.

    Example: 128 cycles of Trainium2's Vector Engine. The engine takes its next instruction 128 +
    108 (access) cycles after this one; the result is written after 128 + 160 (fixed, the access
    among it), and a dependent on whichever engine starts 42 (hand-over) later, 330 cycles after
    this one. An interval of 20 counts as 64, the least.

    Args:
      device: the machine.
      name: of the instruction.
      engine: vector, scalar or gpsimd.
      cycles: the interval; the datasheet's minimum where that is longer.
      writes: results, as far as they are written.
      reads: sources; the destination too where its old content matters.
      flops: issued.
      across: whether it moves data from one partition to another.

    Raises:
      LimitExceeded: a tile with more elements or dimensions than one instruction takes, or tiles of
        different partitions.
      WrongSpace: an operand in PSUM, which GpSimd cannot access.
    """
    # A register is no tile: a known integer has neither a space to check nor a port to share.
    tiles = [x for x in (*writes, *reads) if x.space in FREE_ELEMENTS]
    _check_tiles(name, engine, tiles)
    if not across:
        check_partitions(name, *tiles)
    spaces = {x.space for x in tiles}
    access, latency = {
        "vector": (device.vector_access_cycles, device.vector_latency_cycles),
        "scalar": (device.scalar_access_cycles, device.scalar_latency_cycles),
        "gpsimd": (0, 0),  # its fixed part is in the published interval
    }[engine]
    # An engine spends its start-up on short tiles too: [128, 1] costs what [128, 64] does.
    interval = max(device.min_interval_cycles, cycles)
    return Cost(
        engine=engine,
        busy_cycles=interval + access,
        latency_cycles=interval + latency,
        flops=flops,
        moved_bytes=_moved(writes, reads),
        handover_cycles=device.handover_cycles,
        ports=_shared_ports(device, engine, spaces),
    )


def _check_tiles(name: str, engine: str, tiles: Sequence[Operand]) -> None:
    if engine == "gpsimd" and any(x.space == "psum" for x in tiles):
        raise WrongSpace(
            f"{name}: an operand is in psum, must be in sbuf on GpSimd: choose another engine"
        )
    for x in tiles:
        what = f"elements per partition in {x.space}"
        limit(name, what, x.free, FREE_ELEMENTS[x.space])
        limit(name, "free dimensions", len(x.shape) - 1, FREE_DIMENSIONS)


def check_partitions(name: str, *tiles: Operand) -> None:
    """Every lane of an engine reads and writes its own partition, so all tiles have as many.

    With `[1, n]` beside `[128, n]` a broadcast of JAX's would spread the one row over 128
    partitions, and not a byte would be moved.

    Raises:
      LimitExceeded: they have not.
    """
    partitions = [x.shape[0] for x in tiles]
    if len(set(partitions)) > 1:
        counts = ", ".join(map(str, partitions))
        raise LimitExceeded(
            f"{name}: tiles, destination first, are of {counts} partitions, must be of as many "
            "each: to spread a row over partitions nc_matmul(dst, ones, row, 0) with ones of "
            "[1, partitions], or load it so"
        )


def _shared_ports(device: Device, engine: str, spaces: set[str]) -> tuple[str, ...]:
    """Of these memories those whose port `engine` shares with another engine."""
    # On Trainium1 Vector and Scalar share a port of PSUM, Vector and GpSimd one of SBUF: a copy of
    # the Vector Engine from PSUM to SBUF keeps both others waiting if they want the same memory,
    # one within SBUF keeps GpSimd waiting alone.
    return tuple(
        space
        for first, second, space in device.shared_ports
        if space in spaces and engine in (first, second)
    )


def _moved(writes: Sequence[Operand], reads: Sequence[Operand]) -> dict[str, int]:
    moved: Counter[str] = Counter()
    for x in reads:
        if x.space != "register":
            moved[f"{x.space}_read"] += x.nbytes
    for x in writes:
        moved[f"{x.space}_write"] += x.nbytes
    return dict(moved)


def part(dst: Operand, src: Operand) -> Operand:
    """The range of `dst` that an instruction writing `src` there touches."""
    return dataclasses.replace(dst, shape=src.shape)


def needs(name: str, device: Device) -> None:
    """Refuses an instruction that not every generation has, where this one has it not.

    Raises:
      LimitExceeded: naming those that have it.
    """
    if name in device.extra_instructions:
        return
    able: list[str] = []
    for sheet in GENERATIONS.values():
        if name in sheet.extra_instructions.value:
            able.append(sheet.name)
    raise LimitExceeded(f"{name}: device is {device.name}, must be {' or '.join(able)}")


def check_engine(name: str, device: Device, engine: str, *able: str) -> None:
    """Refuses an engine that does not run instruction `name` here.

    Args:
      name: of the instruction.
      device: the machine.
      engine: that was asked for.
      able: the engines that run it; the Scalar Engine only where it is `scalar_elementwise`.

    Raises:
      LimitExceeded: naming those that do.
    """
    # Before NeuronCore-v3 the Scalar Engine has activations only; an elementwise instruction that
    # asks for it there would be timed on a unit that the chip has not.
    here = [e for e in able if e != "scalar" or device.scalar_elementwise]
    if engine not in here:
        raise LimitExceeded(
            f"{name}: engine is {engine!r}, must be {' or '.join(here)} on {device.name}"
        )


def one_in_psum(name: str, *operands: Operand) -> bool:
    """Whether one source is in PSUM, which saves the second read of SBUF.

    Raises:
      LimitExceeded: more than one is.
    """
    in_psum = sum(x.space == "psum" for x in operands)
    limit(name, "number of operands in PSUM", in_psum, 1)
    return in_psum == 1


def is_fast(device: Device, *operands: Operand) -> bool:
    """Whether every dtype is a float of the size of the Vector Engine's fast modes."""
    dtypes = [x.dtype for x in operands]
    are_floats = all(jnp.issubdtype(dtype, jnp.floating) for dtype in dtypes)
    return are_floats and all(dtype.itemsize in device.fast_bytes for dtype in dtypes)


def is_bfloat16(*operands: Operand) -> bool:
    """Whether every operand is bfloat16, the fast dtype of the instruction reference."""
    return all(x.dtype == np.dtype(jnp.bfloat16) for x in operands)


def copy_cycles(device: Device, engine: str, dst: Operand, src: Operand) -> float:
    """Interval of tensor_copy and tensor_scalar: N, or in a fast mode a part of it.

    A tile is contiguous, a part of one where its elements are not apart.

    Example: 512 elements of bfloat16 a partition, on the Vector Engine from Trainium2 on, take
    512/4 = 128 cycles from SBUF to SBUF, 512/2 = 256 with one side in PSUM or elements that are
    apart, 512 with both; in float32 512 wherever they are. Trainium3's Scalar Engine takes 512/2 =
    256, and 512 where they are apart, of which nothing is published.
    """
    if engine == "gpsimd" or not is_fast(device, dst, src):
        return src.free
    apart = are_apart(dst, src)
    if engine == "scalar":
        return src.free if apart else src.free / device.scalar_copy_elements
    slower = [src.space, dst.space].count("psum") + apart
    slowest = len(device.vector_copy_elements) - 1
    return src.free / device.vector_copy_elements[min(slower, slowest)]


def are_apart(*operands: Operand) -> bool:
    """Whether one is a part of a tile whose elements are apart in each partition."""
    return any(x.run == 1 and x.free > 1 for x in operands)
