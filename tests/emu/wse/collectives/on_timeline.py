"""Collectives as instructions on a line of PEs, for tests, and what their clocks begin with."""

from typing import Any

from emu import Program, wse

LINE = ("row",)


def on_line(pes: int, call: Any, inputs: int = 1, knowns: int = 0) -> Program:
    return Program(call, {"row": pes}, (LINE,) * inputs + ((),) * knowns)


def like(x: Any, shape: tuple[int, ...] | None = None) -> Any:
    """A fresh tile like `x`, or of another shape."""
    return wse.sram_tile(shape=x.shape if shape is None else shape, dtype=x.dtype)


# A call is 110 or 20 and a load of 9 or 4; a set-up of 17 or 4 comes before a stream, a drain of 4
# after it.
ENDS = {"WSE-2": 49 + 17 + 4, "WSE-3": 24 + 4 + 4}


GAP = {"WSE-2": 21, "WSE-3": 8}
