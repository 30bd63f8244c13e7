"""Tensors that a kernel declares, and constants that it brings."""

import math
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from emu.annotations import DType
from emu.trainium.nki.dtypes import named
from emu.trainium.nki.functions import psum
from emu.trainium.nki.functions.checks import refuse
from emu.trainium.nki.functions.operands import number
from emu.trainium.nki.handles import Handle, declared, whole_tensor
from emu.trainium.nki.record import current

PARTITIONS = 128
BANK_BYTES = 2048
PSUM_BYTES = 8 * BANK_BYTES


class ParDim(int):
    """`nl.par_dim(128)`: the size of the dimension that lies along partitions."""


class Allocation:
    """A place that a kernel asks for by itself, such as `ncc.psum.alloc(...)` gives.

    Attributes:
      space: `sbuf` or `psum`.
      bank: the PSUM bank of its first buffer; None where it does not say.
    """

    def __init__(self, space: str, bank: int | None = None):
        self.space = space
        self.bank = bank


def _space(buffer: object, name: str) -> tuple[str, int | None]:
    """The memory that a buffer argument names, and the bank."""
    if buffer is None:
        return "sbuf", None
    if isinstance(buffer, Allocation):
        return buffer.space, buffer.bank
    if isinstance(buffer, str) and buffer in ("sbuf", "psum", "hbm"):
        return str(buffer), None
    refuse(name, f"buffer is {buffer!r}, must be nl.sbuf, nl.psum or nl.hbm")


def ndarray(
    shape: Sequence[int],
    dtype: DType,
    buffer: object = None,
    *,
    name: str = "",
    function: str = "nki.language.ndarray",
) -> Handle:
    """An uninitialised tensor; dimensions before `par_dim` are blocks."""
    sizes: list[int] = [shape] if isinstance(shape, int) else list(shape)
    for size in sizes:
        if not hasattr(size, "__index__") or int(size) < 1:
            refuse(function, f"shape is {list(sizes)}, must be whole numbers from 1 on")
    space, bank = _space(buffer, function)
    block: list[int] = []
    if space != "hbm":
        block, sizes = _blocks(sizes, function)
        _check(space, sizes, dtype, function)
    sizes = [int(size) for size in sizes]
    return declared(sizes, dtype, space, name=name or "", block=block, bank=bank)


def _blocks(sizes: list[int], function: str) -> tuple[list[int], list[int]]:
    """The sizes before `par_dim`, and those from it on."""
    marked = [place for place, size in enumerate(sizes) if isinstance(size, ParDim)]
    if len(marked) > 1:
        refuse(function, f"shape has {len(marked)} par_dim, must have one")
    place = marked[0] if marked else 0
    block, sizes = sizes[:place], sizes[place:]
    if len(sizes) == 1:
        sizes = [*sizes, 1]
    return block, sizes


def _check(space: str, sizes: list[int], dtype: DType, function: str) -> None:
    if sizes[0] > PARTITIONS:
        refuse(
            function,
            f"partition dimension is {int(sizes[0])}, at most {PARTITIONS} "
            "(nl.tile_size.pmax): put nl.par_dim where the partitions are, or tile",
        )
    if space != "psum":
        return
    itemsize = named(dtype, function).itemsize
    nbytes = math.prod(int(size) for size in sizes[1:]) * itemsize
    if nbytes > PSUM_BYTES:
        refuse(
            function,
            f"a PSUM tile of {nbytes} bytes a partition, at most {PSUM_BYTES}, 8 banks of "
            f"{BANK_BYTES}",
        )


def full(
    shape: Sequence[int],
    value: object,
    dtype: DType,
    buffer: object = None,
    *,
    name: str = "",
    function: str = "nki.language.full",
) -> Handle:
    """A tensor of one value; zeros in PSUM cost nothing where a matmul writes first."""
    from emu.trainium.nki.functions.elementwise import memset
    from emu.trainium.nki.functions.transfer import store

    handle = ndarray(shape, dtype, buffer, name=name, function=function)
    constant = number(value, function, "fill_value")
    if handle.buffer == "psum" and constant == 0:
        psum.declare_zeros(handle.tensor)
        return handle
    blocks = [range(size) for size in handle.tensor.block]
    for member in np.ndindex(*(len(each) for each in blocks)):
        part = handle[tuple(int(index) for index in member)] if member else handle
        if handle.buffer == "hbm":
            store(part, constant, name=function)
        else:
            memset(part, constant, name=function)
    return handle


def shared_constant(
    value: object,
    dtype: DType | None = None,
    *,
    name: str = "nki.language.shared_constant",
) -> Handle:
    """An array that the kernel brings, in HBM."""
    if not isinstance(value, np.ndarray | jnp.ndarray | np.generic):
        refuse(name, f"constant is {type(value).__name__}, must be a NumPy array")
    held = np.asarray(value)
    kind = jnp.dtype(held.dtype if dtype is None else dtype)
    held = held.astype(kind)
    tensor = current().tensor(
        held.shape, kind, "hbm", name="constant", role="constant", value=held
    )
    return whole_tensor(tensor)
