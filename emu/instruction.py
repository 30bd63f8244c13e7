"""A device instruction: what it computes, what it costs and where its operands live, in one place.

An instruction is a decorated function. Its body is the meaning in plain `jax.numpy`; the decorator
holds the cost, the memory spaces and, for instructions that cross cores, the arrival. Each becomes
a JAX primitive, so `jit`, `vmap`, `shard_map`, `jvp` and `make_jaxpr` work on kernels unchanged:
running the jaxpr gives the numbers, reading it gives the clock.
"""

import dataclasses
import functools
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, Protocol, TypeAlias, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from emu import given, numerics, parameters
from emu.annotations import ShapeAndDtype
from emu.errors import EmulationError, LimitExceeded, NoCostRule, WrongShape
from emu.mapped import mapped
from emu.regions import Part
from emu.tracing import jaxpr as jx
from emu.tracing import side_by_side
from emu.tracing.jaxpr import caller
from emu.tracing.unrounded import unrounded
from emu.tracing.used import used

if TYPE_CHECKING:
    from emu.boxes import Places

Spaces: TypeAlias = str | tuple[str, ...] | None
"""Memory spaces an operand may lie in: a name, several, or None for any."""

P = ParamSpec("P")
R = TypeVar("R")

Stacked: TypeAlias = Callable[..., list[jax.Array]]
"""`(size, is_stacked, operands, params)` to results `[size, ...]`, each operand stacked or not."""
ShapeRule: TypeAlias = Callable[
    [Sequence[ShapeAndDtype], Mapping[str, Any]], list[ShapeAndDtype]
]
"""`(operands, params)` to results, where these follow without tracing what is computed."""
ArrivalRule: TypeAlias = Callable[..., tuple[np.ndarray, np.ndarray]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cost:
    """What one execution of an instruction spends on one core.

    Attributes:
      engine: the in-order engine that executes it, a key of the device's engines; None takes no
        engine and no time, and is not counted.
      busy_cycles: that engine's cycles until it can start its next instruction; an array over the
        mesh where it depends on a known integer that differs between cores.
      latency_cycles: cycles until the result can be read; at least `busy_cycles`.
      flops: floating-point operations issued, a multiply-add counting 2.
      moved_bytes: traffic by `"space_read"` or `"space_write"`; None counts every source operand
        as read and every result as written once.
      counts: further counters, such as `wavelet_hops` or `link_bytes`.
      interval_cycles: cycles from its start before which the engine starts no other, whatever is
        taken from the engine meanwhile.
      handover_cycles: cycles of its engine from the written result to a dependent's start.
      lead_cycles: operand to the cycles it must be ready before the start, such as the stationary
        tile of a matmul; the operand is named by its place, destinations included.
      lost: by cause, the part of `busy_cycles` in which no work is done, such as an exposed load
        of weights; reports split it off.
      taken: engine to the cycles of that engine this instruction takes away without waiting for
        it: DMA queues share the same DMA engines.
      ports: memories whose port the engine shares with another, of those that the instruction
        accesses: one engine uses such a port at a time.
      duty: share of the engine in use while it is busy, for an engine that throttles.
    """

    engine: str | None
    busy_cycles: Any = 0
    latency_cycles: Any = 0
    flops: int = 0
    moved_bytes: Mapping[str, int] | None = None
    counts: Mapping[str, int] = dataclasses.field(default_factory=dict)
    interval_cycles: Any = 0
    handover_cycles: Any = 0
    lead_cycles: Mapping[int, Any] = dataclasses.field(default_factory=dict)
    lost: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    taken: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    ports: tuple[str, ...] = ()
    duty: float = 1.0


@dataclasses.dataclass(frozen=True)
class Operand:
    """What a cost rule sees of an operand: its shape, dtype, memory space and, if known, value.

    `known` is an integer array broadcastable to the mesh; asking for it where the clock does not
    know the value raises `DataDependentBranch` with the kernel's line.

    `run` is given of a part of a buffer: how many of its elements, in order, lie one behind the
    other in memory, within a partition if it has any. None stands for all of a tile's.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    space: str
    known: Any = None
    run: int | None = None

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.size * self.dtype.itemsize

    @property
    def free(self) -> int:
        """Elements per partition: the size without the leading (partition) dimension."""
        return math.prod(self.shape[1:])


@dataclasses.dataclass(frozen=True)
class Crossing:
    """When every core of the mesh could start a collective, in ticks, for its arrival rule.

    `start_ticks`, `destination_idle_ticks`: `int64[*mesh]` (broadcastable dimensions of size 1 are
    already expanded). `busy_ticks`, `latency_ticks`: this instruction's cost on one core.
    """

    start_ticks: np.ndarray
    destination_idle_ticks: np.ndarray
    busy_ticks: np.ndarray
    latency_ticks: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class Instruction(Generic[P, R]):
    """A callable device instruction: calling it computes, `cost` prices it.

    To `help`, to `inspect.signature`, to editors and to type checkers it is the function that
    declares its meaning: it has that function's parameters, result, docstring, name and module.
    Operands are given by position, parameters by name.

    One on parts of its operands (`emu.boxes`) has the instruction it is made of as `base` and says
    in `parts` which they are; `stacked` is its meaning on several cores that take the same parts,
    and `shapes` says its results' shapes.
    """

    name: str
    meaning: Callable[P, R]
    cost: Callable[..., Cost]
    reads: tuple[Spaces, ...]
    writes: tuple[Any, ...]
    in_place: bool
    reads_destination: bool
    partial: bool
    effect: bool
    adds: bool
    adds_if: int | None
    across: bool
    arrival: ArrivalRule | None
    primitive: Primitive
    base: "Instruction[..., Any] | None" = None
    parts: tuple[Part, ...] = ()
    stacked: Stacked | None = None
    shapes: ShapeRule | None = None

    def __call__(self, *operands: P.args, **params: P.kwargs) -> R:
        arrays = self._checked(operands)
        settings = parameters.checked(self.name, self.meaning, params)
        # Under `shard_map` a literal 0, or a weight that all cores share, does not vary over the
        # mesh, and a loop whose carry begins so and comes back varying is refused. A core's tiles
        # are its own, whatever they hold, so all operands vary.
        results: Any = self.primitive.bind(*map(vary_with_mesh, arrays), **settings)
        # A fresh tile has no operand to take that from.
        if not arrays:
            results = [vary_with_mesh(r) for r in results]
        single = len(self.writes) == 1
        result: Any = results[0] if single else tuple(results)
        return result

    def _checked(self, operands: Sequence[Any]) -> list[jax.Array]:
        """The operands as arrays: as many as it takes, and whole numbers for registers."""
        destinations, sources = self.destinations, len(self.reads)
        if len(operands) != destinations + sources:
            given.refuse(
                f"{self.name}: {given.counted(len(operands), 'operand')}, must be "
                f"{given.counted(destinations, 'destination')} and "
                f"{given.counted(sources, 'source')}"
            )
        spaces = [None] * destinations + list(self.reads)
        arrays: list[jax.Array] = []
        for place, (operand, space) in enumerate(zip(operands, spaces, strict=True)):
            what = f"{self.name}: operand {place}"
            check = given.array
            if space in _REGISTERS:
                check = given.register
            elif space in COUNTS:
                check = given.registers
            arrays.append(check(what, operand))
        for part in self.parts:
            shape = arrays[part.operand].shape
            starts = [_plain(operands[place]) for place in part.registers]
            fault = part.region.fault(shape, starts)
            if fault is not None:
                given.refuse(f"{self.name}: operand {part.operand}{fault}")
        return arrays

    @property
    def at(self) -> "Places[R]":
        """The instruction on a part of its destination: `copy.at[:, i, ds(j, 512)](dst, src)`."""
        # There it is declared what an instruction on parts is, of which this file has no need.
        from emu.boxes import Places

        return Places(self)

    def __repr__(self) -> str:
        return f"<instruction {self.name}{inspect.signature(self)}>"

    @property
    def machine(self) -> str:
        """Whose it is: `trn` of `trn.nc_matmul` (see `emu.datasheet.machine`)."""
        machine, _, _ = self.name.partition(".")
        return machine

    @functools.cached_property
    def is_counted(self) -> bool:
        """Whether its cost depends on known integers."""
        return any(space in COUNTS for space in self.reads)

    @functools.cached_property
    def destinations(self) -> int:
        """How many leading operands are destinations."""
        return len(self.writes) if self.in_place else 0


# Memory spaces, so to speak, of integers that the clock follows: one whole number each, and in
# `counts` any number of them. A cost rule is shown those of `COUNTS`.
_REGISTERS = ("register", "count")
COUNTS = ("count", "counts")
_BY_PRIMITIVE: dict[Primitive, Instruction[..., Any]] = {}


def lookup(primitive: Primitive) -> Instruction[..., Any] | None:
    """The instruction behind a primitive, or None."""
    return _BY_PRIMITIVE.get(primitive)


def registered() -> list[Instruction[..., Any]]:
    """Every instruction that an imported module has declared, in the order of declaration."""
    return [inst for inst in _BY_PRIMITIVE.values() if inst.base is None]


def instruction(
    name: str,
    *,
    cost: Callable[..., Cost],
    reads: tuple[Spaces, ...],
    writes: str | tuple[str | tuple[str, ...], ...],
    in_place: bool = True,
    reads_destination: bool = False,
    partial: bool = False,
    effect: bool = False,
    adds: bool = False,
    adds_if: int | None = None,
    arrival: ArrivalRule | None = None,
) -> Callable[[Callable[P, R]], Instruction[P, R]]:
    """Declares a function as an instruction.

    What it computes in float32 or float64 is rounded before another instruction takes it. Between
    its own operations a meaning asks for that: `emu.numerics.rounded`.

    Args:
      name: dotted name as traces print it, such as `"trn.nc_matmul"`.
      cost: `(device, *operands: Operand, **params) -> Cost`; destinations come first. It raises
        `LimitExceeded` for operands larger than the hardware takes.
      reads: memory space of each source operand: a name, a tuple of allowed names, or None for
        any. `"register"` is a known integer scalar, `"count"` one whose value the cost depends
        on, `"counts"` an array of such.
      writes: memory space of each result, or a tuple of allowed ones.
      in_place: the leading operands are destinations, one per result: a result takes over its
        destination's buffer. False makes a fresh buffer (allocation, HBM output).
      reads_destination: the old content matters (accumulation, partial write).
      partial: writes only a range of its destination, disjoint from every other partial write
        since the last whole one: it keeps the rest and waits for readers, not for those writes.
      effect: done for its effect, so nobody has to read the result.
      adds: adds to what its destination holds, so somebody must have written that before.
      adds_if: the source, counted from 0, that says whether it adds: a register, 0 overwrites.
      arrival: for an instruction that crosses cores along `params["axis"]`:
        `(device, mesh, crossing, *operands, **params) -> (ready_ticks, free_ticks)`. Its meaning
        then takes every operand stacked over that axis, `[axis, ..., *shape]`, and returns results
        stacked the same way; the payload may carry further leading batch axes.
    """

    def declare(meaning: Callable[P, R]) -> Instruction[P, R]:
        primitive = Primitive(name)
        primitive.multiple_results = True
        inst = Instruction(
            name=name,
            meaning=meaning,
            cost=cost,
            reads=reads,
            writes=(writes,) if isinstance(writes, str) else writes,
            in_place=in_place,
            # What a partial write leaves alone must be there: a stale or lost destination is an
            # error.
            reads_destination=reads_destination or partial,
            partial=partial,
            effect=effect,
            adds=adds,
            adds_if=adds_if,
            across=arrival is not None,
            arrival=arrival,
            primitive=primitive,
        )
        return enrolled(inst)

    return declare


def enrolled(inst: Instruction[P, R]) -> Instruction[P, R]:
    """An instruction once JAX and `lookup` know it; it then looks like its meaning."""
    meaning = inst.meaning
    # Past the frozen dataclass: these are the function's own attributes, no fields.
    for attribute in functools.WRAPPER_ASSIGNMENTS:
        if hasattr(meaning, attribute):
            object.__setattr__(inst, attribute, getattr(meaning, attribute))
    # `inspect.signature` looks here for the parameters.
    object.__setattr__(inst, "__wrapped__", meaning)
    _register(inst)
    _BY_PRIMITIVE[inst.primitive] = inst
    return inst


def _plain(operand: Any) -> int | None:
    """A register that is a number when the kernel is traced, or None."""
    return int(operand) if isinstance(operand, int | np.integer) else None


def applied(
    inst: Instruction[..., Any], *operands: jax.Array, **params: Any
) -> list[jax.Array]:
    """What an instruction computes, as part of another's meaning: no instruction of its own.

    Raises:
      WrongShape: its operands do not go together.
      LimitExceeded: a result is not of the size of the tile it takes over.
    """
    _abstract_eval(inst, *[jax.typeof(x) for x in operands], **params)
    return _local(inst, *operands, **params)


def result_shapes(
    inst: Instruction[..., Any], operands: Sequence[Operand], params: Mapping[str, Any]
) -> list[ShapeAndDtype]:
    """Shapes and dtypes of an instruction's results."""
    shapes = tuple((operand.shape, operand.dtype) for operand in operands)
    return _traced(inst, shapes, tuple(sorted(params.items()))).results


@dataclasses.dataclass(frozen=True)
class _Meaning:
    """An instruction's meaning under parameters, as `emu.mapped` takes it."""

    inst: Instruction[..., Any]
    params: tuple[tuple[str, Any], ...]

    def __call__(self, *operands: jax.Array) -> list[jax.Array]:
        return _local(self.inst, *operands, **dict(self.params))

    def results(self, operands: tuple[ShapeAndDtype, ...]) -> list[ShapeAndDtype]:
        return _traced(self.inst, operands, self.params).results

    def uses(self, operands: tuple[ShapeAndDtype, ...]) -> tuple[bool, ...]:
        return _traced(self.inst, operands, self.params).used


def on_cores(
    inst: Instruction[..., Any],
    size: int,
    dims: Sequence[int | None],
    operands: Sequence[jax.Array],
    params: Mapping[str, Any],
) -> list[jax.Array]:
    """What an instruction computes on several cores, each result `[size, *shape]`.

    Args:
      inst: one that crosses no cores.
      size: how many cores.
      dims: of each operand the dimension that is the cores'; None: they share it.
      operands: of all cores.
      params: its parameters.
    """
    meaning = _Meaning(inst, tuple(sorted(params.items())))
    return mapped(meaning, size, dims, operands)


def _register(inst: Instruction) -> None:
    """Tells JAX how to run, shape, compile, batch and differentiate an instruction's primitive."""
    primitive = inst.primitive
    apply = functools.partial(_gathered if inst.across else _local, inst)
    primitive.def_impl(apply)
    primitive.def_abstract_eval(functools.partial(_abstract_eval, inst))
    mlir.register_lowering(primitive, mlir.lower_fun(apply, multiple_results=True))
    # JAX's plain table of batchers does not say which axis is mapped, and a collective must know
    # whether it is its own.
    batching.fancy_primitive_batchers[primitive] = functools.partial(_batch, inst)
    ad.primitive_jvps[primitive] = functools.partial(_jvp, inst, apply)


def _as_list(results: Any) -> list[Any]:
    return list(results) if isinstance(results, tuple | list) else [results]


def _local(inst: Instruction, *operands: jax.Array, **params: Any) -> list[jax.Array]:
    """The meaning's results, each rounded to its dtype before another instruction sees it."""
    results = _as_list(inst.meaning(*operands, **params))
    avals = [jax.typeof(x) for x in operands]
    shapes = tuple((aval.shape, aval.dtype) for aval in avals)
    traced = _traced(inst, shapes, tuple(sorted(params.items())))
    pairs = zip(results, traced.unrounded, strict=True)
    return [numerics.rounded(x) if computed else x for x, computed in pairs]


def _gathered(
    inst: Instruction, *operands: jax.Array, **params: Any
) -> list[jax.Array]:
    """The meaning of a collective where a real mesh axis is bound: gather, compute, keep mine."""
    axis = params["axis"]
    # Every device computes the results of all, N times the work, because the meaning is written
    # once, for stacked operands: sums are then added in the order in which `vmap` adds them.
    stacked = [lax.all_gather(x, axis) for x in operands]
    mine = lax.axis_index(axis)
    results = _local(inst, *stacked, **params)
    return [lax.dynamic_index_in_dim(r, mine, 0, keepdims=False) for r in results]


# --- shapes ---


def _abstract_eval(
    inst: Instruction, *avals: ShapedArray, **params: Any
) -> list[ShapedArray]:
    operands = tuple((aval.shape, aval.dtype) for aval in avals)
    shapes = checked_shapes(inst, operands, params)
    return [jx.result_aval(shape, dtype, avals) for shape, dtype in shapes]


def checked_shapes(
    inst: Instruction[..., Any],
    operands: tuple[ShapeAndDtype, ...],
    params: Mapping[str, Any],
) -> list[ShapeAndDtype]:
    """Shapes and dtypes of an instruction's results on one core.

    Raises:
      WrongShape: its operands do not go together.
      LimitExceeded: a result is not of the size of the tile it takes over.
    """
    if inst.across:
        # Its meaning takes stacked operands, so it cannot say the shapes of one core's results.
        shapes = list(operands[: inst.destinations])
    elif inst.shapes is not None:
        shapes = inst.shapes(operands, params)
    else:
        try:
            shapes = _traced(inst, operands, tuple(sorted(params.items()))).results
        except (TypeError, ValueError) as error:
            raise _wrong_shape(inst, operands, error) from None
    # A result takes over its destination's buffer: of another size it would be held, and counted,
    # in bytes that are not its own.
    if inst.in_place:
        _check_destinations(inst, shapes, operands)
    return shapes


def _check_destinations(
    inst: Instruction,
    results: Sequence[ShapeAndDtype],
    operands: Sequence[ShapeAndDtype],
) -> None:
    """Raises `LimitExceeded` where a result is not of the size of the tile it takes over."""
    # Not strict: behind the destinations stand the sources.
    for i, (result, destination) in enumerate(zip(results, operands, strict=False)):
        if result != destination:
            raise LimitExceeded(
                f"{inst.name}: the result is {_described(result)} but destination {i} is "
                f"{_described(destination)}: give a tile of the result's shape and dtype",
                caller(),
            )


def _described(tile: ShapeAndDtype) -> str:
    shape, dtype = tile
    return f"{dtype}{list(shape)}"


def _wrong_shape(
    inst: Instruction, operands: Sequence[ShapeAndDtype], why: Exception
) -> WrongShape:
    """Names the kernel's own tiles, where JAX names shapes inside the instruction's meaning."""
    tiles = list(map(_described, operands))
    destinations, sources = tiles[: inst.destinations], tiles[inst.destinations :]
    taken = ""
    if sources:
        into = f" into {', '.join(destinations)}" if destinations else ""
        taken = f"cannot take {', '.join(sources)}{into}: "
    # JAX explains at length; what it says first is what is wrong.
    first_line, *_ = str(why).splitlines()
    reason = first_line.rstrip(".")
    return WrongShape(f"{inst.name}: {taken}{reason}", caller())


@dataclasses.dataclass(frozen=True)
class _Traced:
    """What a meaning's jaxpr says: its results' shapes, which have to be rounded, what it uses."""

    results: list[ShapeAndDtype]
    unrounded: tuple[bool, ...]
    used: tuple[bool, ...]


@functools.lru_cache(maxsize=4096)
def _traced(
    inst: Instruction,
    operands: tuple[ShapeAndDtype, ...],
    params: tuple[tuple[str, Any], ...],
) -> _Traced:
    # Kept by shape, because thousands of calls in a traced kernel have a handful of shapes, and
    # each evaluation traces the meaning anew.
    structs = [jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in operands]
    meaning = functools.partial(inst.meaning, **dict(params))
    body = jx.body(jax.make_jaxpr(meaning)(*structs))
    results = [(result.aval.shape, result.aval.dtype) for result in body.outvars]
    return _Traced(results=results, unrounded=unrounded(body), used=used(body))


# --- jax's transformations ---


class MappedAxis(Protocol):
    """What JAX says of the axis that `vmap` maps over."""

    name: Any
    size: int


def _batch(
    inst: Instruction,
    axis_data: MappedAxis,
    operands: Sequence[jax.Array],
    dims: Sequence[int | None],
    **params: Any,
) -> tuple[list[jax.Array], list[int]]:
    """Under `vmap`; over its own axis a collective needs every core's operands at once."""
    if not side_by_side.maps_cores(axis_data.name):
        raise _no_instruction(
            inst, "jax.vmap", "loop over the tiles with `emu.tiles` or `jax.lax.scan`"
        )
    size = axis_data.size
    if not inst.across:
        pairs = zip(operands, dims, strict=True)
        # For its errors alone: `vmap` of the meaning would let a result of `[128, 1]` stand for a
        # destination of `[128, 512]`, and whatever reads it would broadcast.
        _abstract_eval(inst, *[_of_one(x, dim) for x, dim in pairs], **params)
        if inst.stacked is not None and not _move_apart(inst, dims):
            pairs = zip(operands, dims, strict=True)
            # As they are where nothing has to move: a part is known by its buffer (`emu.boxes`).
            arrays = [jnp.moveaxis(x, dim, 0) if dim else x for x, dim in pairs]
            is_stacked = [dim is not None for dim in dims]
            results = inst.stacked(size, is_stacked, arrays, params)
            return results, [0] * len(results)
        results = on_cores(inst, size, dims, operands, params)
        return results, [0] * len(results)
    pairs = zip(operands, dims, strict=True)
    stacked = [_to_front(x, dim, size) for x, dim in pairs]
    # Example: a mesh of `y` and, within it, `x`. The inner `vmap`, over `x`, meets every collective
    # first. One over `x` it computes. One over `y` it hands on as `[x, ...]`; the outer `vmap`
    # stacks that to `[y, x, ...]` and computes, with x as a batch axis of the payload.
    if axis_data.name == params["axis"]:
        results = _local(inst, *stacked, **params)
    else:  # another axis of the mesh: carry it along in front of the payload
        results = inst.primitive.bind(*stacked, **params)
    return results, [0] * len(results)


def _move_apart(inst: Instruction, dims: Sequence[int | None]) -> bool:
    """Whether parts begin elsewhere on each core."""
    registers = [place for part in inst.parts for place in part.registers]
    return any(dims[place] is not None for place in registers)


def _no_instruction(
    inst: Instruction[..., Any], transformation: str, cure: str
) -> NoCostRule:
    """For a kernel that transforms an instruction where the clock reads it.

    What would remain is the meaning's own arithmetic, of which a machine has nothing: the clock
    would not see a store at all, whose meaning is `x -> x`.
    """
    return NoCostRule(
        f"{inst.name}: under {transformation} there is no instruction to time; {cure}",
        caller(),
    )


def _of_one(x: jax.Array, dim: int | None) -> ShapedArray:
    """The shape and dtype of one slice along a mapped dimension."""
    aval = jax.typeof(x)
    shape = list(aval.shape)
    if dim is not None:
        del shape[dim]
    return ShapedArray(tuple(shape), aval.dtype)


def _to_front(x: jax.Array, dim: int | None, size: int) -> jax.Array:
    if dim is None:  # not mapped; inside a scan a literal is no array yet
        x = jnp.asarray(x)
        return jnp.broadcast_to(x[None], (size, *x.shape))
    return jnp.moveaxis(x, dim, 0)


def _jvp(
    inst: Instruction[..., Any],
    apply: Callable[..., list[jax.Array]],
    primals: Sequence[jax.Array],
    tangents: Sequence[Any],
    **params: Any,
) -> tuple[Any, Any]:
    if side_by_side.is_of_a_machine():
        cure = "write the derivative as a kernel"
        raise _no_instruction(inst, "differentiation", cure)
    # An operand that is not differentiated has a symbolic zero, which is no array; `jax.jvp` takes
    # arrays.
    dense = [ad.instantiate_zeros(tangent) for tangent in tangents]
    applied = functools.partial(apply, **params)
    return jax.jvp(applied, tuple(primals), tuple(dense))


def vary_with_mesh(x: Any) -> Any:
    """Under `shard_map`, makes a value vary over the whole mesh, as every tile of a core does."""
    axes = frozenset(jax.sharding.get_abstract_mesh().manual_axes)
    aval = jax.typeof(x)
    if not axes or not hasattr(aval, "manual_axis_type"):
        return x
    missing = sorted(axes - aval.manual_axis_type.varying)
    return lax.pcast(x, tuple(missing), to="varying") if missing else x


# --- errors ---


def limit(instruction_name: str, what: str, actual: int, allowed: int) -> None:
    """Raises `LimitExceeded` when `actual` is more than the hardware's `allowed`."""
    if actual > allowed:
        raise LimitExceeded(
            f"{instruction_name}: {what} is {actual}, at most {allowed}"
        )


@instruction(
    "release",
    cost=lambda device, tile: Cost(engine=None),
    reads=(None,),
    writes=(),
    in_place=False,
    effect=True,
)
def release(tile: jax.Array) -> tuple[()]:
    """Marks the last use of a scratch tile whose content nobody needs: costs nothing."""
    return ()


__all__ = [
    "Cost",
    "Crossing",
    "EmulationError",
    "Instruction",
    "Operand",
    "instruction",
    "limit",
    "release",
]
