"""Writes the list of instructions, by engine: `python docs/instructions.py > instructions.md`.

Nothing in the list is written by hand. Signatures, memory spaces and words are those of the
declarations; costs are what the cost rules say of the examples below; limits are what the rules
refuse as an example grows.
"""

import dataclasses
import inspect
import pathlib
import re
import sys
from collections.abc import Callable, Mapping
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402

import emu.trainium as trn  # noqa: E402
import emu.wse as wse  # noqa: E402
from emu import Cost, Device, EmulationError, Instruction, Operand, Program  # noqa: E402
from emu.instruction import registered  # noqa: E402

BF16 = jnp.bfloat16
F32 = jnp.float32
I32 = jnp.int32
I16 = jnp.int16
FP8 = jnp.float8_e4m3fn
MACHINES = {
    "trn": ("NeuronCore", trn, [sheet.at() for sheet in trn.GENERATIONS.values()]),
    "wse": ("PE of the wafer", wse, [wse.WSE2.at(), wse.WSE3.at()]),
}
ENGINES = {
    "tensor": "Tensor Engine",
    "weight_load": "Tensor Engine",
    "vector": "Vector Engine",
    "scalar": "Scalar Engine",
    "gpsimd": "GpSimd Engine",
    "load_queue": "DMA",
    "store_queue": "DMA",
    "collective": "Collectives",
    "neuronlink": "Between chips",
    "datapath": "Datapath",
    None: "Tiles",
}
MOST = 2**22  # elements of one dimension, when a limit is looked for


# --- examples ---


@dataclasses.dataclass(frozen=True)
class Example:
    """Typical operands of an instruction, destinations first, and its parameters."""

    operands: tuple[Operand, ...]
    params: Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Crossing:
    """A typical call of an instruction that crosses cores, on a tile of each core of a mesh."""

    mesh: Mapping[str, int]
    shape: tuple[int, ...]
    call: Callable[[jax.Array], Any]
    dtype: Any = BF16


def tile(space: str, *shape: int, dtype: Any = BF16) -> Operand:
    return Operand(shape, np.dtype(dtype), space)


def sbuf(*shape: int, dtype: Any = BF16) -> Operand:
    return tile("sbuf", *shape, dtype=dtype)


def psum(*shape: int, dtype: Any = F32) -> Operand:
    return tile("psum", *shape, dtype=dtype)


def hbm(*shape: int, dtype: Any = BF16) -> Operand:
    return tile("hbm", *shape, dtype=dtype)


def sram(*shape: int, dtype: Any = F32) -> Operand:
    return tile("sram", *shape, dtype=dtype)


def known(value: int, space: str = "register") -> Operand:
    return Operand((), np.dtype(np.int32), space, np.asarray(value))


def of(*operands: Operand, **params: Any) -> Example:
    return Example(operands, params)


ROWS = sbuf(128, 512)
WIDE = sbuf(128, 512, dtype=F32)
COLUMN = sbuf(128, 1, dtype=F32)
EIGHT = sbuf(128, 8, dtype=F32)
PLACES = sbuf(128, 4, 512)
OFFSET = sbuf(1, 1, dtype=I32)
MX = sbuf(128, 512, 4, dtype=FP8)
MX_SCALE = sbuf(16, 512, dtype=jnp.uint8)
I = known(0)  # noqa: E741
COUNT = known(64, "count")
CORES = {"x": 2}
CHIPS = {"x": 4}
PES = {"x": 8}
GRID = {"y": 4, "x": 4}
MIB = (1024, 512)
WORDS = sram(256)
ONE = sram(1)
SLOTS = sram(4, 64)

