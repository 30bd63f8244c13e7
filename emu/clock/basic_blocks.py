"""Basic blocks: equations in a row without a loop or a branch, walked by a plan on one core.

A core that is read alone (`emu.loops.one_core`) walks the same equations again and again, and most
of what they do is the same each time: what an instruction costs, which of its operands it waits
for, which names are views of which tiles, how much work is booked. A `Plan` has that worked out
once for each block, so that a walk (`emu.clock.plain`) does only what depends on times.

Say a loop's body is

    a = sbuf(128, 512)              declaration 0 -> slot 2
    part = slot 0 [0:128]           a view of slot 0: no step at all
    i = index * 128                 a known integer that no decision needs: no step at all
    a = tensor_copy(a, part)        vector, 66 ticks; writes slot 2, reads slot 0 -> slot 3
    a = tensor_copy(a, a)           vector, 66 ticks; writes slot 3, reads slot 3 -> slot 4

Its plan has three steps, one declaration and two instructions, and books 132 ticks of work, two
instructions and their bytes at once. `slots` hold the values: those that come in first.
"""

import dataclasses
import functools
from collections.abc import Hashable, Mapping
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from emu.clock.price import Price
from emu.clock.resources import Buffer
from emu.clock.state import ClockState
from emu.clock.tally import Key, counts
from emu.clock.throttle import gain
from emu.clock.tiles import Value
from emu.clock.unpriced import literal, without_instruction
from emu.errors import EmulationError
from emu.instruction import Instruction, lookup
from emu.tracing import jaxpr as jx

Prepared: TypeAlias = tuple[
    int, Instruction[..., Any] | None, tuple[jx.Equation, list[int], list[int]]
]
"""An equation's number, its instruction, and the equation with the ids of what goes in and out."""

Slot: TypeAlias = int
"""Where in a plan's list of values one is."""


@functools.lru_cache(maxsize=4096)
def prepared(body: jx.Body) -> list[Prepared]:
    """A body's equations with their numbers and instructions: bodies are walked often."""
    found: list[Prepared] = []
    for number, step in enumerate(body.steps):
        eqn, _, _ = step
        found.append((number, lookup(eqn.primitive), step))
    return found


# --- blocks ---


@dataclasses.dataclass(frozen=True, eq=False)
class Block:
    """Equations of a body that follow one another.

    Attributes:
      equations: of the block.
      is_basic: whether none of them is a loop, a branch, an exchange between cores, or an
        instruction whose cost depends on a count. Else it is a single equation.
      reads: ids of what it takes from outside, its body's literals included.
      gives: ids of what is read of it outside.
    """

    equations: list[Prepared]
    is_basic: bool
    reads: list[int]
    gives: list[int]


@functools.lru_cache(maxsize=4096)
def blocks(body: jx.Body) -> list[Block]:
    """A body's equations as basic blocks and, between them, single equations."""
    groups: list[list[Prepared]] = []
    basic: list[bool] = []
    for one in prepared(body):
        _, _, (eqn, _, _) = one
        is_basic = _is_basic(eqn)
        if is_basic and basic and basic[-1]:
            groups[-1].append(one)
        else:
            groups.append([one])
            basic.append(is_basic)
    _, output_ids = body.ids
    read_later = set(output_ids)
    found: list[Block] = []
    # Backwards: what is read further on is known by then.
    for group, is_basic in zip(reversed(groups), reversed(basic)):
        made: dict[int, None] = {}
        reads: dict[int, None] = {}
        for _, _, (_, operand_ids, result_ids) in group:
            reads.update(dict.fromkeys(x for x in operand_ids if x not in made))
            made.update(dict.fromkeys(result_ids))
        gives = [atom for atom in made if atom in read_later]
        found.append(Block(group, is_basic, list(reads), gives))
        read_later.update(reads)
    return found[::-1]


def _is_basic(eqn: jx.Equation) -> bool:
    """Whether an equation is the same to a core's clock each time but for times."""
    inst = lookup(eqn.primitive)
    if inst is not None:
        return inst.arrival is None and "count" not in inst.reads
    if eqn.primitive.name in ("scan", "cond"):
        return False
    called = jx.call(eqn)
    if called is None:
        return True
    # A constant array takes a buffer of its own in each walk.
    return not called.consts and all(_is_basic(inside) for inside in called.eqns)


