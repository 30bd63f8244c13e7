"""An engine that runs slower until it has been busy enough: a charge that saturates at both ends.

The charge rises while the engine is in use by more than `share` and falls while it is in use by
less; it takes one window from empty to full at full use, and back when idle (for a share of one
half). Empty makes the engine slow, full makes it fast again. Because the charge saturates, a
loop's schedule still repeats exactly.
"""

import dataclasses
from typing import Any

import numpy as np

from emu.clock.ticks import Ticks, select

UNITS = (
    256  # of charge per tick of full use, so that shares and duties are whole numbers
)


@dataclasses.dataclass(frozen=True)
class Law:
    """How an engine throttles.

    Attributes:
      window_ticks: of full use that makes it fast.
      share: of use, in `UNITS`, below which it becomes slow.
      slowdown: by which busy time is longer while it is slow.
    """

    window_ticks: int
    share: int
    slowdown: int

    @property
    def full(self) -> int:
        return self.window_ticks * (UNITS - self.share)


@dataclasses.dataclass(frozen=True)
class State:
    """One engine's charge and whether it is slow, each for all cores or per core."""

    charge: Any = 0
    slow: Any = True

    def form(self) -> Any:
        """What must be equal for two states to have the same future."""
        return np.asarray(self.charge).tobytes(), np.asarray(self.slow).tobytes()


def extra_ticks(
    law: Law, state: State, idle: Ticks, busy: Ticks
) -> tuple[State, Ticks]:
    """State at the start of an instruction, and by how much longer it keeps the engine busy.

    Args:
      law: of the engine.
      state: when the engine was last free.
      idle: ticks since then.
      busy: ticks the instruction takes at full speed.
    """
    charge = _clip(law, state.charge - law.share * idle)
    slow = _either(state.slow, charge == 0)
    return State(charge, slow), busy * (law.slowdown - 1) * _number(slow)


def after(
    law: Law, state: State, busy: Ticks, duty: float, active: Any, before: State
) -> State:
    """State once an instruction has kept the engine in use by `duty` for `busy` ticks."""
    gain = round(duty * UNITS) - law.share
    charge = _clip(law, state.charge + gain * busy)
    slow = _number(state.slow) * _number(charge < law.full)
    slow = _either(slow > 0, charge == 0)
    if active is None:
        return State(charge, slow)
    return State(
        select(active, charge, before.charge), np.where(active, slow, before.slow)
    )


def _clip(law: Law, charge: Any) -> Any:
    if isinstance(charge, np.ndarray):
        return np.clip(charge, 0, law.full)
    return min(max(charge, 0), law.full)


def _either(a: Any, b: Any) -> Any:
    return a or b if type(a) is bool and type(b) is bool else np.logical_or(a, b)


def _number(x: Any) -> Any:
    return int(x) if type(x) is bool else x.astype(np.int64)


__all__ = ["Law", "State", "after", "extra_ticks"]
