"""What each primitive of a mask's jaxpr does: to known numbers, and to strided sets.

A value of shape `[*shape]` in the jaxpr is an array `[*batch, *shape]` here. Arrays may be smaller
where they broadcast, so axes are counted from the end.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from kernels.masks import strided, strided_bits
from kernels.masks.lookup import Table
from kernels.masks.strided import Strided


@dataclasses.dataclass(frozen=True)
class Site:
    """Where a rule is applied.

    Attributes:
      params: of the equation.
      dtype, shape: of the result, without the batch.
      shapes: of the operands, without the batch.
    """

    params: dict[str, Any]
    dtype: np.dtype
    shape: tuple[int, ...]
    shapes: tuple[tuple[int, ...], ...]


@dataclasses.dataclass(frozen=True)
class Rule:
    """A primitive's two readings: `points(site, *arrays)` in the jaxpr's own dtypes, which wrap as
    XLA's do, and `boxes(site, *sets)`. `aligned` operands are brought to one rank first.
    """

    points: Callable[..., Any]
    boxes: Callable[..., Strided]
    aligned: bool = False


def elementwise(points: Callable, boxes: Callable) -> Rule:
    """Of operands alone; integers wrap into the result's dtype."""

    def wrapped(site: Site, *sets: Strided) -> Strided:
        result = boxes(*sets)
        return result if site.dtype == bool else strided.fit(result, site.dtype)

    return Rule(lambda site, *xs: points(*xs), wrapped, aligned=True)


def structural(rearrange: Callable[[Site, np.ndarray], Any]) -> Rule:
    """The same elements in another shape."""

    def boxes(site: Site, x: Strided) -> Strided:
        return Strided(*(rearrange(site, field) for field in np.broadcast_arrays(*x)))

    return Rule(rearrange, boxes)


def _batch(x: np.ndarray, shape: tuple[int, ...]) -> tuple[np.ndarray, tuple[int, ...]]:
    """`x` broadcast to its shape in the jaxpr, and the batch in front of it."""
    x = np.broadcast_to(x, np.broadcast_shapes(x.shape, shape))
    return x, x.shape[: x.ndim - len(shape)]


def _reshape(site: Site, x: np.ndarray) -> np.ndarray:
    x, batch = _batch(x, site.shapes[0])
    return x.reshape((*batch, *site.shape))


def _broadcast(site: Site, x: np.ndarray) -> np.ndarray:
    x, batch = _batch(x, site.shapes[0])
    between = [1] * len(site.shape)
    for axis, size in zip(
        site.params["broadcast_dimensions"], site.shapes[0], strict=True
    ):
        between[axis] = size
    return np.broadcast_to(x.reshape((*batch, *between)), (*batch, *site.shape))


def _axes(site: Site) -> tuple[int, ...]:
    return tuple(a - len(site.shapes[0]) for a in site.params["axes"])


def reduction(points: np.ufunc, lo: np.ufunc, hi: np.ufunc) -> Rule:
    """Over axes of the jaxpr's shape; `lo` and `hi` reduce the bounds."""

    def concrete(site: Site, x: np.ndarray) -> Any:
        x, _ = _batch(x, site.shapes[0])
        return points.reduce(x, axis=_axes(site), dtype=site.dtype)

    def boxes(site: Site, x: Strided) -> Strided:
        fields = [_batch(f, site.shapes[0])[0] for f in np.broadcast_arrays(*x)]
        axes = _axes(site)
        least = lo.reduce(fields[0], axis=axes)
        most = hi.reduce(fields[1], axis=axes)
        if site.dtype == bool:
            return Strided(least, most, strided.ONE)
        step = np.gcd.reduce(fields[2], axis=axes)
        if lo is not np.add:  # one of several sets: step over their distances as well
            apart = fields[0] - np.min(fields[0], axis=axes, keepdims=True)
            step = np.gcd(step, np.gcd.reduce(apart, axis=axes))
        return strided.fit(Strided(least, most, step), site.dtype)

    return Rule(concrete, boxes)


# Numbers


