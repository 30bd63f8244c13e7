"""Many lines of PEs stepped at once: each is a row of one fabric, with a case of its own."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from emu.wse.collectives.programs import Code, Line, code
from emu.wse.fabric import ops, stepper
from emu.wse.fabric.program import FabricProgram
from emu.wse.fabric.result import Run
from emu.wse.timeline.wires import Wires, wires

Build = Callable[[Line, ops.Memory, Any], Code]


@dataclasses.dataclass(frozen=True)
class Case:
    """One line.

    Attributes:
      starts: cycles before each PE's part, 1 or more.
      words: elements in each PE, wavelets where they are float32.
      what: what the program is built from, such as a tree or a root.
    """

    starts: tuple[int, ...]
    words: int
    what: Any

    @property
    def armed(self) -> np.ndarray:
        """`int64[1, pes, 1]`, as arrival formulas take starts."""
        return np.array(self.starts, np.int64)[None, :, None]

    @property
    def count(self) -> np.ndarray:
        """`int[1, 1, 1]`: words, as they take lengths."""
        return np.array(self.words).reshape(1, 1, 1)


def starts(rng: np.random.Generator, pes: int, most: int) -> tuple[int, ...]:
    """Starts up to `most` cycles apart."""
    return tuple((1 + rng.integers(0, most + 1, pes)).tolist())


def run(
    cases: Sequence[Case],
    build: Build,
    device: Any,
    data: np.ndarray | None = None,
    dtype: str = "float32",
    **how: Any,
) -> Run:
    """Steps all cases, each on its row; `x` holds each PE's words.

    Args:
      cases: one a row.
      build: lays the routes of one line and gives its code.
      device: the wafer.
      data: `[cases, pes, words]`, for values too.
      dtype: of the elements.
      how: as the stepper takes it.
    """
    program = FabricProgram(max(len(c.starts) for c in cases), len(cases))
    x = program.buffer("x", max(c.words for c in cases), dtype)
    total = code(program, [])
    for row, case in enumerate(cases):
        line = Line(program, "x", np.s_[row : row + 1, : len(case.starts)])
        waits = [(line.at(i), [ops.Code(n)]) for i, n in enumerate(case.starts)]
        total += code(program, waits) + build(line, x[: case.words], case.what)
    total.declare(program, "main", start=True)
    return stepper.run(program, device, data if data is None else {"x": data}, **how)


def fabric(sheet: Any) -> tuple[Any, Wires]:
    """A sheet's device and wires."""
    device = sheet.at()
    return device, wires(device)


__all__ = ["Case", "fabric", "run", "starts"]
