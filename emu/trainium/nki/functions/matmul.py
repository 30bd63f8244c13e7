"""Products and transposes."""

import dataclasses
import functools
from typing import Any

import jax.numpy as jnp
import numpy as np

from emu.annotations import DType
from emu.trainium import isa
from emu.trainium.datasheets import GENERATIONS
from emu.trainium.nki.functions import operands, psum, spread
from emu.trainium.nki.functions.checks import refuse
from emu.trainium.nki.functions.copy import out_of_psum
from emu.trainium.nki.functions.engines import Engine, is_older, offer, way
from emu.trainium.nki.functions.make import BANK_BYTES
from emu.trainium.nki.functions.produce import produce
from emu.trainium.nki.handles import Handle
from emu.trainium.nki.record import current
from emu.trainium.nki.tree import Access

STATIONARY_LIMIT = 128
PARTITION_LIMIT = 128
MOVING_LIMIT = 512
QUADRANT = 32
F32 = np.dtype(np.float32)


def _flat(access: Access, name: str, argument: str) -> Access:
    """A tile as `[k, n]`."""
    flat = operands.shaped(access, (access.shape[0], operands.elements(access)))
    if flat is not None:
        return flat
    return operands.formed(access, (access.shape[0], operands.elements(access)))


def _clipped(mask: object, stationary: Access, moving: Access) -> tuple[Access, Access]:
    """Both operands where a mask leaves less of them.

    A mask's inequalities name axes by their place and length. The first axis is the contracted one,
    of both; the second one the moving tile's columns, or the stationary tile's if it is as long.
    """
    if mask is None:
        return stationary, moving
    from emu.trainium.nki.index import Mask

    assert isinstance(mask, Mask)
    for bound in mask.bounds:
        lengths = {position + 2 - bound.ndim: n for position, n, _ in bound.axes}
        columns = lengths.get(1)
        clips = Mask((bound,)).clips(moving.shape)
        if columns is not None and columns != moving.shape[1]:
            clips = Mask((bound,)).clips(stationary.shape)
            stationary = _part(stationary, clips)
            continue
        moving = _part(moving, clips)
        stationary = _part(
            stationary, {axis: part for axis, part in clips.items() if axis == 0}
        )
    return stationary, moving


def _part(access: Access, clips: dict[int, tuple[int, int]]) -> Access:
    """The part of a tile `[k, n]` between bounds of each axis."""
    for axis, (first, last) in clips.items():
        if axis == 0:
            moved = access.partition.plus(first * access.partition_step)
            access = dataclasses.replace(
                access, partition=moved, partitions=last - first
            )
        else:
            ((stride, _),) = access.axes
            access = dataclasses.replace(
                access,
                offset=access.offset.plus(first * stride),
                axes=((stride, last - first),),
            )
    return access


def nc_matmul(
    dst: Handle | None,
    stationary: object,
    moving: object,
    *,
    accumulate: bool | None = None,
    is_stationary_onezero: bool = False,
    is_moving_onezero: bool = False,
    is_transpose: bool = False,
    perf_mode: object = None,
    dtype: DType | None = None,
    mask: object = None,
    name: str = "nki.isa.nc_matmul",
) -> Handle:
    """`dst (+)= stationaryᵀ · moving` in PSUM.

    Args:
      dst: PSUM `[m, n]`; None makes a fresh tile, which the product overwrites.
      stationary: `[k, m]`.
      moving: `[k, n]`.
      accumulate: whether it adds; None: the first write to a place overwrites, others add.
      is_stationary_onezero: the stationary tile holds ones and zeros only: half the passes.
      is_moving_onezero: likewise the moving one.
      is_transpose: moves elements as they are, from NeuronCore-v3 on.
      perf_mode: None, or `double_row` for 8-bit floats `[k, 2, m]` and `[k, 2, n]`.
      dtype: of a fresh tile.
      mask: clips rows or columns.
      name: NKI's.
    """
    left = operands.on_chip(stationary, name, "stationary")
    right = operands.on_chip(moving, name, "moving")
    mode = getattr(perf_mode, "name", perf_mode)
    if mode not in (None, "none", "double_row", "double_row_gen3"):
        refuse(name, f"perf_mode is {mode}, must be None or double_row")
    rows = mode is not None and mode != "none"
    if dst is not None:
        # The older generation's compiler copies them, the newer's does nothing of its own accord.
        for argument, access in (("stationary", left), ("moving", right)):
            if access.space == "psum":
                refuse(
                    name,
                    f"{argument} is in PSUM, must be in SBUF: nki.isa.tensor_copy it first",
                )
    left, right = out_of_psum(left, name), out_of_psum(right, name)
    if rows:
        full = (left.shape[-1], right.shape[-1])
    else:
        left, right = _flat(left, name, "stationary"), _flat(right, name, "moving")
        full = (left.shape[1], right.shape[1])
        left, right = _clipped(mask, left, right)
    shape = (left.shape[-1], right.shape[-1])
    _check(left, right, name)
    if dst is not None:
        _check_destination(dst, name)
    if is_transpose and not rows and _moves(right):
        return _transposed(dst, left, dtype, name)
    parameters: dict[str, Any] = {}
    if not rows and (is_stationary_onezero or is_moving_onezero):
        parameters["onezero"] = True
    product = isa.nc_matmul_double_row if rows else isa.nc_matmul
    choices = offer(None, name, way("tensor", product, **parameters))
    flag = psum.overwrite if dst is None else functools.partial(psum.flag, accumulate)
    clip = None if shape == full else shape
    return produce(
        name,
        choices,
        dst,
        full,
        shape,
        dtype or F32,
        (left, right),
        space="psum",
        clip=clip,
        flag=flag,
    )


