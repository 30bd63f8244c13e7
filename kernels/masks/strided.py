"""An abstract domain of integers: sets `{lo, lo + step, ..., hi}`, and operations on them.

Every operation is *sound*: whatever the operands' true values in their sets, the true result lies
in the result's set. On single values it is exact, int32 wrap-around included. A Boolean is a set
in {False, True}: *never* (False, False), *sometimes* (False, True), *always* (True, True).
Bounds and congruences of this kind are Granger's arithmetical congruences (Int. J. Comput. Math.
30, 1989) joined with intervals.

{1, 5, 9, 13} − {0, 4, 8, 12} is {−11, −7, ..., 13}: bounds subtract crosswise, and two multiples
of 4 differ by one. Modulo 4 that is {1}, so `(q - k) % 4 == 0` holds *never*; bounds alone would
say *sometimes*. See the folder's README for what a mask makes of this.
"""

import functools
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from emu.annotations import DType

Ints: TypeAlias = np.ndarray
"""int64 of any shape."""

Bools: TypeAlias = np.ndarray

ZERO = np.asarray(0)
ONE = np.asarray(1)


class Strided(NamedTuple):
    """Sets of integers or Booleans, one per element.

    Attributes:
      lo, hi: least and greatest value, int64 or bool arrays.
      step: every value is `lo` plus a multiple of it; broadcasts against the bounds, at least 0.
        0 says nothing but that the value is `lo`; Booleans carry 1.
    """

    lo: Ints | Bools
    hi: Ints | Bools
    step: Ints


def exactly(values: ArrayLike) -> Strided:
    """Single known values, any shape."""
    known = np.asarray(values)
    if known.dtype == bool:
        return Strided(known, known, ONE)
    known = known.astype(np.int64)
    return Strided(known, known, ZERO)


def gcd(*steps: Ints) -> Ints:
    """Greatest common divisor; at once where one of them is the scalar 1."""
    for step in steps:
        if step.ndim == 0 and step == 1:
            return ONE
    return functools.reduce(np.gcd, steps)


def fit(values: Strided, dtype: DType) -> Strided:
    """Wraps into the range of an integer dtype of at most 32 bits, as XLA's arithmetic does.

    A set that wraps as a whole stays what it is; one that wraps in part becomes the whole range:
    in int8 {130, 140} is {−126, −116}, but {120, 130} is {120, −126}, at two ends.
    """
    lo, hi, step = values
    info = np.iinfo(dtype)
    if not lo.size or (lo.min() >= info.min and hi.max() <= info.max):
        return values
    # Whole ranges above the dtype's own: of int8 140 is (140 + 128) >> 8 = 1 above, −130 one below.
    turns = (lo - info.min) >> info.bits
    last_turns = (hi - info.min) >> info.bits
    # Two bounds in one range have all in between in it too, so the set moves as a whole.
    torn = turns != last_turns
    wrapped_lo = lo - (turns << info.bits)
    wrapped_hi = hi - (turns << info.bits)
    return Strided(
        np.where(torn, info.min, wrapped_lo),
        np.where(torn, info.max, wrapped_hi),
        np.where(torn, 1, step),
    )


def anything(like: Strided, dtype: DType) -> Strided:
    """The whole range of `dtype`, in the shape of `like`."""
    info = np.iinfo(dtype)
    shape = like.lo.shape
    lo = np.full(shape, info.min)
    hi = np.full(shape, info.max)
    return Strided(lo, hi, ONE)


def choose(where: Bools, yes: Strided, no: Strided) -> Strided:
    """`yes` where true, else `no`; at once where all agree."""
    if where.all():
        return yes
    if not where.any():
        return no
    lo = np.where(where, yes.lo, no.lo)
    hi = np.where(where, yes.hi, no.hi)
    if yes.step is no.step:  # such as `ONE`, which stays a scalar
        return Strided(lo, hi, yes.step)
    return Strided(lo, hi, np.where(where, yes.step, no.step))


