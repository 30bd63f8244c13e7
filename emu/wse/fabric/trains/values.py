"""What PEs hold and compute: SRAM as one array a buffer, arithmetic as the datapath rounds it.

Arithmetic is in float32, rounded once to the destination's dtype, as in `pe/isa.py`; a hardware
loop rounds after every scalar, as in `pe/maps.py`. PEs are rows; a stream is words of 32 bits,
16-bit elements packed in pairs, the low half first.
"""

from collections.abc import Mapping
from typing import Any, TypeAlias

import jax.numpy as jnp
import numpy as np

from emu.annotations import DType
from emu.errors import LimitExceeded
from emu.wse.fabric import operands, ops
from emu.wse.fabric.arrays import Elements, Mask, PEs, WordArray
from emu.wse.fabric.encoding.encode import Encoded
from emu.wse.fabric.encoding.instructions import NONE, Instruction
from emu.wse.fabric.errors import FabricError

ARITHMETIC = {"add": np.add, "sub": np.subtract, "mul": np.multiply, "max": np.maximum}
SomePEs: TypeAlias = slice | PEs
"""Flat indices of PEs, or a slice of them."""


def as_slice(pes: PEs) -> SomePEs:
    """The same PEs as a slice where they are consecutive: views instead of copies."""
    if not len(pes):
        return pes
    first = int(pes[0])
    last = int(pes[-1])
    # Read through an index array, rows are copied; read through a slice they are seen where they
    # lie.
    if last - first == len(pes) - 1 and (np.diff(pes) == 1).all():
        return slice(first, last + 1)
    return pes


def count_of(pes: SomePEs) -> int:
    """How many PEs."""
    return pes.stop - pes.start if isinstance(pes, slice) else len(pes)


def to_words(elements: Elements) -> WordArray:
    """`uint32[PEs, words]` of elements `[PEs, elements]`; half a word that is left over is 0."""
    narrow = elements.dtype.itemsize != operands.WORD_BYTES
    if narrow and elements.shape[1] % 2:
        filler = np.zeros_like(elements[:, :1])
        elements = np.concatenate([elements, filler], axis=1)
    return np.ascontiguousarray(elements).view(np.uint32)


def from_words(words: WordArray, elements: int, dtype: DType) -> Elements:
    """Elements `[PEs, elements]` of `uint32[PEs, words]`."""
    padded = np.ascontiguousarray(words).view(jnp.dtype(dtype))
    return padded[:, :elements]


def single(value: Elements | np.float32) -> Elements:
    """The value as float32; exact for every float dtype a PE has."""
    return np.asarray(value).astype(np.float32, copy=False)


class Sram:
    """Contents of every buffer on every PE.

    A buffer that no operation writes is kept as it was given, not copied.

    Attributes:
      arrays: buffer name to `[PEs, elements]`; NaN where nothing was given or written.

    Args:
      encoded: the program.
      data: buffer name to its content, `[height, width, elements]` or what broadcasts to it.
    """

    def __init__(self, encoded: Encoded, data: Mapping[str, Any]):
        program = encoded.program
        self.shape = program.shape
        self.buffers = program.buffers
        unknown = set(data) - set(self.buffers)
        if unknown:
            given = ", ".join(sorted(unknown))
            known = ", ".join(self.buffers) or "none"
            raise LimitExceeded(f"data for {given}: no such buffer, has {known}")
        written = _written(encoded)
        self.arrays: dict[str, Elements] = {}
        for name in self.buffers:
            held = program.held[name]
            given = data.get(name)
            self.arrays[name] = self._content(name, given, held, name in written)

    def _content(self, name: str, given: Any, held: Mask, written: bool) -> Elements:
        buffer = self.buffers[name]
        dtype = jnp.dtype(buffer.dtype)
        whole = (*self.shape, buffer.elements)
        if given is None:
            nothing = np.full(whole, np.nan, dtype)
            return nothing.reshape(-1, buffer.elements)
        content = _real(name, given)
        try:
            content = np.broadcast_to(content, whole)
        except ValueError:
            raise LimitExceeded(
                f"data for buffer '{name}': shape {content.shape}, must broadcast to {whole}"
            ) from None
        changed = written or not held.all()
        # What nobody writes may stay the caller's own array, a broadcast one included: a weight
        # that all PEs share is in memory once.
        content = content.astype(dtype, copy=changed)
        if not held.all():
            content[~held] = np.nan
        return content.reshape(-1, buffer.elements)

    def read(self, memory: ops.Memory, pes: SomePEs) -> Elements:
        """`[PEs, elements]` of a memory operand."""
        array = self.arrays[memory.buffer]
        return array[pes, _elements_of(memory)]

    def write(self, memory: ops.Memory, pes: SomePEs, value: Elements) -> None:
        """Rounds `value` `[PEs, elements]` to the operand's dtype and keeps it."""
        array = self.arrays[memory.buffer]
        array[pes, _elements_of(memory)] = value

    def contents(self) -> dict[str, np.ndarray]:
        """Buffer name to `[height, width, elements]`."""
        found = {}
        for name, array in self.arrays.items():
            found[name] = array.reshape(*self.shape, -1)
        return found