# --- plans ---


@dataclasses.dataclass(frozen=True, slots=True)
class Declared:
    """A tile that a block declares.

    Attributes:
      eqn: the declaration.
      space: its memory.
      path: numbers of the equations that lead from the body to it.
      result: the slot of the tile.
    """

    eqn: jx.Equation
    space: str
    path: tuple[int, ...]
    result: Slot


@dataclasses.dataclass(frozen=True, slots=True)
class Result:
    """A result of an instruction: its slot, what it looks like, and where it is written.

    Attributes:
      slot: of the result.
      aval: its shape and dtype.
      space: its memory.
      destination: slot of the tile that it is written to, or None for a buffer of its own.
    """

    slot: Slot
    aval: jx.Aval
    space: str
    destination: Slot | None


@dataclasses.dataclass(frozen=True, slots=True)
class Issued:
    """An instruction of a block.

    Attributes:
      inst, eqn: the instruction and its equation.
      engine: that executes it, or None for one that takes no time.
      busy, latency, interval, handover: see `Price`.
      gain: what each busy tick adds to the engine's charge, or None where it does not throttle.
      operands: the slots of all operands.
      held: of those that are in a buffer.
      awaited: of those of them that must be ready, and whose buffers are then in use.
      destinations: of the tiles that it writes.
      lead: slot and ticks of each operand that must be ready some ticks before.
      taken: engines and the ticks taken from them.
      ports: memory spaces whose port it uses.
      partial: whether it writes a part of its destination.
      results: what it makes.
    """

    inst: Instruction[..., Any]
    eqn: jx.Equation
    engine: str | None
    busy: int
    latency: int
    interval: int
    handover: int
    gain: int | None
    operands: list[Slot]
    held: list[Slot]
    awaited: list[Slot]
    destinations: list[Slot]
    lead: list[tuple[Slot, int]]
    taken: list[tuple[str, int]]
    ports: tuple[str, ...]
    partial: bool
    results: list[Result]


@dataclasses.dataclass(frozen=True, slots=True)
class Integer:
    """A known integer that a decision, or somebody outside, may need."""

    eqn: jx.Equation
    operands: list[Slot]
    result: Slot


@dataclasses.dataclass(frozen=True, slots=True)
class Given:
    """What a block gives: an atom, its slot, and its form where that is a view of the slot."""

    atom: int
    slot: Slot
    view: jx.Aval | None


@dataclasses.dataclass(frozen=True, eq=False)
class Plan:
    """A block on one core: all that is the same in each walk.

    Attributes:
      slots: values before the first step: literals, and None's place for what is filled in.
      integers: to be worked out first.
      steps: declarations and instructions.
      declared: the declarations among them.
      gives: what comes out.
      stepped: instructions.
      uses, paces: how many of them each engine is given, and how many keep an interval.
      spent: work, and time lost without work.
      sums: of the tally.
    """

    slots: list[Value]
    integers: list[Integer]
    steps: list[Declared | Issued]
    declared: list[Declared]
    gives: list[Given]
    stepped: int
    uses: Mapping[str, int]
    paces: Mapping[str, int]
    spent: Mapping[Key, int]
    sums: Mapping[Key, int]


class Plans:
    """The plans made so far: by block, prices, and what kind of value each operand is."""

    def __init__(self) -> None:
        self._made: dict[Hashable, Plan | None] = {}

    def plan(self, state: ClockState, block: Block, inputs: list[Value]) -> Plan | None:
        """A block's plan, or None where it has to be walked equation by equation.

        Args:
          state: of one core.
          block: a basic block.
          inputs: of what the block reads.
        """
        # Of an operand in a buffer, the memory; of others, whether they are known.
        kinds = [
            value.known is None if value.buffer is None else value.space
            for value in inputs
        ]
        key = block, state.prices, *kinds
        if key not in self._made:
            self._made[key] = _planned(state, block, inputs)
        return self._made[key]