def join(left: Strided, right: Strided) -> Strided:
    """The least set that holds both: {0, 6} and {3, 9} lie in {0, 3, 6, 9}."""
    lo = np.minimum(left.lo, right.lo)
    hi = np.maximum(left.hi, right.hi)
    if lo.dtype == bool:
        return Strided(lo, hi, ONE)
    return Strided(lo, hi, _common_step(left, right))


def _common_step(left: Strided, right: Strided) -> Ints:
    """The step of a set that holds values of both."""
    step = gcd(left.step, right.step)
    if step.ndim == 0 and step == 1:
        return ONE
    apart = np.abs(left.lo - right.lo)
    return gcd(step, apart)


def is_single(values: Strided) -> Bools:
    """Where only one value is possible."""
    return np.asarray(values.lo == values.hi)


# Integers


def add(left: Strided, right: Strided) -> Strided:
    # {0, 4, 8} + {1, 7} is {1, 5, 7, 9, 11, 15}: steps of 4 and of 6 together make any multiple of
    # 2.
    lo = left.lo + right.lo
    hi = left.hi + right.hi
    return Strided(lo, hi, gcd(left.step, right.step))


def neg(operand: Strided) -> Strided:
    lo, hi, step = operand
    return Strided(-hi, -lo, step)


def sub(left: Strided, right: Strided) -> Strided:
    return add(left, neg(right))


def mul(left: Strided, right: Strided) -> Strided:
    # With one factor fixed a product is linear in the other, so its extremes are at the ends of
    # both.
    corners = [
        left.lo * right.lo,
        left.lo * right.hi,
        left.hi * right.lo,
        left.hi * right.hi,
    ]
    lo = functools.reduce(np.minimum, corners)
    hi = functools.reduce(np.maximum, corners)
    widest = max(_greatest(left.step), _greatest(right.step))
    if widest >= 2**31:  # 2³² · 2³¹ would leave int64
        return Strided(lo, hi, ONE)
    # (x + i·s)(y + j·t) = x·y + j·x·t + i·y·s + ij·s·t for every i and j
    # {1, 3} · {2, 6} is {2, 6, 18}: the moves 2 · 2, 1 · 4 and 2 · 4 are all multiples of 4.
    left_moves = np.abs(right.lo) * left.step
    right_moves = np.abs(left.lo) * right.step
    both_move = left.step * right.step
    return Strided(lo, hi, gcd(right_moves, left_moves, both_move))


def _greatest(steps: Ints) -> int:
    return int(np.max(steps, initial=0))


def power(operand: Strided, exponent: int, dtype: DType) -> Strided:
    # `mul` does not know that both factors are one value: {−3, ..., 2} times itself would be
    # −6..9. Without the sign it is 0..9.
    even = exponent % 2 == 0
    base = absolute(operand) if even else operand
    result = exactly(np.ones_like(operand.lo))
    for _ in range(exponent):
        product = mul(result, base)
        result = fit(product, dtype)
    return result


def minimum(left: Strided, right: Strided) -> Strided:
    """The lesser one; of Booleans, and."""
    if left.lo.dtype == bool:
        return Strided(left.lo & right.lo, left.hi & right.hi, ONE)
    left_is_less = left.hi <= right.lo
    if left_is_less.all():
        return left
    right_is_less = right.hi <= left.lo
    if right_is_less.all():
        return minimum(right, left)
    # Where bounds overlap either may be the lesser: of {0, 6} and {3, 9} it is 0, 3 or 6.
    lo = np.minimum(left.lo, right.lo)
    hi = np.minimum(left.hi, right.hi)
    mixed = Strided(lo, hi, _common_step(left, right))
    otherwise = choose(right_is_less, right, mixed)
    return choose(left_is_less, left, otherwise)


