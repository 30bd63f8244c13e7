"""The residual stream from the region behind: from the one beside it, or from another wafer."""

from emu.annotations import KnownInt
from emu.wse import cross, walk
from emu.wse.spaces import Sram


def arrive(residual: Sram, hops: KnownInt, crosses: bool) -> Sram:
    """The tile of each row's last PE in the region behind, on every PE of this one's row.

    Args:
      residual: float32 `[depth]`.
      hops: known, on the fabric; see `kernels.wse.decode.plan.Way`.
      crosses: whether it comes from another wafer.
    """
    if crosses:
        return cross(residual, residual, hops, axis="col")
    return walk(residual, residual, hops, axis="col")


__all__ = ["arrive"]
