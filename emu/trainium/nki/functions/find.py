"""The largest values of each partition, where they stand, and elements gathered by their places."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING

import numpy as np

from emu.annotations import DType
from emu.trainium import isa
from emu.trainium.nki.functions.checks import refuse
from emu.trainium.nki.functions.engines import offer, way
from emu.trainium.nki.functions.operands import number, on_chip
from emu.trainium.nki.functions.produce import produce
from emu.trainium.nki.record import current
from emu.trainium.nki.tree import Access

if TYPE_CHECKING:
    from emu.trainium.nki.handles import Handle

EIGHT = 8


def flat(access: Access) -> Access:
    """The tile as `[p, n]`, whatever its free axes are."""
    free = math.prod(access.shape[1:])
    if len(access.shape) == 2:
        return access
    return dataclasses.replace(access, form=(access.shape[0], free))


def _eight(value: object, like: Access, function: str, argument: str) -> Access:
    access = flat(on_chip(value, function, argument))
    wanted = like.shape[0], EIGHT
    if access.shape != wanted:
        refuse(function, f"{argument} is {list(access.shape)}, must be {list(wanted)}")
    return access


def max8(
    dst: Handle | None,
    src: Handle,
    *,
    dtype: DType | None = None,
    mask: object = None,
    name: str = "nki.isa.max8",
) -> Handle:
    """`dst[p, 8]`: the eight largest of each partition, descending."""
    source = on_chip(src, name, "src", mask)
    shape = source.shape[0], EIGHT
    return produce(
        name,
        offer(None, name, way("vector", isa.nc_max8)),
        dst,
        shape,
        shape,
        source.dtype if dtype is None else dtype,
        (source,),
    )


def nc_find_index8(
    dst: Handle | None,
    data: Handle,
    vals: Handle,
    *,
    dtype: DType = np.uint32,
    mask: object = None,
    name: str = "nki.isa.nc_find_index8",
) -> Handle:
    """`dst[p, 8]`: where each of `vals[p, 8]` first stands in its partition of `data`."""
    source = flat(on_chip(data, name, "data", mask))
    values = _eight(vals, source, name, "vals")
    return produce(
        name,
        offer(None, name, way("vector", isa.nc_find_index8)),
        dst,
        values.shape,
        values.shape,
        dtype,
        (source, values),
    )


def nc_match_replace8(
    dst: Handle | None,
    data: Handle,
    vals: Handle,
    imm: float,
    dst_idx: Handle | None = None,
    *,
    dtype: DType | None = None,
    mask: object = None,
    name: str = "nki.isa.nc_match_replace8",
) -> Handle:
    """`dst = data` with the first match of each of `vals[p, 8]`, in turn, set to `imm`.

    `dst_idx[p, 8]` gets where the matches were.
    """
    source = flat(on_chip(data, name, "data", mask))
    values = _eight(vals, source, name, "vals")
    value = number(imm, name, "imm")
    choice = way("vector", isa.nc_match_replace8, value=value)
    more: tuple[Access, ...] = ()
    if dst_idx is not None:
        choice = way("vector", isa.nc_match_replace8_index, value=value)
        places = flat(on_chip(dst_idx, name, "dst_idx", written=True))
        more = (places,)
    # Into the data's own shape, or whatever else has as many elements a partition.
    into = None if dst is None else dst.reshape(source.shape)
    return produce(
        name,
        offer(None, name, choice),
        into,
        source.shape,
        source.shape,
        source.dtype if dtype is None else dtype,
        (source, values),
        mask=mask,
        more=more,
    )


def local_gather(
    dst: Handle | None,
    src_buffer: Handle,
    index: Handle,
    num_elem_per_idx: int = 1,
    num_valid_indices: int | None = None,
    *,
    mask: object = None,
    name: str = "nki.isa.local_gather",
) -> Handle:
    """Each 16 partitions gather along their free dimension by the indices of all 16."""
    source = on_chip(src_buffer, name, "src_buffer", mask)
    indices = flat(on_chip(index, name, "index"))
    rows, columns = indices.shape
    count = 16 * columns
    if num_valid_indices not in (None, count):
        refuse(
            name,
            f"num_valid_indices is {num_valid_indices}, must be {count}, all that index has",
        )
    shape = rows, count, int(num_elem_per_idx)
    return produce(
        name,
        offer(None, name, way("gpsimd", isa.local_gather)),
        dst,
        shape,
        shape,
        source.dtype,
        (source, indices),
    )


def nc_n_gather(
    dst: Handle | None,
    data: Handle,
    indices: Handle,
    *,
    name: str = "nki.isa.nc_n_gather",
) -> Handle:
    """`dst[p, i] = data[p, indices[p, i]]`, each partition by itself, its elements as one row."""
    source = flat(on_chip(data, name, "data"))
    given = on_chip(indices, name, "indices")
    index = flat(given)
    return produce(
        name,
        offer(None, name, way("gpsimd", isa.nc_n_gather)),
        dst if dst is None else dst.reshape(index.shape),
        index.shape,
        index.shape,
        source.dtype,
        (source, index),
    )


def nonzero_with_count(
    dst: Handle,
    src: Handle,
    index_offset: int = 0,
    padding_val: int = -1,
    *,
    name: str = "nki.isa.nonzero_with_count",
) -> None:
    """Of partitions 0, 16, 32, ...: places of elements that are not 0, padding, their number."""
    source = flat(on_chip(src, name, "src"))
    target = flat(on_chip(dst, name, "dst", written=True))
    rows, count = source.shape
    if target.shape != (rows, count + 1):
        refuse(
            name, f"dst is {list(target.shape)}, must be {[rows, count + 1]}, one more"
        )
    choice = way(
        "gpsimd",
        isa.nonzero_with_count,
        offset=int(index_offset),
        padding=int(padding_val),
    )
    current().emit(name, offer(None, name, choice), (target,), (source,))