def minimum_in_cases(left: Strided, right: Strided) -> tuple[Strided, Strided] | None:
    """`minimum` as two sets that together hold it, where one set would lose its step.

    The lesser of {0, 64, 128, 192} and 130 is one of {0, 64, 128} and {130}; a set of all four has
    a step of 2. None where `minimum` loses nothing, or where neither operand is one known number.
    """
    if left.lo.dtype == bool:
        return None
    if not is_single(right).all():
        return minimum_in_cases(right, left) if is_single(left).all() else None
    limit = right.lo
    crossed = (left.lo < limit) & (limit < left.hi) & (left.step > 1)
    if not crossed.any():
        return None
    steps_below = (limit - left.lo) // np.maximum(left.step, 1)
    below = Strided(left.lo, left.lo + steps_below * left.step, left.step)
    whole = minimum(left, right)
    return choose(crossed, below, whole), choose(crossed, right, whole)


def maximum_in_cases(left: Strided, right: Strided) -> tuple[Strided, Strided] | None:
    """`maximum`, see `minimum_in_cases`."""
    if left.lo.dtype == bool:
        return None
    cases = minimum_in_cases(neg(left), neg(right))
    return None if cases is None else (neg(cases[0]), neg(cases[1]))


def maximum(left: Strided, right: Strided) -> Strided:
    """The greater one; of Booleans, or."""
    if left.lo.dtype == bool:
        return Strided(left.lo | right.lo, left.hi | right.hi, ONE)
    least = minimum(neg(left), neg(right))
    return neg(least)


def absolute(operand: Strided) -> Strided:
    lo, hi, step = operand
    if (lo >= 0).all():
        return operand
    # −7, −3, 1, 5 become 7, 3, 1, 5: some are −7 modulo 4, some 7; those are 14 apart, so all
    # are odd.
    mirrored_step = gcd(step, 2 * np.abs(lo))
    mirrored_step = np.maximum(mirrored_step, 1)
    # The nearest to zero is one of its two neighbours: of −54, 10, 74 by steps of 64 it is 10, far
    # from the 2 that steps of gcd(64, 108) alone would allow.
    above = lo % np.maximum(step, 1)
    nearest = np.minimum(above, step - above)
    furthest = np.maximum(-lo, hi)
    crossing = Strided(nearest, furthest, mirrored_step)
    otherwise = choose(hi <= 0, neg(operand), crossing)
    return choose(lo >= 0, operand, otherwise)


def sign(operand: Strided) -> Strided:
    lo = np.sign(operand.lo)
    hi = np.sign(operand.hi)
    return Strided(lo, hi, ONE)


