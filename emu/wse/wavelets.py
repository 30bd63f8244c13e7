"""What a wavelet carries: 32 bits, which are one float32 or two 16-bit elements."""

import jax.numpy as jnp
import numpy as np

from emu.annotations import DType

WORD_BYTES = 4


def words(elements: int | np.ndarray, dtype: DType) -> np.ndarray:
    """Wavelets that carry `elements`, the last one half full where a 16-bit element is left over.

    Seven bfloat16 elements take four.
    """
    nbytes = np.asarray(elements) * jnp.dtype(dtype).itemsize
    return -(-nbytes // WORD_BYTES)


__all__ = ["WORD_BYTES", "words"]
