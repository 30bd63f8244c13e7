"""An `engine` argument, as the choices that an operation has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from emu.instruction import Instruction
from emu.trainium.nki.tree import Choice


def choices(
    engine: object,
    function: str,
    instruction: Instruction[..., Any],
    parameters: Mapping[str, Any],
    able: Sequence[str],
) -> tuple[Choice, ...]:
    """One choice for each of the engines `able`, in that order, or of the engine asked for."""
    raise NotImplementedError