EXAMPLES: dict[str, Example | Crossing] = {
    "release": of(ROWS),
    # Tensor Engine
    "trn.nc_matmul": of(psum(128, 512), sbuf(128, 128), ROWS, I),
    "trn.nc_matmul_double_row": of(
        psum(128, 512), sbuf(128, 2, 128, dtype=FP8), sbuf(128, 2, 512, dtype=FP8), I
    ),
    "trn.nc_load_stationary": of(tile("array", 128, 128), sbuf(128, 128)),
    "trn.nc_matmul_moving": of(psum(128, 512), tile("array", 128, 128), ROWS, I),
    "trn.nc_transpose": of(psum(128, 128), sbuf(128, 128, dtype=F32)),
    "trn.nc_matmul_mx": of(
        psum(128, 512),
        sbuf(128, 128, 4, dtype=FP8),
        MX,
        sbuf(16, 128, dtype=jnp.uint8),
        MX_SCALE,
        I,
    ),
    # Vector Engine
    "trn.quantize_mx": of(MX, MX_SCALE, sbuf(128, 512, 4)),
    "trn.tensor_tensor": of(ROWS, ROWS, ROWS, op="add"),
    "trn.tensor_combine": of(ROWS, ROWS, I, op="add"),
    "trn.scalar_tensor_tensor": of(ROWS, ROWS, COLUMN, ROWS, op0="multiply", op1="add"),
    "trn.immediate_tensor_tensor": of(
        ROWS, ROWS, ROWS, op0="multiply", value=2.0, op1="add"
    ),
    "trn.tensor_scalar": of(ROWS, ROWS, COLUMN, op="multiply"),
    "trn.tensor_scalars": of(ROWS, ROWS, COLUMN, COLUMN, op0="multiply", op1="add"),
    "trn.tensor_immediate": of(ROWS, ROWS, op="multiply", value=2.0),
    "trn.tensor_immediate_scalar": of(
        ROWS, ROWS, COLUMN, op0="multiply", value=2.0, op1="add"
    ),
    "trn.reciprocal": of(WIDE, WIDE),
    "trn.tensor_copy": of(ROWS, ROWS),
    "trn.tensor_copy_dynamic_src": of(ROWS, sbuf(128, 2048), OFFSET),
    "trn.tensor_copy_dynamic_dst": of(sbuf(128, 2048), ROWS, OFFSET),
    "trn.tensor_copy_predicated": of(ROWS, ROWS, sbuf(128, 512, dtype=jnp.uint8)),
    "trn.tensor_copy_predicated_value": of(
        ROWS, sbuf(128, 512, dtype=jnp.uint8), value=0.0
    ),
    "trn.memset": of(ROWS, value=0.0),
    "trn.nc_transpose_vector": of(sbuf(32, 32), sbuf(32, 32)),
    "trn.nc_stream_shuffle": of(ROWS, ROWS, mask=tuple(range(32))),
    "trn.tensor_reduce": of(COLUMN, WIDE, op="add"),
    "trn.tensor_scalar_reduce": of(
        WIDE, COLUMN, WIDE, COLUMN, op="multiply", reduce="add"
    ),
    "trn.tensor_immediate_reduce": of(
        WIDE, COLUMN, WIDE, op="multiply", value=2.0, reduce="add"
    ),
    "trn.tensor_tensor_scan_immediate": of(
        WIDE, WIDE, WIDE, initial=0.0, op0="multiply", op1="add"
    ),
    "trn.tensor_tensor_scan": of(WIDE, WIDE, WIDE, COLUMN, op0="multiply", op1="add"),
    "trn.bn_stats": of(sbuf(128, 6, dtype=F32), WIDE),
    "trn.bn_aggr": of(sbuf(128, 2, dtype=F32), sbuf(128, 12, dtype=F32)),
    "trn.exponential": of(WIDE, COLUMN, WIDE, COLUMN),
    "trn.range_select": of(
        WIDE, COLUMN, WIDE, COLUMN, COLUMN, compare0="greater_equal", compare1="less"
    ),
    "trn.nc_max8": of(EIGHT, WIDE),
    "trn.nc_find_index8": of(sbuf(128, 8, dtype=jnp.uint32), WIDE, EIGHT),
    "trn.nc_match_replace8": of(WIDE, WIDE, EIGHT, value=0.0),
    "trn.nc_match_replace8_index": of(
        WIDE, sbuf(128, 8, dtype=jnp.uint32), WIDE, EIGHT, value=0.0
    ),
    "trn.dropout": of(WIDE, WIDE, COLUMN, I),
    "trn.rand2": of(WIDE, I, low=0.0, high=1.0),
    # Scalar Engine
    "trn.activation": of(WIDE, WIDE, op="exp"),
    "trn.activation_bias": of(WIDE, WIDE, COLUMN, op="exp"),
    "trn.activation_scaled": of(WIDE, WIDE, COLUMN, COLUMN, op="exp"),
    "trn.activation_multiplied": of(WIDE, WIDE, COLUMN, op="exp"),
    "trn.activation_accumulate": of(WIDE, COLUMN, WIDE, op="exp", command="reduce"),
    "trn.activation_bias_accumulate": of(
        WIDE, COLUMN, WIDE, COLUMN, op="exp", command="reduce"
    ),
    "trn.activation_multiplied_accumulate": of(
        WIDE, COLUMN, WIDE, COLUMN, op="exp", command="reduce"
    ),
    "trn.activation_scaled_accumulate": of(
        WIDE, COLUMN, WIDE, COLUMN, COLUMN, op="exp", command="reduce"
    ),
    "trn.activation_total": of(WIDE, COLUMN, COLUMN, WIDE, op="exp", command="reduce"),
    "trn.activation_bias_total": of(
        WIDE, COLUMN, COLUMN, WIDE, COLUMN, op="exp", command="reduce"
    ),
    "trn.activation_multiplied_total": of(
        WIDE, COLUMN, COLUMN, WIDE, COLUMN, op="exp", command="reduce"
    ),
    "trn.activation_scaled_total": of(
        WIDE, COLUMN, COLUMN, WIDE, COLUMN, COLUMN, op="exp", command="reduce"
    ),
    "trn.activation_reduce": of(WIDE, COLUMN, WIDE, COLUMN, op="exp"),
    "trn.activate2": of(
        WIDE,
        COLUMN,
        WIDE,
        COLUMN,
        COLUMN,
        op="exp",
        op0="multiply",
        op1="add",
        reduce="add",
    ),
    "trn.activation_table_load": of(op="exp"),
    # GpSimd Engine
    "trn.iota": of(sbuf(128, 512, dtype=I32), I, steps=(1,)),
    "trn.affine_select": of(WIDE, WIDE, I, fill=0.0),
    "trn.local_gather": of(
        sbuf(128, 512, 1), sbuf(128, 4096), sbuf(128, 32, dtype=jnp.uint16)
    ),
    "trn.nc_n_gather": of(
        sbuf(128, 512), sbuf(128, 4096), sbuf(128, 512, dtype=jnp.uint32)
    ),
    "trn.nonzero_with_count": of(sbuf(128, 513, dtype=I32), WIDE),
    "trn.tensor_partition_reduce": of(sbuf(1, 512, dtype=F32), WIDE, op="add"),
    "trn.rsqrt_gpsimd": of(WIDE, WIDE),
    "trn.semaphore": of(engine="gpsimd"),
    # tiles and DMA
    "trn.sbuf": of(shape=(128, 512), dtype=BF16),
    "trn.psum": of(shape=(128, 512), dtype=F32),
    "trn.hbm": of(shape=(4096, 512), dtype=BF16),
    "trn.array": of(shape=(128, 128), dtype=BF16),
    "trn.dma_load": of(ROWS, hbm(128, 512)),
    "trn.dma_load_tiles": of(PLACES, hbm(4, 128, 512)),
    "trn.dma_store": of(ROWS),
    "trn.dma_gather": of(ROWS, hbm(4096, 512), hbm(128, dtype=I32)),
    "trn.dma_gather_rows": of(ROWS, hbm(4096, 512), sbuf(128, 1, dtype=I32)),
    "trn.dma_scatter_rows": of(hbm(4096, 512), ROWS, sbuf(128, 1, dtype=I32)),
    "trn.dma_scatter_add": of(hbm(4096, 512), ROWS, sbuf(128, 1, dtype=I32)),
    "trn.dma_sum2": of(ROWS, hbm(128, 512), hbm(128, 512)),
    "trn.dma_sum3": of(ROWS, hbm(128, 512), hbm(128, 512), hbm(128, 512)),
    "trn.dma_copy": of(ROWS, ROWS),
    "trn.dma_transpose": of(sbuf(512, 128), hbm(128, 512)),
    "trn.dma_accumulate": of(ROWS, hbm(128, 512)),
    # between cores and chips
    "trn.send": Crossing(CHIPS, MIB, lambda x: trn.send_next(like(x), x, axis="x")),
    "trn.all_reduce": Crossing(
        CORES, MIB, lambda x: trn.all_reduce(like(x), x, axis="x")
    ),
    "trn.all_gather": Crossing(
        CORES, MIB, lambda x: trn.all_gather(like(x, 2), x, axis="x")
    ),
    "trn.reduce_scatter": Crossing(
        CORES, MIB, lambda x: trn.reduce_scatter(like(x, 1 / 2), x, axis="x")
    ),
    "trn.chip_all_reduce": Crossing(
        CHIPS, MIB, lambda x: trn.chip_all_reduce(like(x), x, axis="x")
    ),
    "trn.chip_all_gather": Crossing(
        CHIPS, MIB, lambda x: trn.chip_all_gather(like(x, 4), x, axis="x")
    ),
    "trn.chip_reduce_scatter": Crossing(
        CHIPS, MIB, lambda x: trn.chip_reduce_scatter(like(x, 1 / 4), x, axis="x")
    ),
    "trn.chip_all_to_all": Crossing(
        CHIPS, MIB, lambda x: trn.chip_all_to_all(like(x), x, axis="x")
    ),
    "trn.chip_broadcast": Crossing(
        CHIPS, MIB, lambda x: trn.chip_broadcast(like(x), x, 0, axis="x")
    ),
    "trn.chip_all_to_all_rows": Crossing(
        CHIPS,
        MIB,
        lambda x: trn.chip_all_to_all_rows(like(x), x, even(256, 4), x, axis="x"),
    ),
    "trn.all_to_all_rows": Crossing(
        CORES,
        (1, 1024, 512),
        lambda x: trn.all_to_all_rows(halves(x), x, even(1024, 1), axis="x"),
    ),
    "trn.sendrecv": Crossing(
        CORES, (128, 512), lambda x: trn.sendrecv(like_tile(x), loaded(x), axis="x")
    ),
    "trn.core_barrier": Crossing(
        CORES, (128, 512), lambda x: trn.core_barrier(loaded(x), axis="x")
    ),
    # a PE
    "wse.sram_tile": of(shape=(256,), dtype=F32),
    "wse.fill": of(WORDS, value=0.0),
    "wse.vector": of(WORDS, WORDS, WORDS, op="add"),
    "wse.vector_scale": of(WORDS, WORDS, ONE),
    "wse.copy": of(WORDS, WORDS),
    "wse.copy_into": of(sram(4, 256), sram(1, 256), I, axis=0),
    "wse.rope": of(sram(1, 256), sram(1, 256), sram(128), sram(128)),
    "wse.fmac_map": of(sram(64), sram(32, 64), sram(32)),
    "wse.score_map": of(sram(4, 64), sram(32, 64), sram(4, 32), COUNT),
    "wse.value_map": of(sram(4, 32), sram(64, 32), sram(4, 64), COUNT),
    "wse.square_sum": of(ONE, WORDS),
    "wse.fold": of(sram(4), sram(4, 64), COUNT, op="max"),
    "wse.exp": of(sram(4, 64), sram(4, 64), sram(4), COUNT, scale=1.0),
    "wse.vector_live": of(SLOTS, SLOTS, sram(1, 64), COUNT, op="add"),
    "wse.vector_of_one_live": of(SLOTS, SLOTS, COUNT, op="neg"),
    "wse.select_live": of(SLOTS, sram(1, 64, dtype=I16), SLOTS, SLOTS, COUNT),
    "wse.scalar_of_one_live": of(
        SLOTS, SLOTS, COUNT, op="tanh", arithmetic="float32", opens=True
    ),
    "wse.scalar_of_two_live": of(
        SLOTS, SLOTS, SLOTS, COUNT, op="div", arithmetic="float32", opens=True
    ),
    "wse.scalar_select_live": of(
        *(SLOTS, sram(1, 64, dtype=I16), SLOTS, SLOTS, COUNT),
        arithmetic="float32",
        opens=True,
    ),
    "wse.lookup_live": of(SLOTS, sram(32), sram(1, 64, dtype=I32), COUNT, opens=True),
    "wse.row_live": of(SLOTS, sram(32, 64), sram(1, 1), COUNT, entries=32),
    "wse.widen_live": of(
        sram(4, 64, dtype=jnp.bfloat16), sram(4, 64, dtype=jnp.int8), COUNT, axis=1
    ),
    "wse.silu": of(WORDS, WORDS, count=256),
    "wse.rsqrt_mean": of(ONE, ONE, n=4096, eps=1e-5),
    "wse.reciprocal": of(WORDS, WORDS),
    "wse.lookup": of(sram(32), sram(32, 64), sram(1, dtype=I32), I),
    "wse.chosen_map": of(sram(8, 4), sram(256, 7, 4), sram(7), sram(8)),
    "wse.copy_chosen": of(
        *(sram(7, 32, dtype=jnp.int8), sram(256, 7, 4, dtype=jnp.int8), sram(8)),
        axis=1,
    ),
    "wse.outranked": of(sram(4), sram(4), sram(8), I, I, count=256, block=256),
    "wse.renumbered": of(sram(4), sram(8), I, I),
    "wse.best_sums": of(sram(8), sram(4), sram(4), I, best=2, block=32),
    "wse.of_best_blocks": of(sram(8), sram(8), sram(8), I, best=4, block=32),
    "wse.listed": of(sram(2, 8), sram(4), sram(4), I, count=256),
    "wse.argmax": of(ONE, sram(1, dtype=I32), WORDS, COUNT, I),
    # between PEs
    "wse.gather": Crossing(
        PES, (64,), lambda x: wse.gather(held(8, 64), x, axis="x"), F32
    ),
    "wse.scatter": Crossing(
        PES, (8, 64), lambda x: wse.scatter(held(64), x, axis="x"), F32
    ),
    "wse.multicast": Crossing(
        PES, (64,), lambda x: wse.multicast(held(64), x, axis="x"), F32
    ),
    "wse.multicast_2d": Crossing(
        GRID, (64,), lambda x: wse.multicast_2d(held(64), x, axes=("y", "x")), F32
    ),
    "wse.reduce": Crossing(
        PES, (64,), lambda x: wse.reduce(held(64), x, axis="x"), F32
    ),
    "wse.ring_all_reduce": Crossing(
        PES, (64,), lambda x: wse.ring_all_reduce(held(64), x, axis="x"), F32
    ),
    "wse.shift": Crossing(
        PES, (64,), lambda x: wse.shift(held(64), x, axis="x", by=1), F32
    ),
    "wse.chain_argmax": Crossing(
        PES,
        (1,),
        lambda x: wse.chain_argmax(held(1), held(1, dtype=I32), x, zero(), axis="x"),
        F32,
    ),
    "wse.walk": Crossing(PES, (64,), lambda x: wse.walk(held(64), x, 2, axis="x"), F32),
    "wse.cross": Crossing(
        PES, (64,), lambda x: wse.cross(held(64), x, 2, axis="x"), F32
    ),
}


