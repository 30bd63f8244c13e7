"""An `engine` argument, as the choices that an operation has.

What an author leaves open (`nki.isa.unknown_engine`) may run wherever the result is the same; the
first choice is the one a literal reading takes.
"""

import enum
import functools
from typing import Any

from emu.instruction import Instruction
from emu.trainium.datasheets import GENERATIONS
from emu.trainium.nki.functions.checks import refuse
from emu.trainium.nki.tree import Choice


class Engine(enum.Enum):
    """`nki.isa.vector_engine` and its like."""

    unknown = 0
    tensor = 1
    vector = 2
    scalar = 3
    gpsimd = 4
    sync = 5
    dma = 6


@functools.cache
def way(
    engine: str,
    instruction: Instruction[..., Any],
    operands: tuple[int, ...] | None = None,
    /,
    **parameters: Any,
) -> Choice:
    """A choice; the same object for the same arguments, so that equal operations compare fast."""
    return Choice(engine, instruction, parameters, operands)


@functools.cache
def offer(engine: object, function: str, *ways: Choice) -> tuple[Choice, ...]:
    """Those of `ways` that run on the engine asked for; all of them if it was left open.

    Args:
      engine: as the kernel gave it; None leaves it open.
      function: NKI's name.
      ways: the one that a literal reading takes first.
    """
    if engine is None or engine is Engine.unknown:
        return ways
    wanted = engine.name if isinstance(engine, Engine) else str(engine)
    kept = tuple(way for way in ways if way.engine == wanted)
    if not kept:
        able = " or ".join(dict.fromkeys(way.engine for way in ways))
        refuse(function, f"engine is {wanted}, must be {able} for these operands")
    return kept


def is_older(device: str) -> bool:
    """Whether the Scalar Engine has activations only, as up to Trainium1."""
    return not GENERATIONS[device].scalar_elementwise.value
