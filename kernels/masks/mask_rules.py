"""What each primitive of a mask's jaxpr does: to known numbers, and to strided sets.

A value of shape `[*shape]` in the jaxpr is an array `[*batch, *shape]` here. Arrays may be smaller
where they broadcast, so axes are counted from the end.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np

from emu.annotations import Shape
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
    shape: Shape
    shapes: tuple[Shape, ...]


Array: TypeAlias = np.ndarray
"""Known integers or Booleans."""

Points: TypeAlias = Callable[..., Array]
"""`(site, *arrays) -> array`; without the site where the operands say it all."""

Boxes: TypeAlias = Callable[..., Strided]
"""`(site, *sets) -> set`; without the site where the operands say it all."""

Cases: TypeAlias = Callable[..., tuple[Strided, Strided] | None]
"""`(*sets) -> (set, set)`, which together hold the result; None where one does as well."""


@dataclasses.dataclass(frozen=True)
class Rule:
    """A primitive's two readings: `points(site, *arrays)` in the jaxpr's own dtypes, which wrap as
    XLA's do, and `boxes(site, *sets)`. `aligned` operands are brought to one rank first; `cases`
    are asked before `boxes`.
    """

    points: Points
    boxes: Boxes
    aligned: bool = False
    cases: Cases | None = None


def elementwise(
    of_arrays: Points, of_sets: Boxes, in_cases: Cases | None = None
) -> Rule:
    """Of operands alone; integers wrap into the result's dtype."""

    def points(site: Site, *arrays: Array) -> Array:
        return of_arrays(*arrays)

    def boxes(site: Site, *sets: Strided) -> Strided:
        # Sets are int64, in which no sum or product of two int32 overflows: what wraps shows in the
        # bounds.
        result = of_sets(*sets)
        return result if site.dtype == bool else strided.fit(result, site.dtype)

    return Rule(points, boxes, aligned=True, cases=in_cases)


def bitwise(of_arrays: Points, of_bools: Boxes, of_integers: Boxes) -> Rule:
    """A logical operation on Booleans, one bit by bit on integers."""

    def points(site: Site, *arrays: Array) -> Array:
        return of_arrays(*arrays)

    def boxes(site: Site, *sets: Strided) -> Strided:
        if site.dtype == bool:
            return of_bools(*sets)
        return strided.fit(of_integers(*sets), site.dtype)

    return Rule(points, boxes, aligned=True)


def structural(rearrange: Points) -> Rule:
    """The same elements in another shape."""

    def boxes(site: Site, sets: Strided) -> Strided:
        # A step may be one scalar for all sets, which has no axes to rearrange.
        lo, hi, step = np.broadcast_arrays(*sets)
        return Strided(
            rearrange(site, lo),
            rearrange(site, hi),
            rearrange(site, step),
        )

    return Rule(rearrange, boxes)


def reduction(of_arrays: np.ufunc, of_lows: np.ufunc, of_highs: np.ufunc) -> Rule:
    """Over axes of the jaxpr's shape; the bounds are reduced on their own."""

    def points(site: Site, operand: Array) -> Array:
        whole = _broadcast_to(operand, site.shapes[0])
        return of_arrays.reduce(whole, axis=_axes(site), dtype=site.dtype)

    def boxes(site: Site, operand: Strided) -> Strided:
        fields = np.broadcast_arrays(*operand)
        # Elements that were left out because they are alike count each for itself: a sum of 8 ones
        # is 8.
        lo, hi, step = [_broadcast_to(field, site.shapes[0]) for field in fields]
        axes = _axes(site)
        least = of_lows.reduce(lo, axis=axes)
        greatest = of_highs.reduce(hi, axis=axes)
        if site.dtype == bool:
            return Strided(least, greatest, strided.ONE)
        # A sum is that of the lows plus steps of single members, so their distances do not matter
        # to it.
        common = np.gcd.reduce(step, axis=axes)
        if of_lows is not np.add:
            # The result is one of several sets' values: it also steps over their distances. The
            # greater of {0, 6} and {3, 9} may be 3, 6 or 9: sets of step 6 that are 3 apart.
            apart = lo - np.min(lo, axis=axes, keepdims=True)
            distances = np.gcd.reduce(apart, axis=axes)
            common = np.gcd(common, distances)
        result = Strided(least, greatest, common)
        return strided.fit(result, site.dtype)

    return Rule(points, boxes)


def _broadcast_to(operand: Array, shape: Shape) -> Array:
    """`operand` as it is in the jaxpr, `[*batch, *shape]`."""
    with_batch = np.broadcast_shapes(operand.shape, shape)
    return np.broadcast_to(operand, with_batch)


