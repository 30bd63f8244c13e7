"""Bitwise operations on strided sets of int32; loose except where they amount to a remainder."""

import numpy as np

from kernels.masks.strided import ONE, Ints, Strided, choose, floor_mod, is_single


def bit_and(left: Strided, right: Strided) -> Strided:
    # x & 63 keeps the last six bits of two's complement: x mod 64, also of a negative x.
    if _are_low_bits(right):
        return floor_mod(left, right.lo + 1)
    if _are_low_bits(left):
        return bit_and(right, left)
    ones = left.lo & right.lo
    # Of non-negative numbers `&` only clears bits, so the result exceeds neither.
    least = np.zeros_like(left.lo)
    greatest = np.minimum(left.hi, right.hi)
    return _bounded(left, right, ones, least, greatest)


def bit_or(left: Strided, right: Strided) -> Strided:
    ones = left.lo | right.lo
    # `|` only sets bits, and none above the highest of either: {4..9} | {1..3} lies in 4..15.
    least = np.maximum(left.lo, right.lo)
    return _bounded(left, right, ones, least, _all_ones(left, right))


def bit_xor(left: Strided, right: Strided) -> Strided:
    ones = left.lo ^ right.lo
    # Equal numbers cancel, so unlike `|` this may fall to 0.
    least = np.zeros_like(left.lo)
    return _bounded(left, right, ones, least, _all_ones(left, right))


def _are_low_bits(values: Strided) -> bool:
    """Whether all are single values `2**n − 1`."""
    lo = values.lo
    # 0b0111 and 0b1000 have no bit in common; 0b0101 and 0b0110 have one.
    without_gaps = lo & (lo + 1) == 0
    low_bits = is_single(values) & (lo >= 0) & without_gaps
    return bool(low_bits.all())


def _all_ones(left: Strided, right: Strided) -> Ints:
    """The least `2**n − 1` that neither set exceeds."""
    greatest = np.maximum(left.hi, right.hi)
    greatest = np.maximum(greatest, 0)  # the bound is not for sets that may be negative
    _, bits = np.frexp(greatest)
    beyond = np.int64(1) << bits
    return beyond - 1


def _bounded(
    left: Strided,
    right: Strided,
    of_singles: Ints,
    least: Ints,
    greatest: Ints,
) -> Strided:
    """Exact on single values, `[least, greatest]` of non-negative sets, else all of int32."""
    info = np.iinfo(np.int32)
    positive = (left.lo >= 0) & (right.lo >= 0)
    lo = np.where(positive, least, info.min)
    hi = np.where(positive, greatest, info.max)
    singles = is_single(left) & is_single(right)
    exact = Strided(of_singles, of_singles, ONE)
    return choose(singles, exact, Strided(lo, hi, ONE))
