"""The Scalar Engine's activation functions, with scale, bias and a reduction on the way."""

from __future__ import annotations

from typing import TYPE_CHECKING

from emu.annotations import DType

if TYPE_CHECKING:
    from emu.trainium.nki.handles import Handle  # pyright: ignore[reportMissingImports]


def activation(
    dst: Handle | None,
    op: object,
    data: Handle,
    bias: object = None,
    scale: object = 1.0,
    *,
    reduce_op: object = None,
    reduce_res: Handle | None = None,
    reduce_cmd: object = None,
    dtype: DType | None = None,
    mask: object = None,
    engine: object = None,
    name: str = "nki.isa.activation",
) -> Handle:
    """`dst = op(data · scale + bias)`; `reduce_res` `[p, 1]` gets `reduce_op` of it."""
    raise NotImplementedError