def _axes(site: Site) -> tuple[int, ...]:
    """Reduced axes, counted from the end."""
    rank = len(site.shapes[0])
    return tuple(axis - rank for axis in site.params["axes"])


# Shapes


def _same(site: Site, operand: Array) -> Array:
    return operand


def _whole(site: Site, operand: Array) -> tuple[Array, Shape]:
    """The operand as it is in the jaxpr, and the shape of its batch."""
    shape = site.shapes[0]
    whole = _broadcast_to(operand, shape)
    batch_rank = whole.ndim - len(shape)
    return whole, whole.shape[:batch_rank]


def _reshape(site: Site, operand: Array) -> Array:
    whole, batch = _whole(site, operand)
    return whole.reshape((*batch, *site.shape))


def _broadcast(site: Site, operand: Array) -> Array:
    whole, batch = _whole(site, operand)
    with_ones = [1] * len(site.shape)
    axes = site.params["broadcast_dimensions"]
    for axis, size in zip(axes, site.shapes[0], strict=True):
        with_ones[axis] = size
    spread = whole.reshape((*batch, *with_ones))
    return np.broadcast_to(spread, (*batch, *site.shape))


# Numbers


def _truncated(dividend: Array, divisor: Array) -> Array:
    # XLA rounds towards zero, NumPy down: of −7 by 2 NumPy makes −4, which is one too low.
    one = divisor.dtype.type(1)
    by = np.where(divisor == 0, one, divisor)
    floor = dividend // by
    inexact = floor * by != dividend
    negative = (dividend < 0) != (by < 0)
    up = (inexact & negative).astype(floor.dtype)
    return np.where(divisor == 0, -one, floor + up)


def _truncated_rest(dividend: Array, divisor: Array) -> Array:
    one = divisor.dtype.type(1)
    by = np.where(divisor == 0, one, divisor)
    return np.where(divisor == 0, dividend, np.fmod(dividend, by))


def _floor_divide(dividend: Strided, divisor: Strided) -> Strided:
    """By a known number; jax_division.py recognises no other."""
    return strided.floor_divide(dividend, divisor.lo)


def _floor_mod(dividend: Strided, divisor: Strided) -> Strided:
    return strided.floor_mod(dividend, divisor.lo)


def _greater(left: Strided, right: Strided) -> Strided:
    return strided.less(right, left)


def _greater_equal(left: Strided, right: Strided) -> Strided:
    return strided.less_equal(right, left)


def _select(which: Array, on_false: Array, on_true: Array) -> Array:
    return np.where(which, on_true, on_false)


def _clamp(low: Array, operand: Array, high: Array) -> Array:
    # In XLA's order: where the bounds cross, `high` wins.
    return np.minimum(np.maximum(operand, low), high)


def _clamp_boxes(low: Strided, operand: Strided, high: Strided) -> Strided:
    return strided.minimum(strided.maximum(operand, low), high)


def _convert(site: Site, operand: Array) -> Array:
    return np.asarray(operand).astype(site.dtype)


def _convert_boxes(site: Site, operand: Strided) -> Strided:
    lo, hi, step = operand
    if site.dtype != bool:
        wide = Strided(lo.astype(np.int64), hi.astype(np.int64), step)
        return strided.fit(wide, site.dtype)
    if lo.dtype == bool:
        return operand
    # A number converts to whether it is not 0, so {4, 8} is always True and {0, 4} sometimes.
    return strided.differ(operand, strided.exactly(0))


def _power(site: Site, operand: Array) -> Array:
    result = np.ones_like(operand)
    for _ in range(_exponent(site)):
        result = result * operand
    return result


def _power_boxes(site: Site, operand: Strided) -> Strided:
    return strided.power(operand, _exponent(site), site.dtype)


def _exponent(site: Site) -> int:
    """Of `integer_pow`; `square` has no parameter."""
    return site.params.get("y", 2)


def _complement(operand: Strided) -> Strided:
    """Bitwise not: `-1 - x` in two's complement."""
    return strided.sub(strided.exactly(-1), operand)


# Shifts: by less than 0 or more than 31, zero is left to the left and the sign to the right,
# as in XLA.

_MOST_SHIFT = 31


def _is_outside(distance: Array) -> Array:
    return (distance < 0) | (distance > _MOST_SHIFT)


def _shift_left(site: Site, number: Array, distance: Array) -> Array:
    outside = _is_outside(distance)
    inside_distance = np.where(outside, 0, distance)
    moved = number << inside_distance.astype(number.dtype)
    zero = number.dtype.type(0)
    return np.where(outside, zero, moved)


