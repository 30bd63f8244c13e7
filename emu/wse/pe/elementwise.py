"""Arithmetic on the live slots of a tile, element by element: vector operations and scalar code.

A tile is `[rows, slots]`, of which the first `live` slots of every row count. An operand may be
`[1, slots]`, the same for all rows, `[rows, 1]`, a number for each row, or `[1, 1]`: a descriptor
with a stride of 0 reads it again, and one vector operation does all rows. Slots beyond hold NaN
afterwards, or the largest integer.

A PE has vector operations for `+ - * max neg abs` of float32, none that compares or chooses. Those
are made of 16-bit ones, on the two halves of a float32: the sign bit of `a - b`, shifted over the
whole half, says whether `a < b`, and `y ^ ((x ^ y) & mask)` chooses. A mask is therefore an int16
tile of 0 and -1, all bits clear or set. Everything else is scalar code, a loop over the elements.

Vector operations and their widths: Cerebras SDK 2.10, *Builtins for DSD operations* and *SIMD mode*
(`@fadds @fsubs @fmuls @fmaxs @fnegs @fabss`, `@and16 @or16 @xor16 @sar16`).
"""

from collections.abc import Callable, Mapping
from typing import TypeAlias

import jax.numpy as jnp
import numpy as np
from jax import lax

from emu import given, numerics
from emu.annotations import DType, KnownInt
from emu.datasheet import Device
from emu.errors import LimitExceeded
from emu.instruction import Cost, Operand, instruction
from emu.tracing.jaxpr import caller
from emu.wse.pe.isa import SPACE, unset
from emu.wse.pe.laws import (
    HALF,
    SINGLE,
    Count,
    Cycles,
    known_part,
    move_cycles,
    on_datapath,
    precision,
    vector_cycles,
)
from emu.wse.spaces import Sram

MASK = np.dtype("int16")
"""Of a mask: 0 or -1."""

Function: TypeAlias = Callable[..., Sram]

# --- vector operations ---


def _binary(device: Device, n: Count) -> Cycles:
    return vector_cycles(device, n, SINGLE)


def _unary(device: Device, n: Count) -> Cycles:
    return vector_cycles(device, n, SINGLE, descriptors=2)


def _halves(device: Device, n: Count) -> Cycles:
    return vector_cycles(device, n, HALF)


def _halves_by_number(device: Device, n: Count) -> Cycles:
    # A shift by 15, or an exclusive or with -1: the number is no operand to describe.
    return vector_cycles(device, n, HALF, descriptors=2)


def _minimum(device: Device, n: Count) -> Cycles:
    """`-max(-a, -b)`."""
    return 3 * _unary(device, n) + _binary(device, n)


def _less(device: Device, n: Count) -> Cycles:
    """The sign of a difference."""
    return _binary(device, n) + _halves_by_number(device, n)


def _not_less(device: Device, n: Count) -> Cycles:
    return _less(device, n) + _halves_by_number(device, n)


def _differ(device: Device, n: Count) -> Cycles:
    """The sign of `0 - |a - b|`, which is +0 where they are equal."""
    return _less(device, n) + 2 * _unary(device, n)


def _equal(device: Device, n: Count) -> Cycles:
    return _differ(device, n) + _halves_by_number(device, n)


def _row(device: Device, n: Count) -> Cycles:
    """One copy from a place that is worked out first: kept within the table, and its address."""
    return 4 * device.scalar_cycles + move_cycles(device, 4 * np.asarray(n))


def _select(device: Device, n: Count) -> Cycles:
    """`y ^ ((x ^ y) & mask)` on both halves of every element."""
    return 3 * _halves(device, 2 * np.asarray(n))


