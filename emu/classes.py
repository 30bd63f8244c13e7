"""A loop whose body exchanges nothing is read once per class of cores, and never twice.

Cores that decide alike and differ by a shift in time are one class; one of them is read alone
(`emu.lone`) and what the loop did to it holds for all (`emu.effect`, `emu.merge`). It holds as well
whenever the same loop is met again in the same state.
"""

import dataclasses
import functools
from typing import Any

import numpy as np

from emu import decisions, loops
from emu import jaxpr as jx
from emu.effect import ALWAYS, Effect, Taking, Unclear
from emu.instruction import lookup
from emu.label import Names
from emu.lone import Lone
from emu.merge import Merge
from emu.patterns import Patterns
from emu.scene import Row, Scene
from emu.values import Value

MAX_CELLS = 4096
# More classes than this are read together. Where all cores decide alike that is exact too, and
# soon faster; else rings then turn for all cores at once.
MAX_CLASSES, FEW = 256, 16
# A loop is stepped about so often before it is jumped, and is met again for about so many steps.
SETTLED, SMALL = 4, 400
EARLY = -(1 << 58)  # in place of a time that is too early to decide anything


@dataclasses.dataclass(frozen=True)
class Reach:
    """What a loop reads and uses with certain decisions: engines and ports."""

    engines: list[str]
    ports: list[Any]


class Kept:
    """What is kept of the loops read so far.

    Attributes:
      patterns: of decisions.
      reaches: by loop, pattern and memory spaces.
      effects: by loop, pattern, form and state.
      forms, names: numbers for what is long.
      together: loops that are better read on all cores at once.
    """

    def __init__(self) -> None:
        self.patterns = Patterns()
        self.reaches: dict[Any, Reach] = {}
        self.effects: dict[Any, Effect] = {}
        self.forms: dict[Any, int] = {}
        self.names: dict[str, int] = {}
        self.together: set[int] = set()


def scan(line: Any, eqn: Any, xs: list[Value], active: np.ndarray | None) -> list[Value]:
    """Reads a `scan`, once per class of cores where they exchange nothing inside."""
    s = jx.scan(eqn)
    again = line.core is not None and line.jump and line.trace_core is None and large(s)
    if (line.whole and not again) or exchanges(s.body):
        return loops.scan(line, eqn, xs, active)
    outs = _apart(line, eqn, xs, active)
    if outs is None:
        whole, line.whole = line.whole, True
        outs = loops.scan(line, eqn, xs, active)
        line.whole = whole
    return outs


def large(s: jx.Scan) -> bool:
    """Whether a loop takes longer to read than to find that it was met before."""
    return min(s.length, SETTLED) * size(s.body) > SMALL


@functools.lru_cache(maxsize=4096)
def size(body: jx.Body) -> int:
    """Instructions of a body, all branches and one iteration of each loop counted."""
    own = sum(lookup(eqn.primitive) is not None for eqn in body.eqns)
    return own + sum(size(b) for eqn in body.eqns for b in jx.inner(eqn))


@functools.lru_cache(maxsize=4096)
def exchanges(body: jx.Body) -> bool:
    """Whether a body holds an instruction that crosses cores."""
    insts = [lookup(eqn.primitive) for eqn in body.eqns]
    return any(inst is not None and inst.arrival is not None for inst in insts) or any(
        exchanges(b) for eqn in body.eqns for b in jx.inner(eqn)
    )


def _apart(line: Any, eqn: Any, xs: list[Value], active: np.ndarray | None) -> list[Value] | None:
    """Reads a loop class by class; None where it has to be read on all cores at once."""
    if id(eqn) in line.classes.together:
        return None
    scene = Scene(line, eqn, xs, active)
    if (scene.cells == 1 and line.core is None) or scene.cells > MAX_CELLS:
        return None
    patterns = line.classes.patterns.of(scene)
    knowns = decisions.after(line, scene.s, [x.known for x in xs])
    if patterns is None or knowns is None:
        return None
    found = Classes(scene, patterns)
    alike = active is None and len(found.patterns) == 1
    if not found.divide(FEW if alike else MAX_CLASSES):
        if alike:
            line.classes.together.add(id(eqn))
        return None
    effects = found.effects()
    if not all(_complete(scene, e, knowns) for e in effects):
        return None
    return found.merge(effects, knowns)


