"""From one entry per class of cores to times and names over the mesh.

Four cells of which the first two are class 0 and the others class 1, `ids = [0, 0, 1, 1]`, with
bases 100, 200, 300, 400: the entries 7 and 9 are the times 107, 207, 309 and 409. Were the second
entry a mark, the last two cells would keep their own times of the clock that it stands for.
"""

from collections.abc import Callable, Sequence

import numpy as np

from emu.clock import names
from emu.clock.names import CauseName
from emu.clock.ticks import LATE, Flags, Ticks, is_late
from emu.loops.entry import LoopEntry
from emu.loops.marks import KEEP, PAST
from emu.loops.outcome import Outcome


class PerClass:
    """Outcomes of classes of cores, and who is in which class.

    Attributes:
      entry: the loop.
      outcomes: one per class.
      ids: class of each cell; those that take no part are in none, the number after the last.
      base: of each cell, what its class' times count from.
      late: of each cell, when what is late arrives; 0 where nothing is.
      traced: the class that is the traced core.
      all: whether all cells take part.
      single: whether there is one cell, as in a loop inside a core that is read alone: its entries
        need no arrays.
    """

    def __init__(
        self,
        entry: LoopEntry,
        outcomes: list[Outcome],
        ids: np.ndarray,
        base: np.ndarray,
        late: np.ndarray,
        traced: int | None,
    ):
        self.entry = entry
        self.state = entry.state
        self.outcomes = outcomes
        self.ids = ids
        self.base = base
        self.late = late
        self.any_late = any(outcome.is_late for outcome in outcomes)
        self.traced = traced
        self.all = bool((ids < len(outcomes)).all())
        self.single = entry.cells == 1 and self.all
        # Many clocks of a loop have equal entries, and many buffers are written on the same cores.
        self._times: dict[tuple[int, ...], Ticks] = {}
        self._cores: dict[tuple[bool, ...], Flags] = {}

    # --- from one entry per class to all cores ---

    def spread(
        self, per_class: Sequence[int], absent: int, dtype: type[int] = int
    ) -> np.ndarray:
        """An entry per cell."""
        kind = bool if dtype is bool else np.int64
        # Cells that take no part have the number after the last class, and so find `absent`.
        return np.array([*per_class, absent], kind)[self.ids]

    def folded(self, per_cell: np.ndarray) -> Ticks:
        """One entry per cell as a time or a state: a plain number if all agree."""
        if (per_cell == per_cell[0]).all():
            return per_cell[0].item()
        return per_cell.reshape(self.entry.frame)

    def of_cells(self, per_class: Sequence[int]) -> Ticks:
        """An entry per cell, 0 where cores take no part."""
        if self.single:
            return per_class[0]
        return self.folded(self.spread(per_class, 0))

    def flags(self, per_class: Sequence[bool], absent: bool = False) -> Flags:
        """On which cores something is so that is so in certain classes."""
        if self.single:
            return per_class[0]
        key = (*per_class, absent)
        if key not in self._cores:
            cells = self.spread(per_class, absent, bool)
            alike = bool((cells == cells[0]).all())
            whole = cells.reshape(self.entry.frame)
            self._cores[key] = bool(cells[0]) if alike else whole
        return self._cores[key]

    def ticks(self, per_class: list[int], keep: Ticks) -> Ticks:
        """Times after the base, or marks, per class; `keep` where they say so or take no part."""
        if self.single:
            return self.of_one(per_class[0], keep)
        if self.all and min(per_class) > PAST:
            return self._unmarked(tuple(per_class))
        moved = self.spread(per_class, KEEP)
        # Where the entry is a mark this sum means nothing and is replaced below. It cannot
        # overflow: the least entry is -2**61 and a base is at most 2**57, both far inside 64 bits.
        out = self._placed(moved)
        marks = {time for time in per_class if time < PAST}
        if not self.all:
            marks.add(KEEP)
        for mark in marks:
            if mark == KEEP:
                old = keep if type(keep) is int else self.entry.per_cell(keep)
            else:
                old = self.entry.times_at(mark)
            out = np.where(moved == mark, old, out)
        return self.folded(out)

    def _placed(self, moved: np.ndarray) -> np.ndarray:
        """Times after the base, or after what is late, of each cell: as times."""
        times = self.base + moved
        if not self.any_late:
            return times
        # No time of the mesh is late itself, and so none after the base is taken for one.
        return np.where(is_late(moved), self.late + (moved - LATE), times)

    def of_one(self, time: int, keep: Ticks) -> Ticks:
        """`ticks` of a single core."""
        if self.any_late and is_late(time):
            return int(self.late[0]) + (time - LATE)
        if time > PAST:
            return int(self.base[0]) + time
        if time == KEEP:
            return keep
        marked = self.entry.times_at(time)
        return int(marked[0])

    def _unmarked(self, per_class: tuple[int, ...]) -> Ticks:
        """`ticks` without marks, on all cells."""
        if per_class not in self._times:
            entries = np.array(per_class)[self.ids]
            self._times[per_class] = self.folded(self._placed(entries))
        return self._times[per_class]

    def many(self, per_class: np.ndarray, keep: np.ndarray) -> list[Ticks | None]:
        """`ticks` of many clocks at once; None where a mark is among a clock's entries.

        Args:
          per_class: int64 `[clocks, classes]`.
          keep: int64 `[clocks, cells]`.
        """
        # Cells that take part in no class have the number after the last.
        absent = np.full((len(per_class), 1), KEEP)
        per_number = np.concatenate([per_class, absent], axis=1)
        moved = per_number[:, self.ids]
        times = np.where(moved == KEEP, keep, self._placed(moved))
        # A mark may stand for another row than the one it comes out in, whose times `keep` lacks.
        is_time = (per_class > PAST) | (per_class == KEEP)
        clear: list[bool] = is_time.all(axis=1).tolist()
        as_first = times == times[:, :1]
        agree: list[bool] = as_first.all(axis=1).tolist()
        first: list[int] = times[:, 0].tolist()
        found: list[Ticks | None] = []
        for row, time in enumerate(times):
            if not clear[row]:
                found.append(None)
            elif agree[row]:
                found.append(first[row])
            else:
                found.append(time.reshape(self.entry.frame))
        return found

    def name(
        self,
        per_class: list[str],
        times: list[int],
        keep: CauseName,
        at_mark: Callable[[int], CauseName],
    ) -> CauseName:
        """Names per class; where the time is a mark, the name that goes with its clock.

        Args:
          per_class: the names.
          times: those that they go with, after the base, or marks.
          keep: the name where times stay.
          at_mark: gives the name of a marked clock.
        """

        # The core that was walked for the class knows only its own label of a past clock; the
        # others of the class may have another there.
        def found(name: str, time: int) -> CauseName:
            if time > PAST:
                return name
            return keep if time == KEEP else at_mark(time)

        if self.single:
            return found(per_class[0], times[0])
        one_name = len(set(per_class)) == 1
        if one_name and min(times) > PAST:
            if self.all:
                return per_class[0]
            # The rest keep their names, so choosing core by core would give what is there already.
            if self._have(keep, per_class[0]):
                return keep
        # The name of a marked time does not count, nor does when a time is: only whether it is one.
        pairs: list[tuple[str, int]] = []
        for name, time in zip(per_class, times):
            is_marked = time <= PAST
            pairs.append(("", time) if is_marked else (name, PAST))
        distinct = list(dict.fromkeys(pairs))
        out = keep
        for pair in distinct:
            name, time = pair
            new = name if time == PAST else found(name, time)
            if self.all and len(distinct) == 1:
                return new
            cells = self.spread([own == pair for own in pairs], False, bool)
            out = names.choose(cells.reshape(self.entry.frame), new, out)
        return out

    def _have(self, old: CauseName, name: str) -> bool:
        """Whether the cores that take part have that name already."""
        if isinstance(old, str):
            return old == name
        if name not in old.names:
            return False
        entry = self.entry
        which = entry.per_cell(old.which)[entry.here]
        index = old.names.index(name)
        return bool((which == index).all())


__all__ = ["PerClass"]
