"""An abstract domain of integers: sets `{lo, lo + step, ..., hi}`, and operations on them.

Every operation is *sound*: whatever the operands' true values in their sets, the true result lies
in the result's set. On single values it is exact, int32 wrap-around included. A Boolean is a set
in {False, True}: *never* (False, False), *sometimes* (False, True), *always* (True, True).
Bounds and congruences of this kind are Granger's arithmetical congruences (Int. J. Comput. Math.
30, 1989) joined with intervals.
"""

import functools
from typing import Any, NamedTuple

import numpy as np

ZERO, ONE = np.asarray(0), np.asarray(1)


class Strided(NamedTuple):
    """Sets of integers or Booleans, one per element.

    Attributes:
      lo, hi: least and greatest value, int64 or bool arrays.
      step: every value is `lo` plus a multiple of it; broadcasts against the bounds, at least 0.
        0 says nothing but that the value is `lo`; Booleans carry 1.
    """

    lo: np.ndarray
    hi: np.ndarray
    step: np.ndarray


def exactly(x: Any) -> Strided:
    """Single known values, any shape."""
    x = np.asarray(x)
    if x.dtype == bool:
        return Strided(x, x, ONE)
    x = x.astype(np.int64)
    return Strided(x, x, ZERO)


def gcd(*steps: np.ndarray) -> np.ndarray:
    """Greatest common divisor; at once where one of them is the scalar 1."""
    if any(s.ndim == 0 and s == 1 for s in steps):
        return ONE
    return functools.reduce(np.gcd, steps)


def fit(x: Strided, dtype: Any) -> Strided:
    """Wraps into the range of an integer dtype of at most 32 bits, as XLA's arithmetic does.

    A set that wraps as a whole stays what it is; one that wraps in part becomes the whole range.
    """
    info = np.iinfo(dtype)
    if not x.lo.size or (x.lo.min() >= info.min and x.hi.max() <= info.max):
        return x
    turn = (x.lo - info.min) >> info.bits
    whole = turn != (x.hi - info.min) >> info.bits
    lo = x.lo - (turn << info.bits)
    hi = x.hi - (turn << info.bits)
    return Strided(
        np.where(whole, info.min, lo),
        np.where(whole, info.max, hi),
        np.where(whole, 1, x.step),
    )


def anything(x: Strided, dtype: Any) -> Strided:
    """The whole range of `dtype`, in the shape of `x`."""
    info = np.iinfo(dtype)
    return Strided(np.full(x.lo.shape, info.min), np.full(x.lo.shape, info.max), ONE)


def choose(where: np.ndarray, a: Strided, b: Strided) -> Strided:
    """`a` where true, else `b`; at once where all agree."""
    if where.all():
        return a
    if not where.any():
        return b
    step = a.step if a.step is b.step else np.where(where, a.step, b.step)
    return Strided(np.where(where, a.lo, b.lo), np.where(where, a.hi, b.hi), step)


def join(a: Strided, b: Strided) -> Strided:
    """The least set that holds both."""
    lo, hi = np.minimum(a.lo, b.lo), np.maximum(a.hi, b.hi)
    if lo.dtype == bool:
        return Strided(lo, hi, ONE)
    return Strided(lo, hi, _distance(a, b))


def _distance(a: Strided, b: Strided) -> np.ndarray:
    """The step of a set that holds values of both."""
    steps = gcd(a.step, b.step)
    return ONE if steps.ndim == 0 and steps == 1 else gcd(steps, np.abs(a.lo - b.lo))


def is_single(x: Strided) -> np.ndarray:
    return np.asarray(x.lo == x.hi)


# Integers


def add(a: Strided, b: Strided) -> Strided:
    return Strided(a.lo + b.lo, a.hi + b.hi, gcd(a.step, b.step))


def neg(a: Strided) -> Strided:
    return Strided(-a.hi, -a.lo, a.step)


def sub(a: Strided, b: Strided) -> Strided:
    return add(a, neg(b))


def mul(a: Strided, b: Strided) -> Strided:
    corners = [a.lo * b.lo, a.lo * b.hi, a.hi * b.lo, a.hi * b.hi]
    lo, hi = (functools.reduce(f, corners) for f in (np.minimum, np.maximum))
    # (la + i·sa)(lb + j·sb) = la·lb + j·la·sb + i·lb·sa + ij·sa·sb
    step = gcd(np.abs(a.lo) * b.step, np.abs(b.lo) * a.step, a.step * b.step)
    widest = max(int(np.max(x, initial=0)) for x in (a.step, b.step))
    # 2³² · 2³¹ would leave int64.
    return Strided(lo, hi, step if widest < 2**31 else ONE)


def power(a: Strided, n: int, dtype: Any) -> Strided:
    base = absolute(a) if n % 2 == 0 else a
    result = exactly(np.ones_like(a.lo))
    for _ in range(n):
        result = fit(mul(result, base), dtype)
    return result


