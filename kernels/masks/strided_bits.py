"""Bitwise operations on strided sets of int32; loose except where they amount to a remainder."""

import numpy as np

from kernels.masks.strided import ONE, Strided, choose, floor_mod, is_single


def _bits(
    a: Strided, b: Strided, of_singles: np.ufunc, lo: np.ndarray, hi: np.ndarray
) -> Strided:
    """Exact on single values, `[lo, hi]` of non-negative sets, else all of int32."""
    one = of_singles(a.lo, b.lo)
    single = is_single(a) & is_single(b)
    plain = (a.lo >= 0) & (b.lo >= 0)
    info = np.iinfo(np.int32)
    wide = Strided(np.where(plain, lo, info.min), np.where(plain, hi, info.max), ONE)
    return choose(single, Strided(one, one, ONE), wide)


def bit_and(a: Strided, b: Strided) -> Strided:
    mask = b.lo + 1
    if (is_single(b) & (b.lo >= 0) & (mask & b.lo == 0)).all():
        return floor_mod(a, mask)  # the last bits of two's complement
    if (is_single(a) & (a.lo >= 0) & (a.lo & (a.lo + 1) == 0)).all():
        return bit_and(b, a)
    return _bits(a, b, np.bitwise_and, np.zeros_like(a.lo), np.minimum(a.hi, b.hi))


def bit_or(a: Strided, b: Strided) -> Strided:
    return _bits(a, b, np.bitwise_or, np.maximum(a.lo, b.lo), _ones(a, b))


def bit_xor(a: Strided, b: Strided) -> Strided:
    return _bits(a, b, np.bitwise_xor, np.zeros_like(a.lo), _ones(a, b))


def _ones(a: Strided, b: Strided) -> np.ndarray:
    """The least `2**n − 1` that neither set exceeds."""
    return (np.int64(1) << np.frexp(np.maximum(np.maximum(a.hi, b.hi), 0))[1]) - 1