def _shift_right(site: Site, number: Array, distance: Array) -> Array:
    outside = _is_outside(distance)
    inside_distance = np.where(outside, _MOST_SHIFT, distance)
    return number >> inside_distance.astype(number.dtype)


def _shift_left_boxes(site: Site, number: Strided, distance: Strided) -> Strided:
    # To the left is times a power of two, to the right divided by one, rounded down.
    outside = _is_outside(distance.lo)
    inside_distance = np.where(outside, 0, distance.lo)
    factor = np.int64(1) << inside_distance
    factor = np.where(outside, 0, factor)
    moved = strided.mul(number, strided.exactly(factor))
    return _if_distance_is_known(site, moved, number, distance)


def _shift_right_boxes(site: Site, number: Strided, distance: Strided) -> Strided:
    outside = _is_outside(distance.lo)
    inside_distance = np.where(outside, _MOST_SHIFT, distance.lo)
    divisor = np.int64(1) << inside_distance
    moved = strided.floor_divide(number, divisor)
    return _if_distance_is_known(site, moved, number, distance)


def _if_distance_is_known(
    site: Site,
    moved: Strided,
    number: Strided,
    distance: Strided,
) -> Strided:
    fitted = strided.fit(moved, site.dtype)
    # Only to bring both operands to one shape.
    whole_shape = strided.add(number, distance)
    unknown = strided.anything(whole_shape, site.dtype)
    return strided.choose(strided.is_single(distance), fitted, unknown)


# Tables


def _look_up(site: Site, table: Table, *indices: Array) -> Array:
    return table.at(site, indices)


def _look_up_boxes(site: Site, table: Table, *indices: Strided) -> Strided:
    return table.over(site, indices)


_SAME = structural(_same)
_RESHAPE = structural(_reshape)
_POWER = Rule(_power, _power_boxes)
_LOOK_UP = Rule(_look_up, _look_up_boxes)

RULES: dict[str, Rule] = {
    "add": elementwise(np.add, strided.add),
    "sub": elementwise(np.subtract, strided.sub),
    "mul": elementwise(np.multiply, strided.mul),
    "neg": elementwise(np.negative, strided.neg),
    "abs": elementwise(np.abs, strided.absolute),
    "sign": elementwise(np.sign, strided.sign),
    "max": elementwise(np.maximum, strided.maximum, strided.maximum_in_cases),
    "min": elementwise(np.minimum, strided.minimum, strided.minimum_in_cases),
    "div": elementwise(_truncated, strided.divide),
    "rem": elementwise(_truncated_rest, strided.remainder),
    "floor_divide": elementwise(np.floor_divide, _floor_divide),
    "remainder": elementwise(np.remainder, _floor_mod),
    "lt": elementwise(np.less, strided.less),
    "le": elementwise(np.less_equal, strided.less_equal),
    "gt": elementwise(np.greater, _greater),
    "ge": elementwise(np.greater_equal, _greater_equal),
    "eq": elementwise(np.equal, strided.equal),
    "ne": elementwise(np.not_equal, strided.differ),
    "select_n": elementwise(_select, strided.select),
    "clamp": elementwise(_clamp, _clamp_boxes),
    "and": bitwise(np.bitwise_and, strided.minimum, strided_bits.bit_and),
    "or": bitwise(np.bitwise_or, strided.maximum, strided_bits.bit_or),
    "xor": bitwise(np.bitwise_xor, strided.differ, strided_bits.bit_xor),
    "not": bitwise(np.bitwise_not, strided.negation, _complement),
    "shift_left": Rule(_shift_left, _shift_left_boxes, aligned=True),
    "shift_right_arithmetic": Rule(_shift_right, _shift_right_boxes, aligned=True),
    "integer_pow": _POWER,
    "square": _POWER,
    "convert_element_type": Rule(_convert, _convert_boxes),
    "copy": _SAME,
    "copy_p": _SAME,
    "stop_gradient": _SAME,
    "reshape": _RESHAPE,
    "squeeze": _RESHAPE,
    "expand_dims": _RESHAPE,
    "broadcast_in_dim": structural(_broadcast),
    "reduce_sum": reduction(np.add, np.add, np.add),
    "reduce_max": reduction(np.maximum, np.maximum, np.maximum),
    "reduce_min": reduction(np.minimum, np.minimum, np.minimum),
    "reduce_or": reduction(np.logical_or, np.logical_or, np.logical_or),
    "reduce_and": reduction(np.logical_and, np.logical_and, np.logical_and),
    "dynamic_slice": _LOOK_UP,
    "gather": _LOOK_UP,
}
