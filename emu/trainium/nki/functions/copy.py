"""Copies on chip, with a change of dtype."""

import jax.numpy as jnp

from emu.annotations import DType
from emu.trainium import isa
from emu.trainium.nki.functions import operands
from emu.trainium.nki.functions.engines import is_older, offer, way
from emu.trainium.nki.functions.produce import produce
from emu.trainium.nki.handles import Handle, fresh
from emu.trainium.nki.record import current
from emu.trainium.nki.tree import Access, Choice


def tensor_copy(
    dst: Handle | None,
    src: object,
    *,
    dtype: DType | None = None,
    mask: object = None,
    engine: object = None,
    implicit: bool = False,
    name: str = "nki.isa.tensor_copy",
) -> Handle:
    """`dst = src`, cast."""
    source = operands.on_chip(src, name, "src", mask)
    kind = dtype or source.dtype
    written = kind if dst is None else dst.dtype
    choices = offer(engine, name, *ways(source, written))
    full = operands.full(src, name, "src")
    return produce(
        name,
        choices,
        dst,
        full,
        source.shape,
        kind,
        (source,),
        mask=mask,
        implicit=implicit,
    )


def ways(source: Access, dtype: DType) -> list[Choice]:
    """The engines that copy `source` into tiles of a dtype."""
    found = [way("vector", isa.tensor_copy)]
    if not is_older(current().device):
        found.append(way("scalar", isa.tensor_copy, engine="scalar"))
    elif all(jnp.issubdtype(each, jnp.floating) for each in (source.dtype, dtype)):
        found.append(way("scalar", isa.activation, op="copy"))
    if source.space == "sbuf":
        found.append(way("gpsimd", isa.tensor_copy, engine="gpsimd"))
    return found


def out_of_psum(access: Access, name: str, dtype: DType | None = None) -> Access:
    """The tile in SBUF, copied if it is in PSUM: what the compiler adds without a word."""
    if access.space == "sbuf" and dtype in (None, access.dtype):
        return access
    kind = access.dtype if dtype is None else dtype
    copy = fresh(access.shape, kind, "sbuf").access()
    choices = offer(None, name, *ways(access, kind))
    current().emit("nki.isa.tensor_copy", choices, (copy,), (access,), implicit=True)
    return copy
