"""From one entry per class of cores to times and names over the mesh."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from emu.clock import names as label
from emu.clock.names import Label
from emu.clock.ticks import Ticks
from emu.loops.effect import Effect
from emu.loops.one_core import FOREVER, PAST, marked
from emu.loops.scene import Scene

KEEP = -2 * FOREVER  # in place of a time: what was there stays


class Spread:
    """Effects on classes of cores, and who is in which class.

    Attributes:
      scene: the loop.
      effects: one per class.
      ids: class of each cell; those that take no part are in none, the number after the last.
      base: of each cell, what its class' times count from.
      traced: the class that is the traced core.
      idles: when buffers are idle, by their places, where that is known already.
      cores: on which cores something is so that is so in certain classes.
    """

    def __init__(
        self,
        scene: Scene,
        effects: list[Effect],
        ids: np.ndarray,
        base: np.ndarray,
        traced: int | None,
    ):
        self.scene = scene
        self.line = scene.line
        self.traced = traced
        self.effects = effects
        self.ids = ids
        self.base = base
        self.times: dict[tuple[int, ...], Ticks] = {}
        self.idles: dict[Any, Ticks] = {}
        self.cores: dict[tuple[bool, ...], Any] = {}
        self.all = bool((ids < len(effects)).all())
        # A loop inside a core that is read alone: no arrays then.
        self.single = scene.cells == 1 and self.all
        self.start = int(base[0]) if self.single else 0

    # --- from one entry per class to all cores ---

    def spread(
        self, per_class: Sequence[Any], absent: Any, dtype: Any = np.int64
    ) -> np.ndarray:
        """An entry per cell."""
        return np.array([*per_class, absent], dtype)[self.ids]

    def folded(self, x: np.ndarray) -> Any:
        """One entry per cell as a time or a state: a plain number if all agree."""
        return x[0].item() if (x == x[0]).all() else x.reshape(self.scene.frame)

    def ticks(self, per_class: list[int], keep: Ticks) -> Ticks:
        """Times after the base, or marks, per class; `keep` where they say so or take no part."""
        if self.single:
            return self.one(per_class[0], keep)
        if self.all and min(per_class) > PAST:
            return self.real(tuple(per_class))
        moved = self.spread(per_class, KEEP)
        out = self.base + moved
        for mark in {
            t for t in (*per_class, *(() if self.all else (KEEP,))) if t < PAST
        }:
            old = keep if mark == KEEP else self.scene.times[marked(mark)]
            old = old if type(old) is int or mark != KEEP else self.scene.flat(old)
            out = np.where(moved == mark, old, out)
        return self.folded(out)

    def one(self, time: int, keep: Ticks) -> Ticks:
        """`ticks` of a single core."""
        if time > PAST:
            return self.start + time
        return keep if time == KEEP else int(self.scene.times[marked(time)][0])

    def many(self, per_class: np.ndarray, keep: np.ndarray) -> list[Ticks | None]:
        """`ticks` of many clocks at once; None where a mark is among a clock's entries.

        Args:
          per_class: int64 `[clocks, classes]`.
          keep: int64 `[clocks, cells]`.
        """
        absent = np.full((len(per_class), 1), KEEP)
        moved = np.concatenate([per_class, absent], axis=1)[:, self.ids]
        out = np.where(moved == KEEP, keep, self.base + moved)
        alike = (out == out[:, :1]).all(axis=1).tolist()
        clear = ((per_class > PAST) | (per_class == KEEP)).all(axis=1).tolist()
        first = out[:, 0].tolist()
        rows = zip(clear, alike, first, out, strict=True)
        return [
            None if not ok else int(x) if same else row.reshape(self.scene.frame)
            for ok, same, x, row in rows
        ]

    def real(self, per_class: tuple[int, ...]) -> Ticks:
        """Times after the base; many clocks of a loop are the same."""
        if per_class not in self.times:
            self.times[per_class] = self.folded(
                self.base + np.array(per_class)[self.ids]
            )
        return self.times[per_class]

    def label(
        self,
        names: list[str],
        times: list[int],
        keep: Label,
        of: Callable[[Any], Label],
    ) -> Label:
        """Names per class; where the time is a mark, the name that goes with its clock."""
        if self.single:
            kept = keep if times[0] == KEEP else None
            return (
                names[0]
                if times[0] > PAST
                else of(marked(times[0]))
                if kept is None
                else kept
            )
        if (
            min(times) > PAST
            and len(set(names)) == 1
            and (self.all or self.has(keep, names[0]))
        ):
            return names[0] if self.all else keep
        pairs = [(n if t > PAST else None, min(t, PAST)) for n, t in zip(names, times)]
        distinct, out = list(dict.fromkeys(pairs)), keep
        for name, time in distinct:
            new = (
                name if name is not None else keep if time == KEEP else of(marked(time))
            )
            if self.all and len(distinct) == 1:
                return new
            cores = self.spread([p == (name, time) for p in pairs], False, bool)
            out = label.choose(cores.reshape(self.scene.frame), new, out)
        return out

    def has(self, old: Label, name: str) -> bool:
        """Whether the cores that take part have that name already."""
        if isinstance(old, str):
            return old == name
        if name not in old.names:
            return False
        return bool(
            (self.scene.flat(old.which)[self.scene.here] == old.names.index(name)).all()
        )

    def of_row(self, find: Callable[[Any], Label]) -> Callable[[Any], Label]:
        rows = list(self.scene.clocks)
        return lambda row: find(rows[row])


__all__ = ["KEEP", "Spread"]