def floor_divide(operand: Strided, by: Ints) -> Strided:
    """Quotient rounded down, by known numbers of at least 1."""
    lo, hi, step = operand
    # {5, 69, 133} by 32 is {0, 2, 4}; {5, 11, 17} by 4, of steps that 4 does not divide, {1, 2, 4}.
    whole = step % by == 0
    quotients_step = np.where(whole, step // by, 1)
    return Strided(lo // by, hi // by, quotients_step)


def floor_mod(operand: Strided, by: Ints) -> Strided:
    """Remainder of a quotient rounded down, by known numbers of at least 1.

    Inside one period the set only moves: {66, 70} mod 64 is {2, 6}. Across periods what is left
    is the remainder modulo the step: {2, 8, 14, ...} mod 4 is {0, 2}.
    """
    lo, hi, step = operand
    one_period = lo // by == hi // by
    first = lo % by
    last = hi % by
    common = gcd(step, by)
    least = first % common
    greatest = by - common + least
    if one_period.all():
        steps = step
    else:
        steps = np.where(one_period, step, common)
    return Strided(
        np.where(one_period, first, least),
        np.where(one_period, last, greatest),
        steps,
    )


def divide(dividend: Strided, divisor: Strided) -> Strided:
    """Quotient rounded towards zero; by zero it is −1, as in XLA."""
    lo, hi, _ = dividend
    by = np.where(divisor.lo == 0, 1, np.abs(divisor.lo))
    # Towards zero is down above it and up below it: −7 by 2 is −(7 // 2).
    down = floor_divide(dividend, by)
    up = neg(floor_divide(neg(dividend), by))
    # Around zero quotients are unevenly wide: by 4 seven dividends, −3..3, give 0 and four give 1,
    # so no step is kept.
    around_zero = Strided(-(-lo // by), hi // by, ONE)
    by_positive = _by_sign(dividend, down, up, around_zero)
    by_zero = exactly(-np.ones_like(lo))
    not_positive = choose(divisor.lo < 0, neg(by_positive), by_zero)
    known = choose(divisor.lo > 0, by_positive, not_positive)
    # No divisor makes a quotient greater than the dividend, but dividing by zero makes −1 of a 0.
    furthest = np.maximum(np.abs(lo), np.abs(hi))
    furthest = np.maximum(furthest, 1)
    unknown = Strided(-furthest, furthest, ONE)
    return choose(is_single(divisor), known, unknown)


def remainder(dividend: Strided, divisor: Strided) -> Strided:
    """Remainder with the dividend's sign; by zero it is the dividend, as in XLA."""
    lo, hi, _ = dividend
    by = np.where(divisor.lo == 0, 1, np.abs(divisor.lo))
    above = floor_mod(dividend, by)
    below = neg(floor_mod(neg(dividend), by))
    # A remainder is nearer to zero than the divisor, and never farther from it than the dividend.
    least = -np.minimum(by - 1, -lo)
    greatest = np.minimum(by - 1, hi)
    around_zero = Strided(least, greatest, ONE)
    known = _by_sign(dividend, above, below, around_zero)
    known = choose(divisor.lo == 0, dividend, known)
    furthest = np.maximum(np.abs(lo), np.abs(hi))
    unknown = Strided(-furthest, furthest, ONE)
    return choose(is_single(divisor), known, unknown)


def _by_sign(
    operand: Strided,
    positive: Strided,
    negative: Strided,
    mixed: Strided,
) -> Strided:
    """A result by whether the operand's set is all at least 0, all at most 0, or neither."""
    otherwise = choose(operand.hi <= 0, negative, mixed)
    return choose(operand.lo >= 0, positive, otherwise)


# Booleans


def negation(operand: Strided) -> Strided:
    lo, hi, _ = operand
    return Strided(~hi, ~lo, ONE)


def less(left: Strided, right: Strided) -> Strided:
    always = left.hi < right.lo
    sometimes = left.lo < right.hi
    return Strided(always, sometimes, ONE)


def less_equal(left: Strided, right: Strided) -> Strided:
    always = left.hi <= right.lo
    sometimes = left.lo <= right.hi
    return Strided(always, sometimes, ONE)


def equal(left: Strided, right: Strided) -> Strided:
    if left.lo.dtype == bool:
        return negation(differ(left, right))
    overlapping = (left.lo <= right.hi) & (right.lo <= left.hi)
    step = gcd(left.step, right.step)
    # A step of 0 means two single values, which their bounds decide: modulo 1 they are never apart.
    if step.ndim or step > 1:
        # Multiples of 4 and those plus 1 never meet, however their bounds overlap.
        apart = (left.lo - right.lo) % np.maximum(step, 1)
        overlapping &= apart == 0
    # lo ≤ hi on both sides, so left.lo = right.hi ≥ right.lo = left.hi ≥ left.lo: all four are one.
    always = (left.lo == right.hi) & (left.hi == right.lo)
    return Strided(always, overlapping, ONE)


def differ(left: Strided, right: Strided) -> Strided:
    """Not equal; exclusive or of Booleans."""
    if left.lo.dtype != bool:
        return negation(equal(left, right))
    known = is_single(left) & is_single(right)
    odd = left.lo ^ right.lo
    always = known & odd
    sometimes = ~known | odd
    return Strided(always, sometimes, ONE)


def select(which: Strided, on_false: Strided, on_true: Strided) -> Strided:
    known = choose(which.lo, on_true, on_false)
    sometimes = ~which.lo & which.hi
    if not sometimes.any():
        return known
    either = join(on_false, on_true)
    return choose(sometimes, either, known)