def _real(name: str, given: Any) -> np.ndarray:
    """What is given for a buffer, if it is real numbers."""
    try:
        content = np.asarray(given)
    except ValueError as error:
        raise LimitExceeded(f"data for buffer '{name}' is no array: {error}") from None
    kind = jnp.dtype(content.dtype)
    if not (jnp.issubdtype(kind, np.floating) or jnp.issubdtype(kind, np.integer)):
        raise LimitExceeded(
            f"data for buffer '{name}' is of dtype {kind}, must be real numbers"
        )
    return content


def _elements_of(memory: ops.Memory) -> slice:
    stop = memory.start + memory.elements * memory.step
    return slice(memory.start, stop, memory.step)


def _written(encoded: Encoded) -> set[str]:
    """Buffers that some operation writes, or a wavelet that starts a task."""
    written: set[str] = set()
    for instruction in encoded.instructions:
        parts = instruction.op.first if isinstance(instruction.op, ops.Code) else ()
        for op in (instruction.op, *parts):
            destination = getattr(op, "dst", None)
            if isinstance(destination, ops.Memory):
                written.add(destination.buffer)
    for declared in encoded.program.tasks.values():
        for task in declared:
            if task.argument:
                written.add(task.argument.buffer)
    return written


# --- operations ---


def perform(
    sram: Sram,
    instruction: Instruction,
    pes: SomePEs,
    words: WordArray | None,
) -> WordArray | None:
    """Does one operation on some PEs.

    Args:
      sram: what they hold; changed.
      instruction: the operation.
      pes: which PEs.
      words: `uint32[PEs, words]` that its fabric source takes.

    Returns:
      `uint32[PEs, words]` that it sends, or None.
    """
    op = instruction.op
    with np.errstate(all="ignore"):  # a PE's overflow is an infinity, not a warning
        match op:
            case ops.Vector():
                result = _vector(sram, op, pes, words)
                if instruction.outward != NONE:
                    shape = (count_of(pes), op.elements)
                    return to_words(np.broadcast_to(result, shape))
            case ops.Map():
                _map(sram, op, pes)
            case ops.Code():
                _code(sram, op, pes, instruction.where)
    return None


def _code(sram: Sram, op: ops.Code, pes: SomePEs, where: str) -> None:
    for before in op.first:
        _code(sram, before, pes, where)
    if op.dst is None or op.function is None:
        return
    sources = [sram.read(source, pes) for source in op.sources]
    if op.by_pe:
        flat = np.arange(pes.start, pes.stop) if isinstance(pes, slice) else pes
        result = np.asarray(op.function(flat, *sources))
    else:
        result = np.asarray(op.function(*sources))
    wanted = (count_of(pes), op.dst.elements)
    try:
        result = np.broadcast_to(result, wanted)
    except ValueError:
        raise FabricError(
            f"code '{op.what}': its function gave an array {list(result.shape)}, must give "
            f"{list(wanted)}, PEs and the elements of '{op.dst.buffer}'",
            where,
        ) from None
    sram.write(op.dst, pes, result)


def _vector(
    sram: Sram,
    op: ops.Vector,
    pes: SomePEs,
    words: WordArray | None,
) -> Elements:
    """The result in the destination's dtype, written if that is memory."""

    def value_of(operand: ops.Operand) -> Elements | np.float32:
        if isinstance(operand, ops.Memory):
            return sram.read(operand, pes)
        if isinstance(operand, ops.Fabric):
            assert words is not None
            return from_words(words, op.elements, op.dtype_of(operand))
        return np.float32(operand)

    dtype = jnp.dtype(op.dtype_of(op.dst))
    first = value_of(op.a)
    if op.b is None:  # a copy
        result = np.asarray(first)
    else:
        first = single(first)
        second = single(value_of(op.b))
        if op.op == "fmac":
            # Rounded, as `emu.wse.pe.maps` does. Of 16-bit operands the product is exact in float32
            # (8 + 8 bits of bfloat16, 11 + 11 of float16, in 24), unless it leaves float32's range,
            # so that fused or not makes no difference.
            product = first * second
            result = single(value_of(op.dst)) + product
        else:
            result = ARITHMETIC[op.op](first, second)
    result = result.astype(dtype, copy=False)
    if isinstance(op.dst, ops.Memory):
        sram.write(op.dst, pes, result)
    return result


def _map(sram: Sram, op: ops.Map, pes: SomePEs) -> None:
    weights = sram.read(op.weights, pes)
    scalars = single(sram.read(op.x, pes))
    sums = sram.read(op.dst, pes)
    dtype = sums.dtype
    if op.outer:
        # Every sum gets one product, so there is no order of rounding to keep.
        columns = scalars[:, :, None]
        products = columns * single(weights)[:, None]
        sums = single(sums) + products.reshape(sums.shape)
        sums = sums.astype(dtype, copy=False)
    else:
        weights = weights.reshape(-1, op.x.elements, op.dst.elements)
        for number in range(op.x.elements):
            # Scalar by scalar, as the loop does: in bfloat16, 256 + 1 is 256 (a tie goes to the
            # even), so two scalars that add 1 each leave 256, where a matrix product in float32
            # would give 258.
            scalar = scalars[:, number, None]
            products = scalar * single(weights[:, number])
            sums = single(sums) + products
            sums = sums.astype(dtype, copy=False)
    sram.write(op.dst, pes, sums)


__all__ = [
    "SomePEs",
    "Sram",
    "as_slice",
    "count_of",
    "from_words",
    "perform",
    "single",
    "to_words",
]
