"""Numbers in place of a time: a *mark* says which clock it is, others say that it stays.

What happened long ago decides nothing (`emu.loops.starting_state`), so two cores may be in one
class although, say, a buffer has been idle since tick 40 on one and since tick 900 on the other. In
the core that is read for both, that clock holds a mark, far below all times. If nothing in the loop
moves it, the mark comes out again, and on each core stands for that core's own 40 or 900.

All are far from any time, and from each other:

    ALWAYS    KEEP      marks   | PAST      EARLY      times: 0 ... 2**57    NEVER
    -4 * 2**60  -2 * 2**60  -2**60 - n | -2**59   -2**58                       2**60
"""

from emu.clock.resources import Row

# So far apart that sums stay in their range: a start may add an operand's lead of thousands of
# ticks to a mark, for a maximum that it loses as surely as the mark itself.
FOREVER = 1 << 60

PAST = -(1 << 59)
"""Below all times, above all marks."""

KEEP = -2 * FOREVER
"""In an outcome: what was there stays."""

ALWAYS = -4 * FOREVER
"""Below all times and marks, as a bound: everything is later."""

NEVER = FOREVER
"""Above all times, `LATE` ones too: the start of an instruction that there is not."""

EARLY = -(1 << 58)
"""In a starting state: too early to decide anything."""


class Marks:
    """The marks handed out so far; a clock has the same one in every visit of every loop."""

    def __init__(self) -> None:
        self._numbers: dict[Row, int] = {}
        self._rows: list[Row] = []

    def mark(self, row: Row) -> int:
        """The mark that stands for a clock."""
        number = self._numbers.get(row)
        if number is None:
            number = self._numbers[row] = len(self._rows)
            self._rows.append(row)
        # Clocks have hundreds of names, not 2**60, so no mark comes near KEEP.
        return -FOREVER - number

    def row(self, mark: int) -> Row:
        """The clock that a mark stands for."""
        return self._rows[-FOREVER - mark]


__all__ = ["ALWAYS", "EARLY", "KEEP", "Marks", "NEVER", "PAST"]
