"""The plain simulation with numbers in its wavelets: every issue does its own elements, in time."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from emu.wse.fabric import operands, ops
from emu.wse.fabric.encoding.encode import Encoded
from emu.wse.fabric.encoding.instructions import NONE, VECTOR
from tests.emu.wse.fabric.wavelets import Thread, Wafer

JOIN = {"add": np.add, "sub": np.subtract, "mul": np.multiply, "max": np.maximum}
Tag = tuple[int, int, int]


class Valued(Wafer):
    """A wafer whose wavelets carry 32 bits.

    Attributes:
      held: buffer name to `[PEs, elements]`.
      carries: what each data wavelet, by its tag, carries.
    """

    def __init__(self, encoded: Encoded, data: dict[str, np.ndarray]):
        super().__init__(encoded)
        self.held_values = {
            name: data[name]
            .astype(jnp.dtype(b.dtype))
            .reshape(len(self.pes), -1)
            .copy()
            if name in data
            else np.full((len(self.pes), b.elements), np.nan, jnp.dtype(b.dtype))
            for name, b in encoded.program.buffers.items()
        }
        self.carries: dict[Tag, int] = {}

    def issue(self, pe: int) -> None:
        left = {thread: x.left for thread, x in self.threads[pe].items()}
        super().issue(pe)
        for thread, x in self.threads[pe].items():
            if x.left != left[thread]:
                self.moved(
                    pe,
                    x,
                    x.instruction.time.issues - left[thread],
                    left[thread] - x.left,
                )

    def pick(self, pe: int) -> bool:
        seen = len(self.did.order)
        picked = super().pick(pe)
        if len(self.did.order) > seen:  # only a data task logs that it is picked
            k = -2 - self.did.order[-1][2]
            task = next(
                each
                for each in list(self.encoded.program.tasks.values())[k]
                if each.place.flat[pe]
            )
            if task.argument is not None:
                color = self.data_task[k, pe]
                word = np.array([self.carries[self.did.read[color, pe][-1]]], np.uint32)
                self.memory(pe, task.argument)[:] = word.view(
                    jnp.dtype(task.argument.dtype)
                )[:1]
        return picked

    def memory(self, pe: int, x: ops.Memory) -> np.ndarray:
        return self.held_values[x.buffer][pe][
            x.start : x.start + x.elements * x.step : x.step
        ]

    def moved(self, pe: int, x: Thread, begin: int, words: int) -> None:
        """An issue has moved the words from `begin` on, or begun a local operation."""
        instruction, op = x.instruction, x.instruction.op
        if instruction.control or instruction.kind != VECTOR:
            return
        if isinstance(op, ops.Map):
            if begin == 0:
                self.loop(pe, op)
            return
        assert isinstance(op, ops.Vector)
        per = (
            operands.WORD_BYTES // jnp.dtype(op.dtype_of(op.inward or op.dst)).itemsize
        )
        fabric = (
            NONE not in (instruction.inward, instruction.outward)
            or instruction.inward != NONE
            or instruction.outward != NONE
        )
        if not fabric and begin:
            return
        part = slice(begin * per, min((begin + words) * per, op.elements))
        part = part if fabric else slice(0, op.elements)
        result = self.compute(pe, op, part, self.came(instruction, pe, op, words, part))
        if isinstance(op.dst, ops.Memory):
            self.memory(pe, op.dst)[part] = result
        if instruction.outward != NONE:
            padded = np.zeros(words * per, result.dtype)
            padded[: len(result)] = result
            first = self.pushed[instruction.outward, pe] - words
            for k, word in enumerate(padded.view(np.uint32).tolist()):
                self.carries[pe, instruction.outward, first + k] = word

    def came(
        self, instruction: Any, pe: int, op: ops.Vector, words: int, part: slice
    ) -> Any:
        """Elements that the last `words` wavelets read carry."""
        if instruction.inward == NONE:
            return None
        tags = self.did.read[instruction.inward, pe][-words:]
        assert op.inward is not None
        raw = np.array([self.carries[tag] for tag in tags], np.uint32)
        return raw.view(jnp.dtype(op.dtype_of(op.inward)))[: part.stop - part.start]

    def compute(self, pe: int, op: ops.Vector, part: slice, came: Any) -> np.ndarray:
        count = part.stop - part.start

        def operand(x: Any) -> np.ndarray:
            if isinstance(x, ops.Memory):
                own = self.memory(pe, x)
                return (
                    np.repeat(own, count)
                    if x.elements == 1 < op.elements
                    else own[part]
                )
            return came if isinstance(x, ops.Fabric) else np.full(count, x, np.float32)

        dtype = jnp.dtype(op.dtype_of(op.dst))
        if op.op == "copy":
            return operand(op.a).astype(dtype)
        a, b = (operand(x).astype(np.float64) for x in op.sources)
        if op.op == "fmac":
            term = (a * b).astype(np.float32).astype(np.float64)
            return (
                (operand(op.dst).astype(np.float64) + term)
                .astype(np.float32)
                .astype(dtype)
            )
        return JOIN[op.op](a, b).astype(np.float32).astype(dtype)

    def loop(self, pe: int, op: ops.Map) -> None:
        x, w, dst = (
            self.memory(pe, op.x),
            self.memory(pe, op.weights),
            self.memory(pe, op.dst),
        )
        rows = dst.reshape(len(x), -1) if op.outer else [dst] * len(x)
        for k, scalar in enumerate(x.astype(np.float32)):
            weights = w if op.outer else w.reshape(len(x), -1)[k]
            term = (scalar * weights.astype(np.float32)).astype(np.float32)
            rows[k][:] = (rows[k].astype(np.float32) + term).astype(dst.dtype)


def values(
    encoded: Encoded, data: dict[str, np.ndarray], limit_cycles: int = 100_000
) -> Valued:
    """Runs a program with numbers to its end."""
    wafer = Valued(encoded, data)
    while wafer.step() and wafer.now <= limit_cycles:
        pass
    return wafer