def _truncated(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    by = np.where(b == 0, b.dtype.type(1), b)
    floor = a // by
    up = (floor * by != a) & ((a < 0) != (by < 0))
    return np.where(b == 0, b.dtype.type(-1), floor + up.astype(floor.dtype))


def _truncated_rest(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.where(b == 0, a, np.fmod(a, np.where(b == 0, b.dtype.type(1), b)))


def _known_divisor(f: Callable) -> Callable:
    return lambda a, b: f(a, b.lo)


def _select(which: np.ndarray, on_false: np.ndarray, on_true: np.ndarray) -> np.ndarray:
    return np.where(which, on_true, on_false)


def _clamp(f: Callable, g: Callable) -> Callable:
    return lambda low, x, high: f(g(x, low), high)


def _convert(site: Site, x: np.ndarray) -> np.ndarray:
    return np.asarray(x).astype(site.dtype)


def _convert_boxes(site: Site, x: Strided) -> Strided:
    if site.dtype == bool:
        return x if x.lo.dtype == bool else strided.differ(x, strided.exactly(0))
    lo, hi = x.lo.astype(np.int64), x.hi.astype(np.int64)
    return strided.fit(Strided(lo, hi, x.step), site.dtype)


def _power(site: Site, x: np.ndarray) -> np.ndarray:
    result = np.ones_like(x)
    for _ in range(site.params.get("y", 2)):
        result = result * x
    return result


def _power_boxes(site: Site, x: Strided) -> Strided:
    return strided.power(x, site.params.get("y", 2), site.dtype)


def _bitwise(ufunc: np.ufunc, of_bools: Callable, of_integers: Callable) -> Rule:
    def boxes(site: Site, *sets: Strided) -> Strided:
        if site.dtype == bool:
            return of_bools(*sets)
        return strided.fit(of_integers(*sets), site.dtype)

    return Rule(lambda site, *xs: ufunc(*xs), boxes, aligned=True)


def _complement(a: Strided) -> Strided:
    return strided.sub(strided.exactly(-1), a)


def _shift(left: bool) -> Rule:
    def points(site: Site, a: np.ndarray, b: np.ndarray) -> Any:
        outside = (b < 0) | (b > 31)
        if left:
            return np.where(
                outside, a.dtype.type(0), a << np.where(outside, 0, b).astype(a.dtype)
            )
        return a >> np.where(outside, 31, b).astype(a.dtype)

    def boxes(site: Site, a: Strided, b: Strided) -> Strided:
        outside = (b.lo < 0) | (b.lo > 31)
        by = np.int64(1) << np.where(outside, 0 if left else 31, b.lo)
        if left:
            moved = strided.mul(a, strided.exactly(np.where(outside, 0, by)))
        else:
            moved = strided.floor_divide(a, by)
        moved = strided.fit(moved, site.dtype)
        return strided.choose(
            strided.is_single(b), moved, strided.anything(strided.add(a, b), site.dtype)
        )

    return Rule(points, boxes, aligned=True)


def _table(site: Site, table: Table, *indices: np.ndarray) -> Any:
    return table.at(site, indices)


def _table_boxes(site: Site, table: Table, *indices: Strided) -> Strided:
    return table.over(site, indices)


_SAME = structural(lambda site, x: x)

RULES: dict[str, Rule] = {
    "add": elementwise(np.add, strided.add),
    "sub": elementwise(np.subtract, strided.sub),
    "mul": elementwise(np.multiply, strided.mul),
    "neg": elementwise(np.negative, strided.neg),
    "abs": elementwise(np.abs, strided.absolute),
    "sign": elementwise(np.sign, strided.sign),
    "max": elementwise(np.maximum, strided.maximum),
    "min": elementwise(np.minimum, strided.minimum),
    "div": elementwise(_truncated, strided.divide),
    "rem": elementwise(_truncated_rest, strided.remainder),
    "floor_divide": elementwise(np.floor_divide, _known_divisor(strided.floor_divide)),
    "remainder": elementwise(np.remainder, _known_divisor(strided.floor_mod)),
    "lt": elementwise(np.less, strided.less),
    "le": elementwise(np.less_equal, strided.less_equal),
    "gt": elementwise(np.greater, lambda a, b: strided.less(b, a)),
    "ge": elementwise(np.greater_equal, lambda a, b: strided.less_equal(b, a)),
    "eq": elementwise(np.equal, strided.equal),
    "ne": elementwise(np.not_equal, strided.differ),
    "select_n": elementwise(_select, strided.select),
    "clamp": elementwise(
        _clamp(np.minimum, np.maximum), _clamp(strided.minimum, strided.maximum)
    ),
    "and": _bitwise(np.bitwise_and, strided.minimum, strided_bits.bit_and),
    "or": _bitwise(np.bitwise_or, strided.maximum, strided_bits.bit_or),
    "xor": _bitwise(np.bitwise_xor, strided.differ, strided_bits.bit_xor),
    "not": _bitwise(np.bitwise_not, strided.negation, _complement),
    "shift_left": _shift(left=True),
    "shift_right_arithmetic": _shift(left=False),
    "integer_pow": Rule(_power, _power_boxes),
    "square": Rule(_power, _power_boxes),
    "convert_element_type": Rule(_convert, _convert_boxes),
    "copy": _SAME,
    "copy_p": _SAME,
    "stop_gradient": _SAME,
    "reshape": structural(_reshape),
    "squeeze": structural(_reshape),
    "expand_dims": structural(_reshape),
    "broadcast_in_dim": structural(_broadcast),
    "reduce_sum": reduction(np.add, np.add, np.add),
    "reduce_max": reduction(np.maximum, np.maximum, np.maximum),
    "reduce_min": reduction(np.minimum, np.minimum, np.minimum),
    "reduce_or": reduction(np.logical_or, np.logical_or, np.logical_or),
    "reduce_and": reduction(np.logical_and, np.logical_and, np.logical_and),
    "dynamic_slice": Rule(_table, _table_boxes),
    "gather": Rule(_table, _table_boxes),
}