def _complete(scene: Scene, effect: Effect, knowns: list[Any]) -> bool:
    """Whether an effect says all: not where known integers appear, or outputs are mere inputs."""
    carry, stacks = effect.outs[: len(knowns)], effect.outs[len(knowns) :]
    appeared = any(o.known and k is None for o, k in zip(carry, knowns))
    return not appeared and all(o.ready > 0 or not stacks or effect.touched for o in stacks)


class Classes:
    """The cores of a scene by class."""

    def __init__(self, scene: Scene, patterns: np.ndarray):
        self.scene, self.line = scene, scene.line
        self.kept: Kept = scene.line.classes
        self.cells = {p: [] for p in dict.fromkeys(patterns[scene.here].tolist())}
        for cell in scene.here.tolist():
            self.cells[int(patterns[cell])].append(cell)
        self.patterns = list(self.cells)
        self.ids = np.full(scene.cells, -1)
        self.base = np.zeros(scene.cells, np.int64)
        self.keys: list[Any] = []
        self.first: list[int] = []  # a cell of each class
        self.past: list[list[int]] = []
        self.traced: int | None = None
        self.walked: dict[int, Lone] = {}
        form = scene.form
        self.form = self.kept.forms.setdefault(form, len(self.kept.forms))
        self.known = self.kept.effects if self.line.jump else {}

    # --- who is in which ---

    def divide(self, limit: int) -> bool:
        """Puts every core into a class; False if there are more than `limit`."""
        if len(self.patterns) > limit:
            return False
        traced = self._traced_cell()
        for pattern, cells in self.cells.items():
            reach, lone = self._reach(pattern, cells[0])
            state, past = self._states(reach, np.array(cells))
            numbers: dict[bytes, int] = {}
            for cell, row, early in zip(cells, state, past.T, strict=True):
                key = b"traced" if cell == traced else row.tobytes()
                if key not in numbers:
                    numbers[key] = len(self.keys)
                    self._new(pattern, key, cell, self._rows(reach), early, cell == traced)
                self.ids[cell] = numbers[key]
            if lone is not None and reach.engines and cells[0] != traced:
                self.walked[int(self.ids[cells[0]])] = lone
            if len(self.keys) > limit:
                return False
        self.ids[self.ids < 0] = len(self.keys)
        return True

    def _new(
        self, pattern: int, key: bytes, cell: int, rows: list[Row], early: np.ndarray, traced: bool
    ) -> None:
        number = self.scene.rows
        self.keys.append((id(self.scene.eqn), pattern, self.form, self.line.prices.lead, key))
        self.first.append(cell)
        self.past.append([number[r] for r, e in zip(rows, early, strict=True) if e])
        if traced:
            self.traced, self.past[-1] = len(self.keys) - 1, []

    def _traced_cell(self) -> int | None:
        core = self.line.trace_core
        if core is None:
            return None
        at = [c if n > 1 else 0 for c, n in zip(core, self.scene.frame, strict=True)]
        return int(np.ravel_multi_index(at, self.scene.frame)) if at else 0

    def _reach(self, pattern: int, cell: int) -> tuple[Reach, Lone | None]:
        """What the loop uses: all cores that decide alike issue the same, so one is read."""
        key, lone = (id(self.scene.eqn), pattern, self.scene.spaces), None
        if key not in self.kept.reaches:
            lone = Lone(self.scene, cell, [])
            lone.walk()
            engines = [e for e, n in lone.line.touches.items() if n]
            ports = [k for k, port in lone.line.ports.items() if port.uses]
            self.kept.reaches[key] = Reach(engines, ports)
        return self.kept.reaches[key], lone

    def _rows(self, reach: Reach) -> list[Row]:
        """The clocks that such a loop can read."""
        scene, excluded = self.scene, self.line.prices.excluded
        rows: list[Row] = [(kind, e) for e in reach.engines for kind in ("last", "free", "paced")]
        others = {x for e in reach.engines for x in excluded.get(e, ())} - {*reach.engines}
        rows += [("last", e) for e in sorted(others)]
        rows += [("idle", i) for i in range(len(scene.buffers)) if i not in scene.aside]
        rows += [("ready", i) for i, x in enumerate(scene.xs) if x.buffer is not None]
        return rows + [("port", key) for key in reach.ports if ("port", key) in scene.clocks]

    def _states(self, reach: Reach, cells: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Each cell's state `[cells, entries]`, and which clocks are past `[rows, cells]`.

        No instruction starts before the first engine is free, so what is earlier, by the longest
        lead, decides nothing: not a start, and not what is booked as its cause.
        """
        scene, rows = self.scene, self._rows(reach)
        times = scene.times[:, cells][[scene.rows[r] for r in rows]]
        used = [scene.rows["last", e] for e in reach.engines]
        if not self.line.contended:
            past = np.zeros(times.shape, bool)
        elif used:
            last = scene.times[:, cells][used]
            self.base[cells] = last.min(axis=0)
            times = times - self.base[cells]
            past = times < -self.line.prices.lead
            times = np.concatenate([np.where(past, EARLY, times), last == 0])
        else:
            past = np.ones(times.shape, bool)
            times = np.full(times.shape, EARLY)
        entries = [*times, *self._names(rows, past, cells), *self._others(reach, cells)]
        state = np.array(entries, np.int64).reshape(len(entries), len(cells))
        return np.ascontiguousarray(state.T), past

    def _names(self, rows: list[Row], past: np.ndarray, cells: np.ndarray) -> np.ndarray:
        """Whom each clock makes wait for, where it can."""
        out = np.full(past.shape, -1)
        for i in np.flatnonzero(~past.all(axis=1)):
            if (name := self.scene.labels.get(rows[i])) is not None:
                out[i] = np.where(past[i], -1, self._codes(name, cells))
        return out

    def _codes(self, name: Any, cells: np.ndarray) -> Any:
        number = self.kept.names
        if not isinstance(name, Names):
            return number.setdefault(name, len(number))
        codes = np.array([number.setdefault(n, len(number)) for n in name.names])
        return codes[self.scene.flat(name.which)[cells]]

    def _others(self, reach: Reach, cells: np.ndarray) -> list[np.ndarray]:
        """Charges of engines that throttle, and which operands are stale."""
        states = [self.line.throttle[e] for e in reach.engines if e in self.line.throttle]
        values = [x for state in states for x in (state.charge, state.slow)]
        return [self.scene.flat(x)[cells].astype(np.int64) for x in (*values, *self.scene.stale)]

    # --- what the loop does to each ---

    def effects(self) -> list[Effect]:
        """One effect per class: known from before, or read on one core."""
        return [self._effect(i) for i in range(len(self.keys))]

    def _effect(self, i: int) -> Effect:
        traced = i == self.traced
        if not traced and (known := self.known.get(self.keys[i])) is not None:
            return known
        effect = self._taken(i) or self._read(i, traced)
        if not traced:
            self.known[self.keys[i]] = effect
        return effect

    def _taken(self, i: int) -> Effect | None:
        """The effect on the core that was read to tell what the loop uses, if it is clear."""
        if (lone := self.walked.get(i)) is None:
            return None
        base = int(self.base[self.first[i]])
        before = base - self.line.prices.lead if self.line.contended else ALWAYS
        try:
            effect = Taking(lone, base, self.past[i], before).effect(lone.outs)
        except Unclear:
            return None
        self._count(lone)
        return effect

    def _read(self, i: int, traced: bool) -> Effect:
        lone = Lone(self.scene, self.first[i], self.past[i], traced)
        outs = lone.walk()
        taking = Taking(lone, int(self.base[self.first[i]]), [], ALWAYS)
        effect = taking.effect(outs)
        self._count(lone)
        if traced:
            self.line.events += lone.line.events
            ours = {*taking.origin, *taking.homes}
            inside = {k: t for k, t in lone.line.tracked.items() if k not in ours}
            self.line.tracked.update(inside)
        return effect

    def _count(self, lone: Lone) -> None:
        self.line.stepped += lone.line.stepped
        self.line.unjumped += lone.line.unjumped

    def merge(self, effects: list[Effect], knowns: list[Any]) -> list[Value]:
        merge = Merge(self.scene, effects, self.ids, self.base, self.traced)
        merge.engines()
        merge.counts()
        merge.buffers()
        return merge.outputs(knowns)


__all__ = ["Kept", "exchanges", "scan"]
