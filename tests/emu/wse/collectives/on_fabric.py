"""Collectives as programs on a line of PEs, for tests, and the same as instructions."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from emu import Program
from emu.wse import WSE2, WSE3, trees
from emu.wse.collectives.programs import (
    Code,
    Line,
    everywhere,
)
from emu.wse.fabric import ops, stepper
from emu.wse.fabric.program import FabricProgram
from emu.wse.fabric.result import Run
from emu.wse.pe.laws import call_cycles

PES = 12


TREES = {
    "chain": trees.chain(PES),
    "star": trees.star(PES),
    "binary": trees.binary(PES),
    "two-phase": trees.two_phase(PES, 4),
    "two-tree": trees.two_tree(PES, 3),
    "two-tree, stored": trees.two_tree(PES, 3, stores=True),
}


DTYPES = pytest.mark.parametrize("dtype", ["float32", "bfloat16"])


SHEETS = pytest.mark.parametrize("sheet", [WSE2, WSE3], ids=lambda s: s.name)


Laid = Callable[[Line, ops.Buffer, ops.Buffer], Code]


def values(shape: tuple[int, ...], dtype: str) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(jnp.dtype(dtype))


def stepped(
    x: np.ndarray, build: Laid, out: int = 1, device: Any = None, **how: Any
) -> Run:
    """Runs a collective on one line; `x` is `[pes, n]`, and `y` has room for `out` elements."""
    device = WSE3.at() if device is None else device
    program = FabricProgram(len(x))
    line, dtype = Line(program), str(x.dtype)
    a, b = program.buffer("x", x.shape[1], dtype), program.buffer("y", out, dtype)
    begins = everywhere(program, ops.Code(call_cycles(device)))
    (begins + build(line, a, b)).declare(program, "main", start=True)
    return stepper.run(program, device, {"x": x[None]}, **how)


def timeline(call: Callable[..., Any]) -> Program:
    return Program(call, {"row": PES}, (("row",),))


def same(got: Any, expected: Any) -> None:
    """Equal bit for bit, NaN where nothing was written included."""
    got, expected = np.asarray(got), np.asarray(expected)
    assert got.dtype == expected.dtype
    np.testing.assert_array_equal(got.astype(np.float64), expected.astype(np.float64))