VECTOR_CYCLES: Mapping[str, Callable[[Device, Count], Cycles]] = {
    "add": _binary,
    "sub": _binary,
    "mul": _binary,
    "max": _binary,
    "min": _minimum,
    "neg": _unary,
    "abs": _unary,
    "lt": _less,
    "gt": _less,
    "le": _not_less,
    "ge": _not_less,
    "ne": _differ,
    "eq": _equal,
    "and": _halves,
    "or": _halves,
    "xor": _halves,
    "not": _halves_by_number,
    "select": _select,
    "row": _row,
}
"""Cycles of what is vector operations, by name: float32 arithmetic and comparisons, masks."""

_COMPARE: Mapping[str, Function] = {
    "lt": jnp.less,
    "gt": jnp.greater,
    "le": jnp.less_equal,
    "ge": jnp.greater_equal,
    "ne": jnp.not_equal,
    "eq": jnp.equal,
}
_LOGIC: Mapping[str, Function] = {
    "and": jnp.bitwise_and,
    "or": jnp.bitwise_or,
    "xor": jnp.bitwise_xor,
}
_VECTOR: Mapping[str, Function] = {
    "add": jnp.add,
    "sub": jnp.subtract,
    "mul": jnp.multiply,
    "max": jnp.maximum,
    "min": jnp.minimum,
    **_COMPARE,
    **_LOGIC,
}
_HALF = ("add", "sub", "mul", "max")
"""Operations that 16-bit floating-point numbers have too."""
_VECTOR_OF_ONE: Mapping[str, Function] = {
    "neg": jnp.negative,
    "abs": jnp.abs,
    "not": jnp.bitwise_not,
}


def _elements(name: str, dst: Operand, live: Operand) -> Count:
    rows, slots = dst.shape
    return rows * known_part(name, "live", live, slots)


def _moved(n: Count, dst: Operand, *sources: Operand) -> dict[str, Count]:
    """Bytes of `n` elements of every source and of the result; a number is read once."""
    read: Count = 0
    for source in sources:
        is_repeated = source.shape != dst.shape
        elements = np.minimum(n, source.size) if is_repeated else n
        read = read + elements * source.dtype.itemsize
    return {"sram_read": read, "sram_write": n * dst.dtype.itemsize}


def _check_shapes(name: str, dst: Sram, *sources: Sram) -> None:
    for source in sources:
        pairs = zip(source.shape, dst.shape, strict=False)
        fits = source.ndim == dst.ndim == 2 and all(x in (1, y) for x, y in pairs)
        if not fits:
            shapes = ", ".join(str(x.shape) for x in (dst, *sources))
            raise LimitExceeded(
                f"{name}: shapes must be [rows, slots], or 1 in place of either for a source, are "
                f"{shapes}",
                caller(),
            )


def _of_live(dst: Sram, result: Sram, live: KnownInt) -> Sram:
    """The result in the destination's dtype on live slots, and what nobody wrote beyond."""
    if result.dtype == bool:
        result = jnp.where(result, -1, 0)
    whole = jnp.broadcast_to(result.astype(dst.dtype), dst.shape)
    is_live = jnp.arange(dst.shape[1])[None] < live
    return jnp.where(is_live, whole, jnp.asarray(unset(dst.dtype), dst.dtype))


def _vector_cost(
    device: Device, dst: Operand, a: Operand, b: Operand, live: Operand, *, op: str
) -> Cost:
    n = _elements("wse.vector_live", dst, live)
    cycles = VECTOR_CYCLES[op](device, n)
    if op in _HALF and precision(dst.dtype, a.dtype, b.dtype) == HALF:
        cycles = vector_cycles(device, n, HALF)
    return on_datapath(cycles, n, moved_bytes=_moved(n, dst, a, b))


