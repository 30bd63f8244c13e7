"""Neighborhood attention in two dimensions: a square of pixels around each, pushed in at borders.

Hassani et al., *Neighborhood Attention Transformer* (CVPR 2023, arXiv 2204.07143):
every pixel sees as many others, so near a border its square is off its own centre.
"""

import jax.numpy as jnp

from kernels.attention.decorator import attention
from kernels.attention.variant import Variant
from kernels.refusal import refuse


def neighborhood(height: int, width: int, size: int) -> Variant:
    """Of an image of `height` times `width` pixels, row by row; squares of `size` pixels a side."""
    half = size // 2
    if size % 2 == 0 or size > min(height, width):
        refuse(
            f"neighborhood: size {size}, must be odd and at most {min(height, width)}"
        )

    @attention
    def neighborhood(b, h, q, k):
        # Pixel 0 of a row of 8 looks at 0, 1 and 2, as pixel 1 does.
        center_y = jnp.clip(q // width, half, height - 1 - half)
        center_x = jnp.clip(q % width, half, width - 1 - half)
        is_near_y = jnp.abs(center_y - k // width) <= half
        is_near_x = jnp.abs(center_x - k % width) <= half
        return is_near_y & is_near_x

    return neighborhood
