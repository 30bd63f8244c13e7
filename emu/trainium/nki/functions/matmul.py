"""Products and transposes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from emu.annotations import DType

if TYPE_CHECKING:
    from emu.trainium.nki.handles import Handle  # pyright: ignore[reportMissingImports]


def nc_matmul(
    dst: Handle | None,
    stationary: Handle,
    moving: Handle,
    *,
    accumulate: bool | None = None,
    is_transpose: bool = False,
    perf_mode: object = None,
    dtype: DType | None = None,
    mask: object = None,
    name: str = "nki.isa.nc_matmul",
) -> Handle:
    """`dst (+)= stationaryᵀ · moving` in PSUM; `accumulate` None: all but the first write add."""
    raise NotImplementedError


def nc_transpose(
    dst: Handle | None,
    data: Handle,
    *,
    dtype: DType | None = None,
    mask: object = None,
    engine: object = None,
    name: str = "nki.isa.nc_transpose",
) -> Handle:
    """`dst[n, p] = data[p, n]ᵀ` on the Tensor or the Vector Engine."""
    raise NotImplementedError