@instruction(
    "wse.vector_live",
    cost=_vector_cost,
    reads=(SPACE, SPACE, "count"),
    writes=SPACE,
)
def vector_live(dst: Sram, a: Sram, b: Sram, live: KnownInt, *, op: str) -> Sram:
    """`a op b` on the first `live` slots of every row.

    Args:
      dst: `[rows, slots]`: float32, or int16 for a mask; float16 or bfloat16 as `a` and `b`.
      a, b: alike, or 1 in place of rows, slots or both.
      live: known number of slots in use.
      op: add, sub, mul, max or min; lt, le, gt, ge, eq or ne, which give a mask (of two infinities
        of one sign, or of NaN, the machine's answer is not defined); and, or, xor of masks.
    """
    name = "wse.vector_live"
    given.one_of(f"{name}: op", op, _VECTOR)
    _check_shapes(name, dst, a, b)
    return _of_live(dst, _VECTOR[op](a, b), live)


def _vector_of_one_cost(
    device: Device, dst: Operand, x: Operand, live: Operand, *, op: str
) -> Cost:
    n = _elements("wse.vector_of_one_live", dst, live)
    return on_datapath(VECTOR_CYCLES[op](device, n), n, moved_bytes=_moved(n, dst, x))


@instruction(
    "wse.vector_of_one_live",
    cost=_vector_of_one_cost,
    reads=(SPACE, "count"),
    writes=SPACE,
)
def vector_of_one_live(dst: Sram, x: Sram, live: KnownInt, *, op: str) -> Sram:
    """`neg` or `abs` of float32, or `not` of a mask, on the first `live` slots of every row."""
    name = "wse.vector_of_one_live"
    given.one_of(f"{name}: op", op, _VECTOR_OF_ONE)
    _check_shapes(name, dst, x)
    return _of_live(dst, _VECTOR_OF_ONE[op](x), live)


def _select_cost(
    device: Device,
    dst: Operand,
    mask: Operand,
    on_true: Operand,
    on_false: Operand,
    live: Operand,
) -> Cost:
    n = _elements("wse.select_live", dst, live)
    moved = _moved(n, dst, mask, on_true, on_false)
    return on_datapath(_select(device, n), n, moved_bytes=moved)


@instruction(
    "wse.select_live",
    cost=_select_cost,
    reads=(SPACE, SPACE, SPACE, "count"),
    writes=SPACE,
)
def select_live(
    dst: Sram, mask: Sram, on_true: Sram, on_false: Sram, live: KnownInt
) -> Sram:
    """`on_true` where the mask is set, else `on_false`, bit by bit: NaN and infinity stay out.

    Args:
      dst: float32 `[rows, slots]`.
      mask: int16, alike, or 1 in place of rows, slots or both.
      on_true, on_false: float32, of such shapes too.
      live: known number of slots in use.
    """
    _check_shapes("wse.select_live", dst, mask, on_true, on_false)
    return _of_live(dst, jnp.where(mask != 0, on_true, on_false), live)


