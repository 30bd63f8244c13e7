"""What PEs hold and compute: SRAM as one array a buffer, arithmetic as the datapath rounds it.

Arithmetic is in float32, rounded once to the destination's dtype, as in `isa.py`; a hardware loop
rounds after every scalar, as in `maps.py`. PEs are rows; a stream is words of 32 bits, 16-bit
elements packed in pairs, the low half first.
"""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from emu.errors import LimitExceeded
from emu.wse.fabric import operands, ops
from emu.wse.fabric.encoding.encode import Encoded
from emu.wse.fabric.encoding.instructions import NONE, Instruction

ARITHMETIC = {"add": np.add, "sub": np.subtract, "mul": np.multiply, "max": np.maximum}
Rows = Any  # a slice of PEs, or their indices


def rows_of(pes: np.ndarray) -> Rows:
    """The same PEs as a slice where they are consecutive: views instead of copies."""
    if len(pes) and pes[-1] - pes[0] == len(pes) - 1 and (np.diff(pes) == 1).all():
        return slice(int(pes[0]), int(pes[-1]) + 1)
    return pes


def count_of(rows: Rows) -> int:
    """How many PEs."""
    return rows.stop - rows.start if isinstance(rows, slice) else len(rows)


def to_words(x: np.ndarray) -> np.ndarray:
    """`uint32[PEs, words]` of elements `[PEs, elements]`."""
    if x.dtype.itemsize == operands.WORD_BYTES:
        return np.ascontiguousarray(x).view(np.uint32)
    if x.shape[1] % 2:
        x = np.concatenate([x, np.zeros_like(x[:, :1])], axis=1)
    return np.ascontiguousarray(x).view(np.uint32)


def from_words(words: np.ndarray, elements: int, dtype: Any) -> np.ndarray:
    """Elements `[PEs, elements]` of `uint32[PEs, words]`."""
    return np.ascontiguousarray(words).view(jnp.dtype(dtype))[:, :elements]


def single(x: Any) -> Any:
    """`x` as float32; exact for every float dtype a PE has."""
    return np.asarray(x).astype(np.float32, copy=False)


class Sram:
    """Contents of every buffer on every PE.

    A buffer that no operation writes is kept as it was given, not copied.
    """

    def __init__(self, encoded: Encoded, data: Mapping[str, Any]):
        program = encoded.program
        self.shape = program.shape
        self.buffers = program.buffers
        unknown = set(data) - set(self.buffers)
        if unknown:
            raise LimitExceeded(
                f"data for {', '.join(sorted(unknown))}: no such buffer, has "
                f"{', '.join(self.buffers) or 'none'}"
            )
        written = {buffer for i in encoded.instructions for buffer in _written(i.op)}
        written |= {
            t.argument.buffer for ts in program.tasks.values() for t in ts if t.argument
        }
        self.arrays = {
            name: self._content(
                name, data.get(name), program.held[name], name in written
            )
            for name in self.buffers
        }

    def _content(
        self, name: str, given: Any, held: np.ndarray, written: bool
    ) -> np.ndarray:
        buffer = self.buffers[name]
        dtype = jnp.dtype(buffer.dtype)
        whole = (*self.shape, buffer.elements)
        if given is None:
            x = np.full(whole, np.nan, dtype)
        else:
            try:
                x = np.broadcast_to(np.asarray(given), whole)
            except ValueError:
                raise LimitExceeded(
                    f"data for buffer '{name}': shape {np.shape(given)}, must broadcast to {whole}"
                ) from None
            x = (
                x.astype(dtype)
                if written or not held.all()
                else x.astype(dtype, copy=False)
            )
            if not held.all():
                x[~held] = np.nan
        return x.reshape(-1, buffer.elements)

    def read(self, x: ops.Memory, rows: Rows) -> np.ndarray:
        """`[PEs, elements]` of a memory operand."""
        return self.arrays[x.buffer][
            rows, x.start : x.start + x.elements * x.step : x.step
        ]

    def write(self, x: ops.Memory, rows: Rows, value: np.ndarray) -> None:
        """Rounds `value` `[PEs, elements]` to the operand's dtype and keeps it."""
        at = slice(x.start, x.start + x.elements * x.step, x.step)
        self.arrays[x.buffer][rows, at] = value

    def out(self) -> dict[str, np.ndarray]:
        """Buffer name to `[height, width, elements]`."""
        return {name: x.reshape(*self.shape, -1) for name, x in self.arrays.items()}


def _written(op: ops.Op) -> list[str]:
    dst = getattr(op, "dst", None)
    return [dst.buffer] if isinstance(dst, ops.Memory) else []


# --- operations ---


def perform(
    sram: Sram, i: Instruction, rows: Rows, words: np.ndarray | None
) -> np.ndarray | None:
    """Does one operation on PEs `rows`.

    Args:
      sram: what they hold; changed.
      i: the operation.
      rows: the PEs.
      words: `uint32[PEs, words]` that its fabric source takes.

    Returns:
      `uint32[PEs, words]` that it sends, or None.
    """
    with np.errstate(all="ignore"):  # a PE's overflow is an infinity, not a warning
        match i.op:
            case ops.Vector():
                return _vector(sram, i.op, rows, words, i.outward != NONE)
            case ops.Map():
                _map(sram, i.op, rows)
            case ops.Code():
                if i.op.dst is not None and i.op.function is not None:
                    sources = [sram.read(x, rows) for x in i.op.sources]
                    sram.write(i.op.dst, rows, np.asarray(i.op.function(*sources)))
    return None


def _vector(
    sram: Sram, op: ops.Vector, rows: Rows, words: np.ndarray | None, outward: bool
) -> np.ndarray | None:
    def operand(x: ops.Operand) -> np.ndarray | np.float32:
        if isinstance(x, ops.Memory):
            return sram.read(x, rows)
        if isinstance(x, ops.Fabric):
            assert words is not None
            return from_words(words, op.elements, op.dtype_of(x))
        return np.float32(x)

    dtype = jnp.dtype(op.dtype_of(op.dst))
    a = operand(op.a)
    if op.op == "copy":
        result = a
    elif op.op == "fmac":
        assert op.b is not None
        result = single(operand(op.dst)) + single(a) * single(operand(op.b))
    else:
        assert op.b is not None
        result = ARITHMETIC[op.op](single(a), single(operand(op.b)))
    if isinstance(op.dst, ops.Memory):
        sram.write(op.dst, rows, np.asarray(result).astype(dtype, copy=False))
    if not outward:
        return None
    shape = (count_of(rows), op.elements)
    return to_words(
        np.broadcast_to(np.asarray(result).astype(dtype, copy=False), shape)
    )


def _map(sram: Sram, op: ops.Map, rows: Rows) -> None:
    weights = sram.read(op.weights, rows)
    x = single(sram.read(op.x, rows))
    acc = sram.read(op.dst, rows)
    if op.outer:
        made = (x[:, :, None] * single(weights)[:, None]).reshape(acc.shape)
        acc = (single(acc) + made).astype(acc.dtype, copy=False)
    else:
        weights = weights.reshape(-1, op.x.elements, op.dst.elements)
        for k in range(op.x.elements):
            term = x[:, k, None] * single(weights[:, k])
            acc = (single(acc) + term).astype(acc.dtype, copy=False)
    sram.write(op.dst, rows, acc)


__all__ = [
    "Rows",
    "Sram",
    "count_of",
    "from_words",
    "perform",
    "rows_of",
    "single",
    "to_words",
]
