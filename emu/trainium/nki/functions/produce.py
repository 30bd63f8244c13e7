"""An operation with one result, into the kernel's destination or into a fresh tile."""

import dataclasses
from collections.abc import Callable, Sequence

import jax.numpy as jnp
import numpy as np

from emu.annotations import DType
from emu.trainium.nki.functions import aliases, operands, psum
from emu.trainium.nki.functions.checks import refuse
from emu.trainium.nki.handles import Handle, fresh
from emu.trainium.nki.record import current
from emu.trainium.nki.tree import Access, Affine, Choice


def produce(
    name: str,
    choices: tuple[Choice, ...],
    dst: Handle | None,
    full: Sequence[int],
    shape: Sequence[int] | None,
    dtype: DType,
    reads: Sequence[Access | Affine],
    *,
    space: str = "sbuf",
    mask: object = None,
    clip: tuple[int, ...] | None = None,
    more: Sequence[Access] = (),
    flag: Callable[[Access], bool] | None = None,
    implicit: bool = False,
) -> Handle:
    """Records an operation and gives the handle of its result.

    Args:
      name: NKI's.
      choices: ways to run it.
      dst: the kernel's destination; None makes a fresh tile of shape `full`.
      full: of the result.
      shape: of what is written of it, as the instruction has it: less where a mask clips. None
        is the destination's own.
      dtype: of a fresh tile.
      reads: sources.
      space: of a fresh tile.
      mask: that clips the result.
      clip: the leading part of a fresh result that is written, where no mask says it.
      more: further destinations behind it.
      flag: of a product, gives its accumulate flag, which is read last.
      implicit: whether the kernel does not say so.
    """
    made = dst is None
    handle = fresh(tuple(full), dtype, space) if dst is None else dst
    ask = operands.masked(mask, name)
    part = handle
    if clip is not None and made:
        part = handle[tuple(slice(0, size) for size in clip)]
    target = part.access(ask)
    if target.partitions is None:
        refuse(name, "dst is in HBM, must be in SBUF or PSUM")
    if shape is None:
        shape = operands.two_dimensional(target.shape)
    if 0 in target.shape or 0 in shape:
        # A mask leaves nothing: an operation that assignments see and nobody runs.
        nothing = dataclasses.replace(target, axes=((1, 0),), form=None)
        operation = current().emit(name, choices, (nothing,), ())
        handle.producer = operation if made else None
        return handle
    write = operands.streamed(target, shape)
    if write is None:
        refuse(
            name,
            f"the result is {list(shape)}, the destination {list(target.shape)}: "
            "must be of one shape",
        )
    if not made:
        for access in (write, *more):
            aliases.keep(access)
    sources: list[Access | Affine | bool] = list(reads)
    if flag is not None:
        sources.append(flag(write))
    else:
        psum.overwrite(write)
    for access in more:
        psum.overwrite(access)
    operation = current().emit(
        name, choices, (write, *more), sources, implicit=implicit
    )
    if made:
        handle.producer = operation
    return handle


def promoted(*dtypes: DType) -> np.dtype:
    """The dtype of a result of tiles of these: floats before integers, then the wider."""
    result = np.dtype(dtypes[0])
    for dtype in dtypes[1:]:
        result = np.dtype(jnp.promote_types(result, dtype))
    return result
