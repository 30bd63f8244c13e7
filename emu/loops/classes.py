"""A loop whose body exchanges nothing is read once per class of cores, and never twice.

Cores that decide alike and differ by a shift in time are one class; one of them is read alone
(`emu.loops.one_core`) and what the loop did to it holds for all (`emu.loops.effect`,
`emu.loops.merge`). It holds as well whenever the same loop is met again in the same state.
"""

import functools
from typing import Any

import numpy as np

from emu.clock.tiles import Value
from emu.instruction import lookup
from emu.loops import decisions, jump
from emu.loops.effect import ALWAYS, Effect, Taking, Unclear
from emu.loops.merge import Merge
from emu.loops.one_core import Lone
from emu.loops.patterns import Patterns
from emu.loops.scene import Scene
from emu.loops.starting_state import Reach, Start
from emu.tracing import jaxpr as jx

MAX_CELLS = 4096
# More classes than this are read together. Where all cores decide alike that is exact too, and
# soon faster; else rings then turn for all cores at once.
MAX_CLASSES, FEW = 256, 16
# A loop is stepped about so often before it is jumped, and is met again for about so many steps.
SETTLED, SMALL = 4, 400


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


def scan(
    line: Any, eqn: Any, xs: list[Value], active: np.ndarray | None
) -> list[Value]:
    """Reads a `scan`, once per class of cores where they exchange nothing inside."""
    s = jx.scan(eqn)
    again = line.core is not None and line.jump and line.trace_core is None and large(s)
    if (line.whole and not again) or exchanges(s.body):
        return jump.scan(line, eqn, xs, active)
    outs = _apart(line, eqn, xs, active)
    if outs is None:
        whole, line.whole = line.whole, True
        outs = jump.scan(line, eqn, xs, active)
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


def _apart(
    line: Any, eqn: Any, xs: list[Value], active: np.ndarray | None
) -> list[Value] | None:
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
    alike = active is None and len(found.cells) == 1
    if not found.divide(FEW if alike else MAX_CLASSES):
        if alike:
            line.classes.together.add(id(eqn))
        return None
    effects = found.effects()
    if not all(_complete(e, knowns) for e in effects):
        return None
    return found.merge(effects, knowns)


def _complete(effect: Effect, knowns: list[Any]) -> bool:
    """Whether an effect says all: not where known integers appear, or a stack is of mere inputs."""
    carry = effect.outs[: len(knowns)]
    stacks = effect.outs[len(knowns) :]
    appeared = any(o.known and k is None for o, k in zip(carry, knowns))
    return not appeared and all(effect.touched and o.ready >= 0 for o in stacks)


class Classes:
    """The cores of a scene by class.

    Attributes:
      cells: pattern of decisions to the cells that have it.
      ids: class of each cell.
      base: what its times count from.
      keys, first, past: of each class its key, a cell, and that cell's clocks that are past.
      traced: the class of the traced core, which is alone in it.
      walked: cores that were read to tell what the loop uses, by class.
      read: what was taken off each core that was read.
    """

    def __init__(self, scene: Scene, patterns: np.ndarray):
        self.scene, self.line = scene, scene.line
        self.kept: Kept = scene.line.classes
        self.cells = {p: [] for p in dict.fromkeys(patterns[scene.here].tolist())}
        for cell in scene.here.tolist():
            self.cells[int(patterns[cell])].append(cell)
        self.ids = np.full(scene.cells, -1)
        self.base = np.zeros(scene.cells, np.int64)
        self.keys: list[Any] = []
        self.first: list[int] = []  # a cell of each class
        self.past: list[list[int]] = []
        self.traced: int | None = None
        self.walked: dict[int, Lone] = {}
        self.read: list[Taking] = []
        form = scene.form
        self.form = self.kept.forms.setdefault(form, len(self.kept.forms))
        self.known = self.kept.effects if self.line.jump else {}

    # --- who is in which ---

    def divide(self, limit: int) -> bool:
        """Puts every core into a class; False if there are more than `limit`."""
        for pattern, cells in self.cells.items():
            if max(len(self.keys), len(self.cells)) > limit:
                return False
            reach, lone = self._reach(pattern, cells[0])
            start = Start(self.scene, reach, np.array(cells))
            self.base[cells] = start.base
            self._number(pattern, cells, start)
            if lone is not None and reach.engines and cells[0] != self.traced_cell:
                self.walked[int(self.ids[cells[0]])] = lone
        self.ids[self.ids < 0] = len(self.keys)
        return len(self.keys) <= limit

    def _number(self, pattern: int, cells: list[int], start: Start) -> None:
        """Gives cells that decide alike the numbers of their classes."""
        loop = id(self.scene.eqn), pattern, self.form, self.line.prices.lead
        numbers: dict[bytes, int] = {}
        for at, (cell, state) in enumerate(zip(cells, start.states(self.kept.names))):
            traced = cell == self.traced_cell
            state = b"traced" if traced else state
            if state not in numbers:
                numbers[state] = len(self.keys)
                self.keys.append((*loop, state))
                self.first.append(cell)
                self.past.append([] if traced else start.marks(at))
                self.traced = numbers[state] if traced else self.traced
            self.ids[cell] = numbers[state]

    @functools.cached_property
    def traced_cell(self) -> int | None:
        core = self.line.trace_core
        if core is None:
            return None
        at = [c if n > 1 else 0 for c, n in zip(core, self.scene.frame, strict=True)]
        return int(np.ravel_multi_index(at, self.scene.frame)) if at else 0

    def _reach(self, pattern: int, cell: int) -> tuple[Reach, Lone | None]:
        """What the loop uses: all cores that decide alike issue the same, so one is read."""
        key = (id(self.scene.eqn), pattern, self.scene.spaces)
        lone = None
        if key not in self.kept.reaches:
            lone = Lone(self.scene, cell, [])
            lone.walk()
            engines = [e for e, n in lone.line.touches.items() if n]
            ports = [k for k, port in lone.line.ports.items() if port.uses]
            self.kept.reaches[key] = Reach(engines, ports)
        return self.kept.reaches[key], lone

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
        taking = Taking(lone, base, self.past[i], before)
        try:
            effect = taking.effect(lone.outs)
        except Unclear:
            return None
        self.read.append(taking)
        return effect

    def _read(self, i: int, traced: bool) -> Effect:
        lone = Lone(self.scene, self.first[i], self.past[i], traced)
        outs = lone.walk()
        taking = Taking(lone, int(self.base[self.first[i]]), [], ALWAYS)
        self.read.append(taking)
        return taking.effect(outs)

    def merge(self, effects: list[Effect], knowns: list[Any]) -> list[Value]:
        """The loop's outputs on the mesh, once all that it did is there."""
        for taking in self.read:
            self.line.stepped += taking.line.stepped
            self.line.unjumped += taking.line.unjumped
            self.line.events += taking.line.events
            self.line.tracked.update(taking.inside)
        merge = Merge(self.scene, effects, self.ids, self.base, self.traced)
        merge.engines()
        merge.counts()
        merge.buffers()
        return merge.outputs(knowns)


__all__ = ["Kept", "exchanges", "scan"]
