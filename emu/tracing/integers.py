"""Integers the clock knows: loop indices, core indices, lengths, and arithmetic on them.

A known value is an integer array whose leading dimensions are the mesh's (each of full size or 1)
and whose trailing ones are the variable's own. Whole ranges of loop iterations are evaluated at
once by adding one more leading dimension, `lead`, in front of the mesh's.

Example: on a mesh of 3 x 4 cores the index along the first axis is `[[0], [1], [2]]`, of shape
`[3, 1]`; a table of 8 numbers that all cores hold has shape `[1, 1, 8]`.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

# Of 8 bytes each these are 34 MB.
MAX_KNOWN_ELEMENTS = 1 << 22

Integers: TypeAlias = np.ndarray
"""A known value, or booleans that were compared from some."""

Params: TypeAlias = Mapping[str, Any]
"""An equation's parameters, as JAX names them."""


def evaluate(
    name: str, params: Params, xs: list[Integers], lead: int
) -> Integers | None:
    """The result of primitive `name` on known operands, or None where there is no rule.

    Args:
      name: primitive name.
      params: its parameters.
      xs: known operands, each with `lead` leading dimensions.
      lead: how many leading dimensions precede the variable's own.
    """
    if elementwise := _ELEMENTWISE.get(name):
        rank = max(x.ndim for x in xs)
        # Integers wrap around here as they do in XLA.
        with np.errstate(all="ignore"):
            return elementwise(*[_of_rank(rank, x) for x in xs])
    if shaped := _SHAPED.get(name):
        return shaped(lead, *xs, **params)
    return None


def iota(params: Params, lead: int) -> Integers | None:
    """The known value of an `iota` equation, or None where it is too large to carry."""
    shape = params["shape"]
    dimension = params["dimension"]
    dtype = params["dtype"]
    if not np.issubdtype(dtype, np.integer):
        return None
    if math.prod(shape) > MAX_KNOWN_ELEMENTS:
        return None
    places = np.arange(shape[dimension], dtype=dtype)
    # Of shape `[2, 3]` along dimension 0 the 2 places are `[2, 1]`, repeated over the 3.
    column = _of_rank(len(shape) - dimension, places)
    own = np.broadcast_to(column, shape)
    return np.expand_dims(own, tuple(range(lead)))


def _of_rank(rank: int, x: Integers) -> Integers:
    """`x` with dimensions of 1 behind its own.

    NumPy lines shapes up at the end, but known values share their leading dimensions: a core's
    index, `[3, 1]`, must be `[3, 1, 1]` to be added to a table of `[1, 1, 8]`.
    """
    missing = rank - x.ndim
    return x.reshape(*x.shape, *(1,) * missing)


# --- elementwise rules ---


def choose(which: Integers, cases: Sequence[Integers]) -> Integers:
    """`cases[which]`; `which` may lack the cases' trailing dimensions."""
    # On a mesh of 3 it may be `[3]` and the cases `[3, 8]`: as `[3, 1]` it chooses a row for each
    # core.
    which = _of_rank(cases[0].ndim, which)
    chosen = cases[0]
    for number, case in enumerate(cases[1:], 1):
        chosen = np.where(which == number, case, chosen)
    return chosen


def _select(which: Integers, *cases: Integers) -> Integers:
    return choose(which, cases)


def _div(a: Integers, b: Integers) -> Integers:
    """Integer division towards zero, as XLA divides; by zero all bits are set.

    NumPy's `//` rounds down: -7 // 2 is -4, where XLA gives -3. It is one too low exactly where
    something remains and the signs differ. (Magnitudes do not help: the least integer has none.)
    """
    by_zero = b == 0
    divisor = np.where(by_zero, 1, b)
    down = a // divisor
    is_too_low = (np.fmod(a, divisor) != 0) & ((a < 0) != (divisor < 0))
    quotient = np.where(is_too_low, down + 1, down)
    all_bits = ~np.zeros_like(a)
    return np.where(by_zero, all_bits, quotient).astype(a.dtype)


def _rem(a: Integers, b: Integers) -> Integers:
    """The remainder with the dividend's sign; by zero the dividend, as in XLA."""
    by_zero = b == 0
    divisor = np.where(by_zero, 1, b)
    # NumPy's `%` has the divisor's sign: -7 % 2 is 1, where XLA, as `fmod` does, gives -1.
    return np.where(by_zero, a, np.fmod(a, divisor)).astype(a.dtype)


def _shift_right_arithmetic(x: Integers, by: Integers) -> Integers:
    """Copies the highest bit, of unsigned integers too: 254 of 8 bits is then -2."""
    signed = np.dtype(f"i{x.dtype.itemsize}")
    return (x.astype(signed) >> by.astype(signed)).astype(x.dtype)


def _shift_right_logical(x: Integers, by: Integers) -> Integers:
    """Moves zeros in, into signed integers too: -2 of 8 bits is then 254."""
    unsigned = np.dtype(f"u{x.dtype.itemsize}")
    return (x.astype(unsigned) >> by.astype(unsigned)).astype(x.dtype)


def _clamp(low: Integers, x: Integers, high: Integers) -> Integers:
    return np.minimum(np.maximum(x, low), high)


