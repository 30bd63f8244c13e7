"""The region of PEs that one layer's residual stream is dealt over, whatever the layer does."""

import dataclasses

import jax.numpy as jnp

from kernels.formats.formats import Format
from kernels.wse.decode import sizes
from kernels.wse.decode.held import PIECE_CODES


@dataclasses.dataclass(frozen=True)
class Region:
    """PEs that share a residual stream: it is split over rows and repeated along columns.

    Attributes:
      hidden: width of the residual stream.
      rows, cols: PEs.
      eps: added to the mean square in RMSNorm.
      dtype: of weights and of the inputs of multiply-adds; sums are float32.
      held: what experts' matrices are in that are in codes; None: they are in `dtype`.
      cut: elements of a block, where rows' slices end with blocks, see
        `kernels.wse.decode.residual`; None: they follow each other.
      piece_codes: the fewest of experts' codes that a PE makes wide at once.
    """

    hidden: int
    rows: int
    cols: int
    eps: float
    dtype: str = "float32"
    held: Format | None = None
    cut: int | None = None
    piece_codes: int = PIECE_CODES

    def __post_init__(self) -> None:
        sizes.check_whole(self, "hidden", "rows", "cols")
        sizes.check_whole(self, "piece_codes")
        sizes.check_dtype(self.dtype)

    @property
    def mesh(self) -> dict[str, int]:
        return {"row": self.rows, "col": self.cols}

    @property
    def depth(self) -> int:
        """Elements of the residual stream in one PE."""
        return -(-self.hidden // self.rows)

    @property
    def itemsize(self) -> int:
        return jnp.dtype(self.dtype).itemsize


__all__ = ["Region"]