def _moves(right: Access) -> bool:
    """Whether the engine moves the stationary tile by an identity instead of multiplying."""
    return right.shape[0] == right.shape[1] and not is_older(current().device)


def _check_destination(dst: Handle, name: str) -> None:
    """That a product goes into one bank of PSUM."""
    if dst.buffer != "psum":
        refuse(name, f"dst is in {dst.buffer.upper()}, must be in PSUM")
    size = dst.dtype.itemsize
    last = dst.offset + sum(stride * (count - 1) for stride, count in dst.axes)
    banks = dst.offset * size // BANK_BYTES, last * size // BANK_BYTES
    if banks[0] != banks[1]:
        refuse(
            name,
            f"dst goes from bank {banks[0]} of its PSUM tile to bank {banks[1]}, must be in one "
            f"bank of {BANK_BYTES} bytes a partition, {BANK_BYTES // size} of {dst.dtype}",
        )


def _check(left: Access, right: Access, name: str) -> None:
    """The compiler's limits, in its words."""
    if left.shape[0] != right.shape[0]:
        refuse(
            name,
            f"stationary has {left.shape[0]} partitions and moving {right.shape[0]}, must have "
            "as many: the contraction is over partitions",
        )
    if left.shape[-1] > STATIONARY_LIMIT:
        refuse(
            name,
            f"stationary free size is {left.shape[-1]}, at most {STATIONARY_LIMIT} "
            "(nl.tile_size.gemm_stationary_fmax)",
        )
    most = max(MOVING_LIMIT, GENERATIONS[current().device].moving_free_limit.value)
    if right.shape[-1] > most:
        refuse(
            name,
            f"moving free size is {right.shape[-1]}, at most {most} "
            "(nl.tile_size.gemm_moving_fmax)",
        )
    for argument, access in (("stationary", left), ("moving", right)):
        if not jnp.issubdtype(access.dtype, jnp.floating):
            refuse(name, f"{argument} is {access.dtype}, must be a float")


# --- transposes ---


def nc_transpose(
    dst: Handle | None,
    data: object,
    *,
    dtype: DType | None = None,
    mask: object = None,
    engine: object = None,
    name: str = "nki.isa.nc_transpose",
) -> Handle:
    """`dst[n, p] = data[p, n]ᵀ` by the Tensor Engine into PSUM, or up to 32 x 32 by the Vector one.

    Left open, the Tensor Engine takes what it can take.
    """
    source = operands.on_chip(data, name, "data", mask)
    source = _flat(source, name, "data")
    wanted = engine.name if isinstance(engine, Engine) else engine
    small = max(source.shape) <= QUADRANT
    into_sbuf = dst is not None and dst.buffer == "sbuf"
    if wanted in (None, "unknown"):
        wanted = (
            "vector" if small and (into_sbuf or source.space == "psum") else "tensor"
        )
    if wanted == "vector":
        if not small:
            refuse(
                name,
                f"data is {operands.told(source)}, at most [{QUADRANT}, {QUADRANT}] on the "
                "Vector Engine",
            )
        choices = offer(None, name, way("vector", isa.nc_transpose_vector))
        shape = source.shape[::-1]
        return produce(
            name, choices, dst, shape, shape, dtype or source.dtype, (source,)
        )
    if wanted != "tensor":
        refuse(name, f"engine is {wanted}, must be tensor or vector")
    if into_sbuf:
        refuse(name, "dst is in SBUF, must be in PSUM on the Tensor Engine")
    return _transposed(dst, out_of_psum(source, name), dtype, name)


def _transposed(
    dst: Handle | None, source: Access, dtype: DType | None, name: str
) -> Handle:
    """On the Tensor Engine."""
    rows, columns = source.shape
    if columns > STATIONARY_LIMIT:
        refuse(
            name, f"data is {operands.told(source)}, at most {STATIONARY_LIMIT} columns"
        )
    kind: DType = dtype or source.dtype
    if is_older(current().device):
        # Without a transpose mode it is a product with an identity, in float32.
        kind = F32
    choices = offer(None, name, way("tensor", isa.nc_transpose))
    shape = (columns, rows)
    return produce(name, choices, dst, shape, shape, kind, (source,), space="psum")


def matmul(
    x: object,
    y: object,
    *,
    transpose_x: bool = False,
    mask: object = None,
    name: str = "nki.language.matmul",
) -> Handle:
    """`x · y`, or `xᵀ · y`: without the transpose the compiler adds one of its own."""
    if transpose_x:
        return nc_matmul(None, x, y, mask=mask, name=name)
    left = out_of_psum(operands.on_chip(x, name, "x"), name)
    turned = _transposed(None, _flat(left, name, "x"), left.dtype, name)
    moved = out_of_psum(turned.access(), name, left.dtype)
    right = operands.handle(y, name, "y")
    return nc_matmul(None, spread.as_handle(moved), right, mask=mask, name=name)