def _row_cost(
    device: Device,
    dst: Operand,
    table: Operand,
    place: Operand,
    live: Operand,
    *,
    entries: int,
) -> Cost:
    n = _elements("wse.row_live", dst, live)
    rows = dst.shape[0]
    nbytes = n * dst.dtype.itemsize
    # Kept within the table, its address; a place that is held as a float is converted first.
    simple = 4 + (place.dtype != np.dtype("int32"))
    each = simple * device.scalar_cycles + move_cycles(device, nbytes // rows)
    moved = {"sram_read": nbytes + rows * place.dtype.itemsize, "sram_write": nbytes}
    return on_datapath(rows * each, moved_bytes=moved)


@instruction(
    "wse.row_live", cost=_row_cost, reads=(SPACE, SPACE, "count"), writes=SPACE
)
def row_live(
    dst: Sram, table: Sram, place: Sram, live: KnownInt, *, entries: int
) -> Sram:
    """A row of a table for every row of `dst`, its first `live` slots: one copy each.

    Args:
      dst: `[rows, slots]`, of the table's dtype.
      table: `[rows * entries, slots]`, those of a row one below the other; or `[entries, slots]`,
        the same for all rows.
      place: `[rows, 1]` or `[1, 1]`, which entry, a whole number as int32 or float32; beyond the
        table the nearest one is taken.
      live: known number of slots in use.
      entries: of each row.
    """
    name = "wse.row_live"
    _check_shapes(name, dst, place)
    rows, slots = dst.shape
    given.whole(f"{name}: entries", entries, 1)
    if table.shape not in ((entries, slots), (rows * entries, slots)):
        raise LimitExceeded(
            f"{name}: table is {table.shape}, must be {entries} entries, or {rows} times as many, "
            f"of {slots} slots",
            caller(),
        )
    whole = jnp.nan_to_num(place) if place.dtype == jnp.float32 else place
    which = jnp.clip(whole.astype(jnp.int32), 0, entries - 1)
    which = jnp.broadcast_to(which[:, 0], (rows,))
    if table.shape[0] > entries:
        which = which + entries * jnp.arange(rows)
    return _of_live(dst, table[which], live)


# --- scalar code ---


def _simple(count: int) -> Callable[[Device], float]:
    return lambda device: count * device.scalar_cycles


def _with_divide(simple: int) -> Callable[[Device], float]:
    return lambda device: device.divide_cycles + simple * device.scalar_cycles


def _with_exp(simple: int) -> Callable[[Device], float]:
    return lambda device: device.exp_cycles + simple * device.scalar_cycles


def _with_both(simple: int) -> Callable[[Device], float]:
    return lambda device: (
        device.exp_cycles + device.divide_cycles + simple * device.scalar_cycles
    )


def _function(count: int) -> Callable[[Device], float]:
    return lambda device: count * device.function_cycles


def _branch(simple: int) -> Callable[[Device], float]:
    return lambda device: device.branch_cycles + simple * device.scalar_cycles


SCALAR_CYCLES: Mapping[str, Callable[[Device], float]] = {
    "add": _simple(1),
    "sub": _simple(1),
    "mul": _simple(1),
    "neg": _simple(1),
    "abs": _simple(1),
    "and": _simple(1),
    "or": _simple(1),
    "xor": _simple(1),
    "not": _simple(1),
    "shift_left": _simple(1),
    "shift_right_logical": _simple(1),
    "shift_right_arithmetic": _simple(1),
    "convert": _simple(1),
    # To an integer and back, and a correction by one where that rounded the wrong way.
    "floor": _simple(4),
    "ceil": _simple(4),
    "round": _simple(4),
    # A compare and a branch past the move.
    "max": _branch(1),
    "min": _branch(1),
    "lt": _branch(1),
    "le": _branch(1),
    "gt": _branch(1),
    "ge": _branch(1),
    "eq": _branch(1),
    "ne": _branch(1),
    "sign": lambda device: 2 * (device.scalar_cycles + device.branch_cycles),
    "is_finite": _branch(2),
    "select": _branch(1),
    "div": _with_divide(0),
    # The quotient, times the divisor, taken away.
    "rem": _with_divide(2),
    "sqrt": lambda device: device.sqrt_cycles,
    "rsqrt": lambda device: device.sqrt_cycles + device.divide_cycles,
    "exp": _with_exp(0),
    "exp2": _with_exp(1),
    "expm1": _with_exp(1),
    # 1 / (1 + exp(-x)), and 2 / (1 + exp(-2x)) - 1.
    "logistic": _with_both(2),
    "tanh": _with_both(4),
    "log": _function(1),
    "log1p": lambda device: device.function_cycles + device.scalar_cycles,
    "sin": _function(1),
    "cos": _function(1),
    "erf": _function(1),
    # exp(y * log(x)).
    "pow": lambda device: (
        device.function_cycles + device.scalar_cycles + device.exp_cycles
    ),
    # Kept within the table, and its address.
    "lookup": _simple(4),
}
"""Cycles of one element's operation in scalar code, by name; a loop's own are not among them."""

_SCALAR_OF_ONE: Mapping[str, Function] = {
    "neg": jnp.negative,
    "abs": jnp.abs,
    "not": jnp.bitwise_not,
    "convert": jnp.asarray,
    "floor": jnp.floor,
    "ceil": jnp.ceil,
    "round": jnp.round,
    "sign": jnp.sign,
    "is_finite": jnp.isfinite,
    "sqrt": jnp.sqrt,
    "rsqrt": lambda x: 1.0 / numerics.rounded(jnp.sqrt(x)),
    "exp": jnp.exp,
    "exp2": jnp.exp2,
    "expm1": jnp.expm1,
    "logistic": lambda x: 1.0 / (1.0 + numerics.rounded(jnp.exp(-x))),
    "tanh": jnp.tanh,
    "log": jnp.log,
    "log1p": jnp.log1p,
    "sin": jnp.sin,
    "cos": jnp.cos,
    "erf": lax.erf,
}
_SCALAR_OF_TWO: Mapping[str, Function] = {
    **_VECTOR,
    "div": lax.div,
    "rem": lax.rem,
    "pow": jnp.power,
    "shift_left": lax.shift_left,
    "shift_right_logical": lax.shift_right_logical,
    "shift_right_arithmetic": lax.shift_right_arithmetic,
}


def scalar_cycles(device: Device, op: str, arithmetic: DType, *held: DType) -> float:
    """Cycles of one element's operation, conversions to and from how values are held included."""
    converted = sum(jnp.dtype(x) not in (arithmetic, MASK) for x in held)
    return SCALAR_CYCLES[op](device) + converted * device.scalar_cycles


def _scalar_cost(
    device: Device,
    name: str,
    op: str,
    arithmetic: str,
    opens: bool,
    dst: Operand,
    sources: tuple[Operand, ...],
    live: Operand,
) -> Cost:
    n = _elements(name, dst, live)
    held = [operand.dtype for operand in (dst, *sources)]
    each = scalar_cycles(device, op, np.dtype(arithmetic), *held)
    if opens:
        each += device.loop_cycles
    return on_datapath(n * each, n, moved_bytes=_moved(n, dst, *sources))


def _worked_in(x: Sram, arithmetic: str) -> Sram:
    """An operand as arithmetic takes it; a mask as Booleans."""
    if x.dtype == MASK and arithmetic != "int16":
        return x != 0 if arithmetic == "bool" else (x != 0).astype(arithmetic)
    return x.astype(arithmetic)


def _scalar_of_one_cost(
    device: Device,
    dst: Operand,
    x: Operand,
    live: Operand,
    *,
    op: str,
    arithmetic: str,
    opens: bool,
) -> Cost:
    name = "wse.scalar_of_one_live"
    return _scalar_cost(device, name, op, arithmetic, opens, dst, (x,), live)


@instruction(
    "wse.scalar_of_one_live",
    cost=_scalar_of_one_cost,
    reads=(SPACE, "count"),
    writes=SPACE,
)
def scalar_of_one_live(
    dst: Sram, x: Sram, live: KnownInt, *, op: str, arithmetic: str, opens: bool
) -> Sram:
    """A function of one number, such as `exp`, in a loop over the first `live` slots of every row.

    Args:
      dst: `[rows, slots]`.
      x: alike, or 1 in place of rows, slots or both.
      live: known number of slots in use.
      op: what to do, such as `"tanh"`.
      arithmetic: dtype in which it is done; what is held in another is converted first.
      opens: whether a loop begins with it; if not, it is one more operation of the loop before.
    """
    name = "wse.scalar_of_one_live"
    given.one_of(f"{name}: op", op, _SCALAR_OF_ONE)
    _check_shapes(name, dst, x)
    return _of_live(dst, _SCALAR_OF_ONE[op](_worked_in(x, arithmetic)), live)


def _scalar_of_two_cost(
    device: Device,
    dst: Operand,
    a: Operand,
    b: Operand,
    live: Operand,
    *,
    op: str,
    arithmetic: str,
    opens: bool,
) -> Cost:
    name = "wse.scalar_of_two_live"
    return _scalar_cost(device, name, op, arithmetic, opens, dst, (a, b), live)


@instruction(
    "wse.scalar_of_two_live",
    cost=_scalar_of_two_cost,
    reads=(SPACE, SPACE, "count"),
    writes=SPACE,
)
def scalar_of_two_live(
    dst: Sram,
    a: Sram,
    b: Sram,
    live: KnownInt,
    *,
    op: str,
    arithmetic: str,
    opens: bool,
) -> Sram:
    """`a op b`, such as a division, as `scalar_of_one_live`."""
    name = "wse.scalar_of_two_live"
    given.one_of(f"{name}: op", op, _SCALAR_OF_TWO)
    _check_shapes(name, dst, a, b)
    operands = [_worked_in(x, arithmetic) for x in (a, b)]
    return _of_live(dst, _SCALAR_OF_TWO[op](*jnp.broadcast_arrays(*operands)), live)


def _scalar_select_cost(
    device: Device,
    dst: Operand,
    mask: Operand,
    on_true: Operand,
    on_false: Operand,
    live: Operand,
    *,
    arithmetic: str,
    opens: bool,
) -> Cost:
    name = "wse.scalar_select_live"
    sources = (mask, on_true, on_false)
    return _scalar_cost(device, name, "select", arithmetic, opens, dst, sources, live)


@instruction(
    "wse.scalar_select_live",
    cost=_scalar_select_cost,
    reads=(SPACE, SPACE, SPACE, "count"),
    writes=SPACE,
)
def scalar_select_live(
    dst: Sram,
    mask: Sram,
    on_true: Sram,
    on_false: Sram,
    live: KnownInt,
    *,
    arithmetic: str,
    opens: bool,
) -> Sram:
    """`on_true` where the mask is set, else `on_false`, as `scalar_of_one_live`."""
    _check_shapes("wse.scalar_select_live", dst, mask, on_true, on_false)
    cases = [_worked_in(x, arithmetic) for x in (on_true, on_false)]
    return _of_live(dst, jnp.where(mask != 0, *cases), live)


def _lookup_cost(
    device: Device,
    dst: Operand,
    table: Operand,
    index: Operand,
    live: Operand,
    *,
    opens: bool,
) -> Cost:
    n = _elements("wse.lookup_live", dst, live)
    # Only the index is a whole number; what is found is moved as it is.
    each = scalar_cycles(device, "lookup", np.dtype("int32"), index.dtype)
    if opens:
        each += device.loop_cycles
    return on_datapath(n * each, moved_bytes=_moved(n, dst, index, dst))


@instruction(
    "wse.lookup_live",
    cost=_lookup_cost,
    reads=(SPACE, SPACE, "count"),
    writes=SPACE,
)
def lookup_live(
    dst: Sram, table: Sram, index: Sram, live: KnownInt, *, opens: bool
) -> Sram:
    """`table[index]` of the first `live` slots of every row, in a loop over them.

    Args:
      dst: `[rows, slots]`, of the table's dtype.
      table: `[n]`, all of it in this PE.
      index: alike, whole numbers as int32 or float32; beyond the table the nearest entry is taken.
      live: known number of slots in use.
      opens: as for `scalar_of_one_live`.
    """
    _check_shapes("wse.lookup_live", dst, index)
    whole = jnp.nan_to_num(index) if index.dtype == jnp.float32 else index
    place = jnp.clip(whole.astype(jnp.int32), 0, table.shape[0] - 1)
    return _of_live(dst, table[place], live)


__all__ = [
    "MASK",
    "SCALAR_CYCLES",
    "VECTOR_CYCLES",
    "lookup_live",
    "row_live",
    "scalar_cycles",
    "scalar_of_one_live",
    "scalar_of_two_live",
    "scalar_select_live",
    "select_live",
    "vector_live",
    "vector_of_one_live",
]