def _unchanged(x: Integers) -> Integers:
    return x


_ELEMENTWISE: dict[str, Callable[..., Integers]] = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": _div,
    "rem": _rem,
    "min": np.minimum,
    "max": np.maximum,
    "neg": np.negative,
    "sign": np.sign,
    "abs": np.abs,
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
    "eq": np.equal,
    "ne": np.not_equal,
    "clamp": _clamp,
    "stop_gradient": _unchanged,
    "and": np.bitwise_and,
    "or": np.bitwise_or,
    "xor": np.bitwise_xor,
    "not": np.invert,
    "select_n": _select,
    "shift_left": np.left_shift,
    "shift_right_arithmetic": _shift_right_arithmetic,
    "shift_right_logical": _shift_right_logical,
}


# --- rules that need the shape: `(lead, *operands, **parameters of the equation)` ---


def _convert(lead: int, x: Integers, *, new_dtype: Any, **_: Any) -> Integers | None:
    if new_dtype == np.bool_ or np.issubdtype(new_dtype, np.integer):
        return x.astype(new_dtype)
    return None


def _squeeze(
    lead: int, x: Integers, *, dimensions: Sequence[int], **_: Any
) -> Integers:
    axes = [lead + dimension for dimension in dimensions]
    return np.squeeze(x, tuple(axes))


def _reshape(lead: int, x: Integers, *, new_sizes: Sequence[int], **_: Any) -> Integers:
    # Leading dimensions stay as they are, 1 or full: cores still agree where they did.
    return x.reshape(*x.shape[:lead], *new_sizes)


def _broadcast(
    lead: int,
    x: Integers,
    *,
    shape: Sequence[int],
    broadcast_dimensions: Sequence[int],
    **_: Any,
) -> Integers:
    """The operand's dimension i becomes the result's `broadcast_dimensions[i]`.

    Example: 8 numbers to shape `[4, 8, 2]` along dimension 1: reshaped to `[1, 8, 1]`, repeated.
    """
    leading = x.shape[:lead]
    own = [1] * len(shape)
    for size, target in zip(x.shape[lead:], broadcast_dimensions, strict=True):
        own[target] = size
    spread = x.reshape(*leading, *own)
    # A view: what is repeated takes no memory.
    return np.broadcast_to(spread, (*leading, *shape))


def _slice(
    lead: int,
    x: Integers,
    *,
    start_indices: Sequence[int],
    limit_indices: Sequence[int],
    strides: Sequence[int] | None,
    **_: Any,
) -> Integers:
    steps = strides or (1,) * len(start_indices)
    ranges = zip(start_indices, limit_indices, steps, strict=True)
    own = [slice(start, limit, step) for start, limit, step in ranges]
    return x[(..., *own)]


def _dynamic_slice(
    lead: int, x: Integers, *starts: Integers, slice_sizes: Sequence[int], **_: Any
) -> Integers:
    if all(start.size == 1 for start in starts):
        return _one_slice(lead, x, starts, slice_sizes)
    # Each core's part is a box, so it can be cut along one dimension after another.
    for axis, (start, size) in enumerate(zip(starts, slice_sizes, strict=True), lead):
        x = _slice_per_core(lead, x, start, size, axis)
    return x


def _one_slice(
    lead: int, x: Integers, starts: Sequence[Integers], sizes: Sequence[int]
) -> Integers:
    """The slice that all cores take alike: a view, because tables of whole rings are large."""
    own: list[slice] = []
    for start, size, length in zip(starts, sizes, x.shape[lead:], strict=True):
        first = _inside(start, size, length).item()
        own.append(slice(first, first + size))
    return x[(..., *own)]


def _slice_per_core(
    lead: int, x: Integers, start: Integers, size: int, axis: int
) -> Integers:
    """`size` elements along `axis` from each core's own `start`.

    Example: of `[10, 20, 30, 40]`, held by all, 2 elements from `[1, 3]`: the first of two cores
    has `[20, 30]`, and the second `[30, 40]`, as 3 is moved to 2.
    """
    first = _inside(start, size, x.shape[axis])
    leading = np.broadcast_shapes(x.shape[:lead], first.shape)
    x = np.broadcast_to(x, (*leading, *x.shape[lead:]))
    places = _of_rank(axis + 1, first) + np.arange(size)
    # NumPy wants an index for every element of the result.
    shape = (*x.shape[:axis], size, *x.shape[axis + 1 :])
    index = np.broadcast_to(_of_rank(x.ndim, places), shape)
    return np.take_along_axis(x, index, axis)


def _inside(start: Integers, size: int, length: int) -> Integers:
    """XLA moves a slice that would leave its operand to where it just fits."""
    # A start of 8 bits cannot hold the last place of a long table.
    return np.clip(start.astype(np.int64), 0, length - size)


_SHAPED: dict[str, Callable[..., Integers | None]] = {
    "convert_element_type": _convert,
    "squeeze": _squeeze,
    "reshape": _reshape,
    "broadcast_in_dim": _broadcast,
    "slice": _slice,
    "dynamic_slice": _dynamic_slice,
}
