"""The older generation's `nki.language`: tensors, transfers, mathematics, loops.

Signatures are the vendor's (SDK 2.26.1); what the functions mean is in `functions`.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from emu.annotations import DType
from emu.trainium.nki import index, machine
from emu.trainium.nki.functions import (
    language,
    make,
    matmul,
    reduce,
    transfer,
)
from emu.trainium.nki.functions.checks import refuse
from emu.trainium.nki.handles import Handle
from emu.trainium.nki.old_isa import ISA
from emu.trainium.nki.record import current


def load(
    src: Handle,
    *,
    mask: object = None,
    dtype: DType | None = None,
    name: str | None = None,
) -> Handle:
    return transfer.load(src, dtype=dtype, mask=mask)


def store(
    dst: Handle, value: object, *, mask: object = None, name: str | None = None
) -> None:
    transfer.store(dst, value, mask=mask)


def load_transpose2d(
    src: Handle,
    *,
    mask: object = None,
    dtype: DType | None = None,
    name: str | None = None,
) -> Handle:
    return transfer.load_transpose2d(src, dtype=dtype, mask=mask)


def ndarray(
    shape: Sequence[int],
    dtype: DType,
    *,
    buffer: object = None,
    name: str = "",
    lazy_initialization: bool = False,
) -> Handle:
    return make.ndarray(shape, dtype, buffer, name=name)


def zeros(
    shape: Sequence[int],
    dtype: DType,
    *,
    buffer: object = None,
    name: str = "",
    lazy_initialization: bool = False,
) -> Handle:
    function = "nki.language.zeros"
    return make.full(shape, 0, dtype, buffer, name=name, function=function)


def ones(
    shape: Sequence[int], dtype: DType, *, buffer: object = None, name: str = ""
) -> Handle:
    function = "nki.language.ones"
    return make.full(shape, 1, dtype, buffer, name=name, function=function)


def full(
    shape: Sequence[int],
    fill_value: object,
    dtype: DType,
    *,
    buffer: object = None,
    name: str = "",
) -> Handle:
    return make.full(shape, fill_value, dtype, buffer, name=name)


def shared_constant(constant: object, dtype: DType | None = None) -> Handle:
    return make.shared_constant(constant, dtype)


def shared_identity_matrix(n: int, dtype: DType = np.uint8) -> Handle:
    title = "nki.language.shared_identity_matrix"
    return make.shared_constant(np.identity(n, np.float32), dtype, name=title)


def nl_matmul(
    x: Handle,
    y: Handle,
    *,
    transpose_x: bool = False,
    mask: object = None,
    name: str | None = None,
) -> Handle:
    return matmul.matmul(x, y, transpose_x=transpose_x, mask=mask)


def loop_reduce(
    x: Handle,
    op: object,
    loop_indices: object,
    *,
    dtype: DType | None = None,
    mask: object = None,
    name: str | None = None,
) -> Handle:
    indices = loop_indices if isinstance(loop_indices, Sequence) else [loop_indices]
    return reduce.loop_reduce(None, x, op, indices, dtype=dtype, mask=mask)


def _range(kind: str) -> Any:
    def turns(
        start: int,
        stop: int | None = None,
        step: int = 1,
        *,
        precise_schedule: bool = False,
        multi_buffer: object = None,
        directives: object = None,
    ) -> Iterator[int]:
        first, last = (0, start) if stop is None else (start, stop)
        for bound in (first, last, step):
            if not hasattr(bound, "__index__"):
                refuse(
                    f"nki.language.{kind}_range",
                    f"a bound is {bound!r}, must be a whole number: what a tile holds is known "
                    "only on the device",
                )
        return current().turns(range(first, last, step), kind)

    turns.__name__ = f"{kind}_range"
    return turns


def device_print(prefix: object, x: object, *, mask: object = None) -> None:
    """Prints on the device: nothing here, for values are not there when a kernel is recorded."""


LANGUAGE: Mapping[str, object] = {
    **language.MATHEMATICS,
    "load": load,
    "store": store,
    "load_transpose2d": load_transpose2d,
    "ndarray": ndarray,
    "zeros": zeros,
    "ones": ones,
    "full": full,
    "shared_constant": shared_constant,
    "shared_identity_matrix": shared_identity_matrix,
    "matmul": nl_matmul,
    "loop_reduce": loop_reduce,
    "affine_range": _range("affine"),
    "sequential_range": _range("sequential"),
    "static_range": _range("static"),
    "arange": index.arange,
    "mgrid": index.mgrid,
    "ds": index.Ds,
    "dslice": index.Ds,
    "par_dim": make.ParDim,
    "program_id": machine.program_id,
    "num_programs": machine.num_programs,
    "program_ndim": machine.program_ndim,
    "spmd_dim": machine.Spread,
    "nc": machine.Cores,
    "tile_size": machine.TileSize,
    "fp32": machine.Float32,
    "device_print": device_print,
    "sbuf": "sbuf",
    "psum": "psum",
    "hbm": "hbm",
    "shared_hbm": "hbm",
    "private_hbm": "hbm",
}

__all__ = ["ISA", "LANGUAGE"]
