"""A dilated window: every so many tokens, so that the same keys reach farther back.

Beltagy, Peters and Cohan, *Longformer* (2020, arXiv 2004.05150), section 3.1, of a decoder.
"""

from kernels import masks
from kernels.attention.decorator import attention
from kernels.attention.variant import Variant


def dilated_window(keys: int, step: int) -> Variant:
    """The last `keys` of every `step` tokens, itself included."""
    mask = masks.window(keys * step) & masks.dilated(step)
    return attention(mask, name="dilated_window")