def _planned(state: ClockState, block: Block, inputs: list[Value]) -> Plan | None:
    planner = _Planner(state)
    try:
        return planner.plan(block, inputs)
    except EmulationError:
        # Walked equation by equation it comes to the same, at the right place: an instruction
        # before may have something to say first.
        return None


class _Atom(NamedTuple):
    """A variable: the slot that it is in or is a view of, and what it looks like."""

    slot: Slot
    model: Value


class _Planner:
    """Goes through a block once and notes what is the same each time."""

    def __init__(self, state: ClockState):
        self.state = state
        self.slots: list[Value] = []
        self.constants: set[Slot] = set()
        self.integers: list[Integer] = []
        self.steps: list[Declared | Issued] = []
        self.stepped = 0
        self.uses: dict[str, int] = {}
        self.paces: dict[str, int] = {}
        self.spent: dict[Key, int] = {}
        self.sums: dict[Key, int] = {}

    def plan(self, block: Block, inputs: list[Value]) -> Plan:
        atoms: dict[int, _Atom] = {}
        for atom, value in zip(block.reads, inputs, strict=True):
            atoms[atom] = self.add(value)
        self.equations(block.equations, atoms, ())
        gives: list[Given] = []
        for atom in block.gives:
            slot, model = atoms[atom]
            is_view = model.shape != self.slots[slot].shape
            gives.append(Given(atom, slot, model if is_view else None))
        return Plan(
            self.slots,
            self.needed({give.slot for give in gives}),
            self.steps,
            [step for step in self.steps if isinstance(step, Declared)],
            gives,
            self.stepped,
            self.uses,
            self.paces,
            self.spent,
            self.sums,
        )

    def add(self, model: Value) -> _Atom:
        """A new slot."""
        self.slots.append(model)
        return _Atom(len(self.slots) - 1, model)

    def needed(self, wanted: set[Slot]) -> list[Integer]:
        """The integers that what is wanted depends on: most are only addresses."""
        found: list[Integer] = []
        for integer in reversed(self.integers):
            if integer.result in wanted:
                wanted.update(integer.operands)
                found.append(integer)
        return found[::-1]

    def equations(
        self,
        equations: list[Prepared],
        atoms: dict[int, _Atom],
        path: tuple[int, ...],
    ) -> None:
        for number, inst, (eqn, operand_ids, result_ids) in equations:
            operands = [atoms[atom] for atom in operand_ids]
            here = *path, number
            if inst is None:
                results = self.equation(eqn, operands, here)
            elif not inst.in_place and not operands:
                results = [self.declaration(inst, eqn, here)]
            else:
                results = self.instruction(inst, eqn, operands)
            atoms.update(zip(result_ids, results, strict=True))

    def equation(
        self, eqn: jx.Equation, operands: list[_Atom], path: tuple[int, ...]
    ) -> list[_Atom]:
        """An equation that is no instruction."""
        called = jx.call(eqn)
        if called is not None:
            return self.call(called, operands, path)
        if eqn.primitive.name in jx.IDENTITIES:
            return operands
        models = [operand.model for operand in operands]
        result = without_instruction(self.state, eqn, models)
        if operands and models[0].buffer is not None:
            return [_Atom(operands[0].slot, result)]
        added = self.add(result)
        slots = [operand.slot for operand in operands]
        # A core's index is asked for by each core anew.
        is_fixed = eqn.primitive.name != "axis_index"
        if is_fixed and self.constants.issuperset(slots):
            self.constants.add(added.slot)
        else:
            self.integers.append(Integer(eqn, slots, added.slot))
        return [added]

    def call(
        self, called: jx.Body, operands: list[_Atom], path: tuple[int, ...]
    ) -> list[_Atom]:
        """A call, as if what is called stood in its place."""
        input_ids, output_ids = called.ids
        inside = dict(zip(input_ids, operands, strict=True))
        rank = self.state.setup.rank
        for atom in called.literals:
            added = self.add(literal(atom, rank))
            self.constants.add(added.slot)
            inside[id(atom)] = added
        self.equations(prepared(called), inside, path)
        return [inside[atom] for atom in output_ids]

    def declaration(
        self, inst: Instruction[..., Any], eqn: jx.Equation, path: tuple[int, ...]
    ) -> _Atom:
        self.state.prices.price(inst, eqn, [])
        self.stepped += 1
        space = inst.writes[0]
        tile = self.add(_tile(eqn.outvars[0].aval, space))
        self.steps.append(Declared(eqn, space, path, tile.slot))
        return tile

    def instruction(
        self, inst: Instruction[..., Any], eqn: jx.Equation, operands: list[_Atom]
    ) -> list[_Atom]:
        models = [operand.model for operand in operands]
        price = self.state.prices.price(inst, eqn, models)
        self.stepped += 1
        destinations = operands[: inst.destinations]
        held = _held(operands)
        # A part waits for its destination's readers, not for other parts, and moves no idle time.
        awaited = _held(operands[inst.destinations :]) if inst.partial else held
        engine = price.cost.engine
        results: list[_Atom] = []
        made: list[Result] = []
        if engine is not None:
            results, made = self.results(inst, eqn, destinations)
            self.book(inst, eqn, price, engine)
        law = None if engine is None else self.state.engines[engine].law
        self.steps.append(
            Issued(
                inst,
                eqn,
                engine,
                _number(price.busy),
                _number(price.latency),
                _number(price.interval),
                _number(price.handover),
                None if law is None else gain(law, price.cost.duty),
                _slots(operands),
                _slots(held),
                _slots(awaited),
                _slots(destinations),
                [
                    (operands[place].slot, _number(ticks))
                    for place, ticks in price.lead.items()
                ],
                [(name, _number(ticks)) for name, ticks in price.taken.items()],
                price.cost.ports,
                inst.partial,
                made,
            )
        )
        return results

    def results(
        self,
        inst: Instruction[..., Any],
        eqn: jx.Equation,
        destinations: list[_Atom],
    ) -> tuple[list[_Atom], list[Result]]:
        results: list[_Atom] = []
        made: list[Result] = []
        if inst.in_place:
            for destination in destinations:
                model = destination.model
                result = self.add(_tile(model, model.space))
                results.append(result)
                made.append(Result(result.slot, model, model.space, destination.slot))
            return results, made
        for atom, space in zip(eqn.outvars, inst.writes, strict=True):
            result = self.add(_tile(atom.aval, space))
            results.append(result)
            made.append(Result(result.slot, atom.aval, space, None))
        return results, made

    def book(
        self,
        inst: Instruction[..., Any],
        eqn: jx.Equation,
        price: Price,
        engine: str,
    ) -> None:
        """Books what an instruction spends and counts, whenever it starts."""
        _add(self.uses, engine, 1)
        if price.interval:
            _add(self.paces, engine, 1)
        work = _number(price.busy)
        for what, ticks in price.lost.items():
            lost = _number(ticks)
            _add(self.spent, (engine, what), lost)
            work -= lost
        _add(self.spent, (engine, "work"), work)
        if price.counts is None:
            results = [atom.aval for atom in eqn.outvars]
            price.counts = counts(inst, price.cost, price.operands, results)
        for key, number in price.counts:
            _add(self.sums, key, _number(number))


def _tile(like: jx.Aval, space: str) -> Value:
    """What a value in a buffer looks like."""
    return Value(like.shape, like.dtype, space, 0, Buffer(0, 0))


def _held(atoms: list[_Atom]) -> list[_Atom]:
    """Those that are in a buffer."""
    return [atom for atom in atoms if atom.model.buffer is not None]


def _slots(atoms: list[_Atom]) -> list[Slot]:
    return [atom.slot for atom in atoms]


def _number(each: int | np.ndarray) -> int:
    """A number that is one for all cores, as nothing in a basic block depends on a count."""
    assert not isinstance(each, np.ndarray)
    return each


def _add(table: dict[Any, int], key: Hashable, number: int) -> None:
    table[key] = table.get(key, 0) + number


__all__ = [
    "Block",
    "Declared",
    "Given",
    "Integer",
    "Issued",
    "Plan",
    "Plans",
    "Prepared",
    "Slot",
    "blocks",
    "prepared",
]
