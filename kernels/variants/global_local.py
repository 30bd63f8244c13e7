"""Global and local: a window around each token, and a few tokens that see all and are seen by all.

Beltagy, Peters and Cohan, *Longformer* (2020, arXiv 2004.05150), section 3.1.
"""

from kernels.attention.decorator import attention
from kernels.attention.variant import Variant


def global_local(count: int, reach: int) -> Variant:
    """The first `count` tokens are global; of others each sees `reach` to either side."""

    @attention
    def global_local(b, h, q, k):
        is_near = (q - k <= reach) & (k - q <= reach)
        return is_near | (q < count) | (k < count)

    return global_local
