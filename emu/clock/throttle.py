"""An engine that runs slower until it has been busy enough: a charge that saturates at both ends.

The charge rises while the engine is in use by more than `share` and falls while it is in use by
less; it takes one window from empty to full at full use, and back when idle (for a share of one
half). Empty makes the engine slow, full makes it fast again. Because the charge saturates, a
loop's schedule still repeats exactly.

With a share of one half a tick of full use adds 256 - 128 = 128 units and an idle tick takes 128,
so a window of 120 ticks is full at 15,360 units. An engine that starts slow and is busy for 100
ticks has 12,800 and is slow still; after 20 idle ticks it has 10,240, and needs 40 more busy ones.
"""

import dataclasses
import functools
from typing import NamedTuple

import numpy as np

from emu.clock.ticks import Active, Flags, PerCore

# Of charge per tick of full use, so that shares and duties are whole numbers.
UNITS = 256


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

    @functools.cached_property
    def full(self) -> int:
        """The charge at which the engine is fast."""
        return self.window_ticks * (UNITS - self.share)


class Charge(NamedTuple):
    """One engine's charge, in units, and whether it is slow: for all cores or per core."""

    charge: PerCore
    slow: Flags


def extra_ticks(
    law: Law, state: Charge, idle: PerCore, busy: PerCore
) -> tuple[Charge, PerCore]:
    """State at the start of an instruction, and by how much longer it keeps the engine busy.

    Args:
      law: of the engine.
      state: when the engine was last free.
      idle: ticks since then.
      busy: ticks the instruction takes at full speed.
    """
    charge = _clip(law, state.charge - law.share * idle)
    slow = _either(state.slow, charge == 0)
    # The speed at the start holds to the end: a charge that fills on the way helps only the next.
    longer = busy * (law.slowdown - 1)
    return Charge(charge, slow), longer * _number(slow)


def gain(law: Law, duty: float) -> int:
    """What each busy tick adds to the charge."""
    # In whole units, so that a loop's charge repeats exactly or not at all.
    return round(duty * UNITS) - law.share


def after(
    law: Law, state: Charge, busy: PerCore, duty: float, active: Active, before: Charge
) -> Charge:
    """State once an instruction has kept the engine in use by `duty` for `busy` ticks.

    `state` is that at its start; `before` stays on cores that are not active.
    """
    charge = _clip(law, state.charge + gain(law, duty) * busy)
    is_below = charge < law.full
    # Between empty and full it is what it was: slow until full once, then fast until empty once.
    still_slow = _number(state.slow) * _number(is_below)
    slow = _either(still_slow > 0, charge == 0)
    if active is None:
        return Charge(charge, slow)
    return Charge(
        np.where(active, charge, before.charge),
        np.where(active, slow, before.slow),
    )


def on_one_core(
    law: Law, charge: int, slow: bool, idle: int, busy: int, each: int
) -> tuple[int, bool, int]:
    """`extra_ticks` and `after` in one, on plain numbers.

    Args:
      law: of the engine.
      charge, slow: when the engine was last free.
      idle: ticks since then.
      busy: ticks the instruction takes at full speed.
      each: the `gain` of a busy tick.

    Returns:
      The charge and whether it is slow when the instruction is done, and the extra ticks.
    """
    full = law.full
    at_start = min(max(charge - law.share * idle, 0), full)
    slow = slow or at_start == 0
    extra = busy * (law.slowdown - 1) if slow else 0
    at_end = min(max(at_start + each * (busy + extra), 0), full)
    return at_end, (slow and at_end < full) or at_end == 0, extra


def _clip(law: Law, charge: PerCore) -> PerCore:
    if isinstance(charge, np.ndarray):
        return np.clip(charge, 0, law.full)
    return min(max(charge, 0), law.full)


def _either(first: Flags, second: Flags) -> Flags:
    if isinstance(first, bool) and isinstance(second, bool):
        return first or second
    return np.logical_or(first, second)


def _number(flags: Flags) -> PerCore:
    if isinstance(flags, bool):
        return int(flags)
    return flags.astype(np.int64)


__all__ = ["Charge", "Law", "UNITS", "after", "extra_ticks", "gain", "on_one_core"]