def minimum(a: Strided, b: Strided) -> Strided:
    if a.lo.dtype == bool:
        return Strided(a.lo & b.lo, a.hi & b.hi, ONE)
    if (a.hi <= b.lo).all():
        return a
    if (b.hi <= a.lo).all():
        return minimum(b, a)
    mixed = Strided(np.minimum(a.lo, b.lo), np.minimum(a.hi, b.hi), _distance(a, b))
    return choose(a.hi <= b.lo, a, choose(b.hi <= a.lo, b, mixed))


def maximum(a: Strided, b: Strided) -> Strided:
    if a.lo.dtype == bool:
        return Strided(a.lo | b.lo, a.hi | b.hi, ONE)
    return neg(minimum(neg(a), neg(b)))


def absolute(a: Strided) -> Strided:
    if (a.lo >= 0).all():
        return a
    step = np.maximum(gcd(a.step, 2 * np.abs(a.lo)), 1)
    crossing = Strided(a.lo % step, np.maximum(-a.lo, a.hi), step)
    return choose(a.lo >= 0, a, choose(a.hi <= 0, neg(a), crossing))


def sign(a: Strided) -> Strided:
    return Strided(np.sign(a.lo), np.sign(a.hi), ONE)


def floor_divide(a: Strided, by: np.ndarray) -> Strided:
    """Quotient rounded down, by known numbers of at least 1."""
    step = np.where(a.step % by == 0, a.step // by, 1)
    return Strided(a.lo // by, a.hi // by, step)


def floor_mod(a: Strided, by: np.ndarray) -> Strided:
    """Remainder of a quotient rounded down, by known numbers of at least 1."""
    same = a.lo // by == a.hi // by
    step = gcd(a.step, by)
    first, last = a.lo % by, a.hi % by
    lo = first % step
    return Strided(
        np.where(same, first, lo),
        np.where(same, last, by - step + lo),
        a.step if same.all() else np.where(same, a.step, step),
    )


def divide(a: Strided, b: Strided) -> Strided:
    """Quotient rounded towards zero; by zero it is −1, as in XLA."""
    by = np.where(b.lo == 0, 1, np.abs(b.lo))
    down = floor_divide(a, by)
    up = neg(floor_divide(neg(a), by))
    around = Strided(-(-a.lo // by), a.hi // by, ONE)
    known = choose(a.lo >= 0, down, choose(a.hi <= 0, up, around))
    known = choose(
        b.lo > 0, known, choose(b.lo < 0, neg(known), exactly(-np.ones_like(a.lo)))
    )
    most = np.maximum(np.maximum(np.abs(a.lo), np.abs(a.hi)), 1)
    return choose(is_single(b), known, Strided(-most, most, ONE))


def remainder(a: Strided, b: Strided) -> Strided:
    """Remainder with the dividend's sign; by zero it is the dividend, as in XLA."""
    by = np.where(b.lo == 0, 1, np.abs(b.lo))
    above = floor_mod(a, by)
    below = neg(floor_mod(neg(a), by))
    around = Strided(-np.minimum(by - 1, -a.lo), np.minimum(by - 1, a.hi), ONE)
    known = choose(a.lo >= 0, above, choose(a.hi <= 0, below, around))
    known = choose(b.lo == 0, a, known)
    most = np.maximum(np.abs(a.lo), np.abs(a.hi))
    return choose(is_single(b), known, Strided(-most, most, ONE))


# Booleans


def negation(a: Strided) -> Strided:
    return Strided(~a.hi, ~a.lo, ONE)


def less(a: Strided, b: Strided) -> Strided:
    return Strided(a.hi < b.lo, a.lo < b.hi, ONE)


def less_equal(a: Strided, b: Strided) -> Strided:
    return Strided(a.hi <= b.lo, a.lo <= b.hi, ONE)


def equal(a: Strided, b: Strided) -> Strided:
    if a.lo.dtype == bool:
        return negation(differ(a, b))
    possible = (a.lo <= b.hi) & (b.lo <= a.hi)
    step = gcd(a.step, b.step)
    if step.ndim or step > 1:
        possible &= (a.lo - b.lo) % np.maximum(step, 1) == 0
    return Strided((a.lo == b.hi) & (a.hi == b.lo), possible, ONE)


def differ(a: Strided, b: Strided) -> Strided:
    """Not equal; exclusive or of Booleans."""
    if a.lo.dtype != bool:
        return negation(equal(a, b))
    known, odd = is_single(a) & is_single(b), a.lo ^ b.lo
    return Strided(known & odd, ~known | odd, ONE)


def select(which: Strided, on_false: Strided, on_true: Strided) -> Strided:
    sometimes = ~which.lo & which.hi
    if not sometimes.any():
        return choose(which.lo, on_true, on_false)
    known = choose(which.lo, on_true, on_false)
    return choose(sometimes, join(on_false, on_true), known)
