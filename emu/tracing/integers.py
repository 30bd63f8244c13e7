"""Integers the clock knows: loop indices, core indices, lengths, and arithmetic on them.

A known value is an integer array whose leading dimensions are the mesh's (each of full size or 1)
and whose trailing ones are the variable's own. Whole ranges of loop iterations are evaluated at
once by adding one more leading dimension, `lead`, in front of the mesh's.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

MAX_KNOWN_ELEMENTS = 1 << 22


def evaluate(
    name: str, params: Mapping[str, Any], xs: list[np.ndarray], lead: int
) -> Any:
    """The result of primitive `name` on known operands, or None where there is no rule.

    Args:
      name: primitive name.
      params: its parameters.
      xs: known operands, each with `lead` leading dimensions.
      lead: how many leading dimensions precede the variable's own.
    """
    if name in _ELEMENTWISE:
        return _ELEMENTWISE[name](*_same_rank(xs, lead))
    rule = _SHAPED.get(name)
    return None if rule is None else rule(params, xs, lead)


def iota(params: Mapping[str, Any], lead: int) -> Any:
    """The known value of an `iota` equation, or None where it is too large to carry."""
    shape, dim = params["shape"], params["dimension"]
    if math.prod(shape) > MAX_KNOWN_ELEMENTS or not np.issubdtype(
        params["dtype"], np.integer
    ):
        return None
    line = np.arange(shape[dim], dtype=params["dtype"])
    line = line.reshape([-1 if i == dim else 1 for i in range(len(shape))])
    return np.broadcast_to(line, shape)[(None,) * lead]


def _same_rank(xs: list[np.ndarray], lead: int) -> list[np.ndarray]:
    """Scalars among the operands line up with the others' own dimensions."""
    own = max(x.ndim - lead for x in xs)
    return [x.reshape(*x.shape, *(1,) * (own - (x.ndim - lead))) for x in xs]


def choose(which: np.ndarray, cases: Sequence[np.ndarray]) -> np.ndarray:
    """`cases[which]`; `which` may lack the cases' trailing dimensions."""
    which = which.reshape(*which.shape, *(1,) * (cases[0].ndim - which.ndim))
    out = cases[0]
    for i, case in enumerate(cases[1:], 1):
        out = np.where(which == i, case, out)
    return out


def _div(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Integer division towards zero, as XLA divides; by zero all bits are set."""
    by = np.where(b == 0, np.ones_like(b), b)
    quotient = np.sign(a) * np.sign(by) * (np.abs(a) // np.abs(by))
    return np.where(b == 0, ~np.zeros_like(a), quotient).astype(a.dtype)


def _rem(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The remainder with the dividend's sign; by zero the dividend, as in XLA."""
    by = np.where(b == 0, np.ones_like(b), b)
    return np.where(b == 0, a, np.fmod(a, by)).astype(a.dtype)


def _clamp(low: np.ndarray, x: np.ndarray, high: np.ndarray) -> np.ndarray:
    return np.minimum(np.maximum(x, low), high)


_ELEMENTWISE: dict[str, Callable[..., np.ndarray]] = {
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
    "stop_gradient": lambda x: x,
    "and": lambda a, b: a & b,
    "or": lambda a, b: a | b,
    "xor": lambda a, b: a ^ b,
    "not": lambda a: ~a,
    "select_n": lambda which, *cases: choose(which.astype(np.int64), cases),
    "shift_left": np.left_shift,
    "shift_right_arithmetic": np.right_shift,
}


def _convert(params: Mapping[str, Any], xs: list[np.ndarray], lead: int) -> Any:
    if (
        np.issubdtype(params["new_dtype"], np.integer)
        or params["new_dtype"] == np.bool_
    ):
        return xs[0].astype(params["new_dtype"])
    return None


def _squeeze(params: Mapping[str, Any], xs: list[np.ndarray], lead: int) -> np.ndarray:
    return np.squeeze(xs[0], tuple(d + lead for d in params["dimensions"]))


def _reshape(params: Mapping[str, Any], xs: list[np.ndarray], lead: int) -> np.ndarray:
    return xs[0].reshape(*xs[0].shape[:lead], *params["new_sizes"])


def _broadcast(
    params: Mapping[str, Any], xs: list[np.ndarray], lead: int
) -> np.ndarray:
    shape = params["shape"]
    dims = params["broadcast_dimensions"]
    own = [1] * len(shape)
    for i, d in enumerate(dims):
        own[d] = xs[0].shape[lead + i]
    x = xs[0].reshape(*xs[0].shape[:lead], *own)
    return np.broadcast_to(x, (*x.shape[:lead], *shape))


def _slice(params: Mapping[str, Any], xs: list[np.ndarray], lead: int) -> np.ndarray:
    strides = params["strides"] or (1,) * len(params["start_indices"])
    own = zip(params["start_indices"], params["limit_indices"], strides, strict=True)
    return xs[0][(slice(None),) * lead + tuple(slice(*s) for s in own)]


def _dynamic_slice(params: Mapping[str, Any], xs: list[np.ndarray], lead: int) -> Any:
    x, *starts = xs
    sizes = params["slice_sizes"]
    # A view: tables of whole rings are large.
    if all(start.size == 1 for start in starts):
        at = [
            int(np.clip(s.item(), 0, n - size))
            for s, n, size in zip(starts, x.shape[lead:], sizes, strict=True)
        ]
        own = tuple(slice(a, a + size) for a, size in zip(at, sizes, strict=True))
        return x[(slice(None),) * lead + own]
    for i, (start, size) in enumerate(zip(starts, sizes, strict=True)):
        axis = lead + i
        start = np.clip(start, 0, x.shape[axis] - size)
        span = start[..., None] + np.arange(size)  # [*lead, size]
        index = span.reshape(
            *start.shape, *(1,) * i, size, *(1,) * (len(sizes) - i - 1)
        )
        frame = np.broadcast_shapes(x.shape[:lead], start.shape)
        x = np.broadcast_to(x, (*frame, *x.shape[lead:]))
        full = (*frame, *x.shape[lead:axis], size, *x.shape[axis + 1 :])
        x = np.take_along_axis(x, np.broadcast_to(index, full), axis)
    return x


_SHAPED: dict[str, Callable[..., Any]] = {
    "convert_element_type": _convert,
    "squeeze": _squeeze,
    "reshape": _reshape,
    "broadcast_in_dim": _broadcast,
    "slice": _slice,
    "dynamic_slice": _dynamic_slice,
}