def even(rows: int, parts: int) -> jax.Array:
    """As many rows for each part."""
    return jnp.full(parts, rows, jnp.int32)


def halves(x: jax.Array) -> jax.Array:
    """A fresh buffer for half of the columns of two cores."""
    *rows, columns = x.shape
    return trn.hbm(2, *rows, columns // 2, dtype=x.dtype)


def like(x: jax.Array, times: float = 1) -> jax.Array:
    """A fresh HBM buffer of `times` as many rows."""
    return trn.hbm(int(times * x.shape[0]), *x.shape[1:], dtype=x.dtype)


def like_tile(x: jax.Array) -> jax.Array:
    """A fresh tile in SBUF."""
    return trn.sbuf(*x.shape, dtype=x.dtype)


def loaded(x: jax.Array) -> jax.Array:
    """A tile in SBUF with what HBM holds."""
    return trn.dma_load(like_tile(x), x)


def held(*shape: int, dtype: Any = F32) -> jax.Array:
    """A fresh tile in a PE's SRAM."""
    return wse.sram_tile(shape=shape, dtype=dtype)


def zero() -> jax.Array:
    """An index in a PE's SRAM, written, as what is read must be."""
    return wse.fill(held(1, dtype=I32), value=0)


# --- what the rules say ---


@dataclasses.dataclass(frozen=True)
class Price:
    """What an instruction's example costs on one device; None where it refuses the example."""

    engine: str | None
    busy: str
    ready: str
    flops: str


def price(inst: Instruction, device: Device) -> Price | None:
    example = EXAMPLES.get(inst.name)
    if example is None:
        return None
    if isinstance(example, Crossing):
        return _crossing_price(example, device)
    try:
        cost: Cost = inst.cost(device, *example.operands, **example.params)
    except EmulationError:
        return None
    if cost.engine is None or not cost.busy_cycles:
        return Price(None, "0", "0", "0")
    busy_cycles = float(np.max(cost.busy_cycles))
    latency_cycles = max(float(np.max(cost.latency_cycles)), busy_cycles)
    flops = f"{cost.flops:,}" if cost.flops else "0"
    return Price(cost.engine, f"{busy_cycles:,.0f}", f"{latency_cycles:,.0f}", flops)


def _crossing_price(example: Crossing, device: Device) -> Price:
    """From the clock: when the last of the mesh has its result, all having started together."""
    if device.core == "NeuronCore":
        sheet = trn.with_cores(device.sheet, 2)  # type: ignore[arg-type]
        device = sheet.at(device.band)
    whole = (*example.mesh.values(), *example.shape)
    struct = jax.ShapeDtypeStruct(whole, example.dtype)
    program = Program(example.call, example.mesh, (tuple(example.mesh),))
    reading = program.read(device, struct)
    engine = max(reading.busy_ticks, key=lambda name: reading.busy_ticks[name])
    seconds = f"{reading.seconds * 1e6:,.3g}"
    return Price(engine, seconds, seconds, "0")


def limits(inst: Instruction, devices: list[Device]) -> list[str]:
    """What the cost rules refuse when one dimension of one operand grows, and where."""
    example = EXAMPLES.get(inst.name)
    if not isinstance(example, Example):
        return []
    refusing: dict[str, list[str]] = {}
    for device in devices:
        for at, operand in enumerate(example.operands):
            for dim in range(len(operand.shape)):
                refusal = _first_refusal(inst, device, example, at, dim)
                names = refusing.setdefault(refusal, []) if refusal else []
                if device.name not in names:
                    names.append(device.name)
    everywhere = [device.name for device in devices]
    return [
        message if names == everywhere else f"{message} ({', '.join(names)})"
        for message, names in refusing.items()
    ]


def _first_refusal(
    inst: Instruction, device: Device, example: Example, at: int, dim: int
) -> str | None:
    operands = list(example.operands)
    shape = list(operands[at].shape)
    while shape[dim] < MOST:
        shape[dim] *= 2
        operands[at] = dataclasses.replace(operands[at], shape=tuple(shape))
        try:
            inst.cost(device, *operands, **example.params)
        except EmulationError as refused:
            # The value that was tried says nothing; what is allowed does. Operands that do not go
            # with each other are refused too, but that is no limit.
            limit = re.search(r": (.*) is [\d,]+, at most ([\d,]+)", str(refused))
            return f"{limit[1]}: at most {limit[2]}" if limit else None
        except (ValueError, TypeError, IndexError, ZeroDivisionError):
            return None  # operands that do not fit together: no limit of the machine
    return None


# --- Markdown ---


def face(inst: Instruction) -> Any:
    """What a kernel calls: the instruction, or the public function of its name."""
    machine, _, short = inst.name.partition(".")
    package = MACHINES[machine][1] if machine in MACHINES else None
    public = getattr(package, short, None) or getattr(trn.isa, short, None)
    return public if callable(public) else inst


def signature(shown: Any, name: str) -> str:
    parts, keyword = [], False
    for parameter in inspect.signature(shown).parameters.values():
        if parameter.kind is parameter.VAR_KEYWORD:
            continue
        star = "*" if parameter.kind is parameter.VAR_POSITIONAL else ""
        keyword = keyword or bool(star)
        if parameter.kind is parameter.KEYWORD_ONLY and not keyword:
            keyword = True
            parts.append("*")
        default = parameter.default
        has_default = default is not parameter.empty
        shown_default = getattr(default, "__name__", repr(default))
        parts.append(
            f"{star}{parameter.name}" + (f"={shown_default}" if has_default else "")
        )
    return f"{name}({', '.join(parts)})"


def spaces(inst: Instruction) -> str:
    """Operands and results with the memory space of each."""
    names = [
        p.name
        for p in inspect.signature(inst).parameters.values()
        if p.kind is p.POSITIONAL_OR_KEYWORD
    ]
    results = [f"{names[i]} {_space(inst.writes[i])}" for i in range(inst.destinations)]
    if not inst.in_place:
        results = [f"a fresh buffer {_space(space)}" for space in inst.writes]
    visible = inspect.signature(face(inst)).parameters
    sources = [
        f"{name} {_space(space)}"
        for name, space in zip(names[inst.destinations :], inst.reads, strict=True)
        if name in visible
    ]
    words = []
    if sources:
        words.append(f"Reads {', '.join(sources)}.")
    if results:
        words.append(f"Writes {', '.join(results)}.")
    if inst.partial:
        words.append("A partial write: the rest of the destination is kept.")
    elif inst.reads_destination:
        words.append("The old content of the destination matters.")
    return " ".join(words)


def _space(space: Any) -> str:
    if space is None:
        return "in any memory"
    names = (space,) if isinstance(space, str) else space
    said = {
        "register": "a known integer",
        "count": "a known integer",
        "counts": "known integers",
    }
    return " or ".join(said.get(name, f"in {name.upper()}") for name in names)


def described(doc: str) -> str:
    """A docstring as Markdown: sections in bold, arguments as a list."""
    lines = []
    for line in inspect.cleandoc(doc).splitlines():
        section = re.fullmatch(r"(\w+):", line)
        item = re.fullmatch(r"  ([\w, *]+): (.*)", line)
        if section:
            lines.append(f"**{section[1]}**\n")
        elif item:
            lines.append(f"- `{item[1]}`: {item[2]}")
        else:
            lines.append(line)
    return "\n".join(lines)


def costs(inst: Instruction, devices: list[Device]) -> str:
    example = EXAMPLES.get(inst.name)
    if example is None or not devices:
        return ""
    crossing = isinstance(example, Crossing)
    heads = (
        ["us"] if crossing else ["engine busy, cycles", "result after, cycles", "FLOPs"]
    )
    rows = [f"| | {' | '.join(heads)} |", "|---" * (1 + len(heads)) + "|"]
    for device in devices:
        found = price(inst, device)
        if found is None:
            cells = ["–"] * len(heads)
        elif crossing:
            cells = [found.busy]
        else:
            cells = [found.busy, found.ready, found.flops]
        rows.append(f"| {device.name} | {' | '.join(cells)} |")
    return f"Cost of {_example(example)}:\n\n" + "\n".join(rows)


def _example(example: Example | Crossing) -> str:
    if isinstance(example, Crossing):
        tiles = f"{np.dtype(example.dtype).name}{list(example.shape)} on each"
        return f"{tiles} of {' x '.join(map(str, example.mesh.values()))}"
    tiles = [
        f"{x.dtype.name}{list(x.shape)}"
        for x in example.operands
        if x.space not in ("register", "count")
    ]
    params = [f"{k}={v!r}" for k, v in example.params.items() if k != "dtype"]
    return ", ".join([*tiles, *params]) or "one"


def section(inst: Instruction, devices: list[Device]) -> str:
    """An instruction's entry: signature, words, memory spaces, cost and limits."""
    shown = face(inst)
    short = inst.name.rpartition(".")[2]
    parts = [
        f"#### `{short}`",
        f"```python\n{signature(shown, short)}\n```",
        described(inspect.getdoc(shown) or ""),
        spaces(inst),
        costs(inst, devices),
    ]
    refused = limits(inst, [device for device in devices if price(inst, device)])
    if refused:
        listed = "\n".join(f"- {message}" for message in refused)
        parts.append(f"Limits:\n\n{listed}")
    return "\n\n".join(part for part in parts if part)


def markdown() -> str:
    """The whole list."""
    pages = [
        "# Instructions",
        "Generated by `docs/instructions.py` from the declarations and the cost rules. Costs are "
        "nominal; *result after* is from the start to a dependent's earliest start, without the "
        "hand-over between engines.",
        "Any of them writes part of a tile or buffer that there is: "
        "`tensor_copy.at[:, i, ds(j, 512)](dst, src)` is `dst[:, i, j:j+512] = src`, and "
        '`tensor_tensor.at[:, i](dst, old, src, op="add")` is `dst[:, i] += src` (`ds` and `old` '
        "are of `emu`). It costs what a tile of the part's shape costs; the rest is kept.",
    ]
    for machine, (title, _, devices) in MACHINES.items():
        pages.append(f"## {title}")
        of_engine: dict[str, list[Instruction]] = {}
        for inst in registered():
            if inst.name.startswith(f"{machine}."):
                of_engine.setdefault(_engine(inst, devices), []).append(inst)
        for engine in sorted(of_engine, key=_order):
            pages.append(f"### {engine}")
            pages += _by_module(of_engine[engine], devices)
    both = [inst for inst in registered() if "." not in inst.name]
    pages.append("## Both machines")
    pages += [section(inst, []) for inst in both]
    return "\n\n".join(pages) + "\n"


def _by_module(instructions: list[Instruction], devices: list[Device]) -> list[str]:
    """Each file's words, with its formulas and their sources, and then its instructions."""
    pages = []
    for module in dict.fromkeys(inst.__module__ for inst in instructions):
        pages.append(described(sys.modules[module].__doc__ or ""))
        here = [inst for inst in instructions if inst.__module__ == module]
        pages += [section(inst, devices) for inst in here]
    return pages


def _engine(inst: Instruction, devices: list[Device]) -> str:
    found = [p for p in (price(inst, device) for device in devices) if p]
    engine = found[-1].engine if found else None
    return ENGINES.get(engine, str(engine))


def _order(engine: str) -> int:
    known = list(dict.fromkeys(ENGINES.values()))
    return known.index(engine) if engine in known else len(known)


if __name__ == "__main__":
    print(markdown(), end="")
