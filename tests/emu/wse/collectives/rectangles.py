"""Programs on a rectangle inside a larger fabric, for tests."""

from typing import Any

import numpy as np

from emu.wse.collectives.programs import (
    code,
)
from emu.wse.fabric import ops, stepper
from emu.wse.fabric.program import FabricProgram


def rectangle(
    device: Any, begin: np.ndarray, words: int, build: Any, within: Any = np.s_[:, :]
) -> np.ndarray:
    """`int[rows, columns]`: ends of a program inside a larger grid."""
    rows, columns = begin.shape
    program = FabricProgram(columns + 2, rows + 1)
    inside = np.s_[1:, 1:-1]
    x = program.buffer("x", words)[:]
    waits = [
        (np.s_[y + 1, c + 1], [ops.Code(int(begin[y, c]))])
        for y in range(rows)
        for c in range(columns)
    ]
    (code(program, waits) + build(program, x, inside)).declare(
        program, "main", start=True
    )
    return stepper.run(program, device, path="cycles").ends[inside]
