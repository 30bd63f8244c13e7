"""What a machine's instructions may be given, checked once for a program and without a clock.

A program is walked as the clock walks it, but each loop only until nothing new can come of it, and
with no times. What is known of a value on the way is in `Held` (`emu.checks.held`). Every
instruction is asked for its price, which is thrown away: what a cost rule refuses is refused here.

`Program.run` checks so before it computes, `timeline.read` before it times. The clock refuses
besides what only it can see: tiles overwritten too early, and branches that depend on data.
"""

import weakref
from typing import Any

import numpy as np

from emu.checks.held import (
    RANK,
    Held,
    Values,
    argument,
    as_value,
    constant,
    either,
    evaluated,
    integer,
    is_integer,
    literal,
)
from emu.checks.parts import partitions, within
from emu.checks.views import viewed
from emu.clock.price import Prices, seen
from emu.datasheet import Device, Sheet, machine
from emu.errors import EmulationError, LimitExceeded, NoCostRule, UnwrittenTile
from emu.instruction import Instruction, lookup, release
from emu.tracing import integers
from emu.tracing import jaxpr as jx

MOST_TURNS = 64
"""Turns of a loop that are followed one by one; tiles in longer rotations count as written."""

_ACCEPTED: weakref.WeakKeyDictionary[jx.Body, list[Sheet]] = weakref.WeakKeyDictionary()
"""The machines that were found to run a program, as it is read and run many times."""


def check(body: jx.Body, device: Device) -> None:
    """Refuses what the machine cannot run, whatever the data.

    Args:
      body: a kernel's jaxpr, from `emu.tracing.jaxpr.trace`.
      device: the machine.

    Raises:
      WrongSpace: an operand in a memory that the instruction does not reach.
      LimitExceeded: a tile larger than the hardware takes, a view that would move data from one
        partition to another, or a start partition that no engine has.
      UnwrittenTile: a tile is read, or added to, that nobody has written.
      NoCostRule: arithmetic for which the machine has no instruction.
    """
    sheet = device.sheet
    accepted = _ACCEPTED.setdefault(body, [])
    # Not by equality: sheets hold tables, and comparing those takes longer than most checks.
    if any(each is sheet for each in accepted):
        return
    _Walk(device).body(body, [argument(sheet.home, atom.aval) for atom in body.invars])
    accepted.append(sheet)


def check_any(body: jx.Body) -> None:
    """`check` for a program of which only the kind of machine is known, by its instructions.

    What one generation takes is taken: who runs a program has not said for which one it is. A
    program without instructions is of no machine, and nothing is refused.

    Raises:
      EmulationError: see `check`; what the newest generation says.
    """
    name = _machine_of(body)
    if name is None:
        return
    refused: list[EmulationError] = []
    sheets = machine(name)
    for sheet in sheets:
        try:
            return check(body, sheet.at())
        except EmulationError as error:
            refused.append(error)
    if refused:
        raise refused[0]


def check_machine(body: jx.Body, device: Device) -> None:
    """Raises `LimitExceeded` for a kernel of another machine's instructions."""
    name = _machine_of(body)
    if name is None:
        return
    cores = {sheet.core for sheet in machine(name)}
    if device.core not in cores:
        raise LimitExceeded(
            f"device is {device.name}, must have the instructions `{name}.` of "
            f"{' and '.join(sorted(cores))}"
        )


def no_instruction(device: Device, eqn: jx.Equation) -> NoCostRule:
    """For arithmetic on tiles: names what to call in its place."""
    name = eqn.primitive.name
    instead = device.sheet.instead.get(name)
    cure = "" if instead is None else f": call {instead}"
    return NoCostRule(
        f"{device.name} has no instruction for '{name}'{cure}", jx.location(eqn)
    )


def _machine_of(body: jx.Body) -> str | None:
    for eqn in body.eqns:
        inst = lookup(eqn.primitive)
        if inst is not None and machine(inst.machine):
            return inst.machine
        for inside in jx.inner(eqn):
            found = _machine_of(inside)
            if found is not None:
                return found
    return None


class _Walk:
    """One pass over a program for one machine."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self.prices = Prices(device)
        # Bodies by what they were given, so that the turns of an outer loop find those of the inner
        # ones done.
        self.done: dict[tuple[Any, ...], list[Held]] = {}

    def body(self, body: jx.Body, inputs: Values) -> list[Held]:
        """Checks a body's equations; returns what is known of its outputs."""
        key = id(body), *(value.key for value in inputs)
        if key not in self.done:
            self.done[key] = self._body(body, inputs)
        return self.done[key]

    def _body(self, body: jx.Body, inputs: Values) -> list[Held]:
        values: dict[int, Held] = {id(atom): literal(atom) for atom in body.literals}
        for atom, const in zip(body.constvars, body.consts, strict=True):
            values[id(atom)] = constant(self.device.home, np.asarray(const))
        input_ids, output_ids = body.ids
        values.update(zip(input_ids, inputs, strict=True))
        for eqn, operand_ids, result_ids in body.steps:
            operands = [values[atom] for atom in operand_ids]
            results = self.equation(eqn, operands)
            values.update(zip(result_ids, results, strict=True))
        return [values[atom] for atom in output_ids]

    def equation(self, eqn: jx.Equation, operands: list[Held]) -> list[Held]:
        name = eqn.primitive.name
        if inst := lookup(eqn.primitive):
            return self.instruction(inst, eqn, operands)
        if name == "scan":
            return self.scan(eqn, operands)
        if name == "cond":
            return self.cond(eqn, operands)
        if (called := jx.call(eqn)) is not None:
            return self.body(called, operands)
        if name in jx.IDENTITIES:
            return operands
        return [self.without_instruction(eqn, operands)]

    # --- instructions ---

    def instruction(
        self, inst: Instruction[..., Any], eqn: jx.Equation, operands: list[Held]
    ) -> list[Held]:
        within(inst, eqn, operands)
        pairs = zip(eqn.invars, operands, strict=True)
        values = [as_value(atom.aval, held) for atom, held in pairs]
        is_counted = "count" in inst.reads
        if is_counted:
            # Its cost is of a number that only the clock knows.
            seen(inst, eqn, values)
        else:
            price = self.prices.price(inst, eqn, values)
            self.check_starts(inst, eqn, price.cost.engine, operands)
        _check_single(inst, eqn, operands)
        _check_written(inst, eqn, operands)
        if inst.in_place:
            destinations = operands[: inst.destinations]
            return [held.written() for held in destinations]
        is_declaration = not operands
        return [Held(space, fresh=is_declaration) for space in inst.writes]

    def check_starts(
        self,
        inst: Instruction[..., Any],
        eqn: jx.Equation,
        engine: str | None,
        operands: list[Held],
    ) -> None:
        """Raises `LimitExceeded` where a tile begins in a partition that the engine cannot."""
        taken = partitions(self.device, inst, eqn, operands)
        starts = self.device.sheet.start_partitions.get(engine or "")
        if starts is None:
            return
        for place, rows in taken.items():
            where = f"{inst.name}: operand {place} is"
            if rows.step > 1:
                raise LimitExceeded(
                    f"{where} every {rows.step}. partition, must be a range of them; a DMA takes "
                    "any",
                    jx.location(eqn),
                )
            if rows.start is not None and rows.count > starts.get(rows.start, 0):
                able = [f"{most} from {start}" for start, most in starts.items()]
                raise LimitExceeded(
                    f"{where} {rows.count} partitions from partition "
                    f"{rows.start}, must be at most {', '.join(able)}; a DMA takes any",
                    jx.location(eqn),
                )

    # --- loops and branches ---

    def scan(self, eqn: jx.Equation, operands: list[Held]) -> list[Held]:
        """Follows a loop until a turn begins as one before it did.

        Example: three tiles rotate, of which only the first was written. The second turn begins
        with other tiles in the carry than the first, so does the third, and the fourth begins as
        the first did: of 100 turns three are walked.
        """
        loop = jx.scan(eqn)
        consts, carry, stacked = loop.parts(operands)
        self.check_slices(eqn, stacked)
        if loop.length == 0:
            stacks = len(loop.body.outvars) - loop.carry
            return [*carry, *[Held(self.device.home)] * stacks]
        first = loop.length - 1 if loop.reverse else 0
        slices = [held.slice_(first) for held in stacked]
        made: list[Held] = []
        begun: list[Values] = []
        first_at: dict[tuple[Any, ...], int] = {}
        for turn in range(min(loop.length, MOST_TURNS)):
            key = tuple(held.key for held in carry)
            if key in first_at:
                break
            # Only the first turn is one of known integers: no other begins as it does.
            if turn:
                first_at[key] = turn
            begun.append(carry)
            outputs = self.body(loop.body, [*consts, *carry, *slices])
            carry = [held.forgotten() for held in outputs[: loop.carry]]
            made = outputs[loop.carry :]
            slices = [held.forgotten() for held in slices]
        begun.append(carry)
        partitioned = self.device.partitioned
        stacks = [held.stacked(held.space in partitioned) for held in made]
        return [*_after(begun, first_at, loop.length), *stacks]

    def check_slices(self, eqn: jx.Equation, stacked: Values) -> None:
        """Raises `LimitExceeded` where a loop would take a tile apart, partition by partition."""
        for held in stacked:
            if held.space in self.device.partitioned and not held.stacks:
                raise LimitExceeded(
                    f"scan: its slices are single partitions of a tile in {held.space}, of which "
                    "each keeps its own; loop over a buffer in HBM, or over columns",
                    jx.location(eqn),
                )

    def cond(self, eqn: jx.Equation, operands: list[Held]) -> list[Held]:
        pick, *values = operands
        bodies = jx.branches(eqn)
        if pick.known is not None:
            number = int(np.clip(pick.known.item(), 0, len(bodies) - 1))
            return self.body(bodies[number], values)
        each_branch = [self.body(body, values) for body in bodies]
        return [either(cases) for cases in zip(*each_branch, strict=True)]

    # --- what is no instruction ---

    def without_instruction(self, eqn: jx.Equation, operands: list[Held]) -> Held:
        """A known integer, or a view: `emu.clock.timeline` has the same cases, with times."""
        name = eqn.primitive.name
        aval = eqn.outvars[0].aval
        if name == "axis_index":
            return integer()
        if name == "iota":
            return integer(integers.iota(eqn.params, RANK))
        if name in jx.VIEWS:
            return viewed(self.device, eqn, operands)
        are_integers = all(held.integer for held in operands)
        if operands and are_integers and is_integer(aval):
            return integer(evaluated(eqn, operands))
        raise no_instruction(self.device, eqn)


def _check_single(
    inst: Instruction[..., Any], eqn: jx.Equation, operands: list[Held]
) -> None:
    """Raises `LimitExceeded` where an instruction is given a stack of tiles for one."""
    for place, held in enumerate(operands):
        if held.stacks:
            shape = list(eqn.invars[place].aval.shape)
            raise LimitExceeded(
                f"{inst.name}: operand {place} is a stack of tiles in {held.space}, {shape}, must "
                "be one of them",
                jx.location(eqn),
            )


def _check_written(
    inst: Instruction[..., Any], eqn: jx.Equation, operands: list[Held]
) -> None:
    """Raises `UnwrittenTile` where an instruction takes what nobody wrote."""
    if inst is release:
        return
    sources = operands[inst.destinations :]
    for place, held in enumerate(sources, inst.destinations):
        if held.fresh:
            raise UnwrittenTile(
                f"{inst.name}: nobody has written operand {place}, a tile in {held.space}: load, "
                "copy or set it first",
                jx.location(eqn),
            )
    if operands and operands[0].fresh and _adds(inst, operands):
        raise UnwrittenTile(
            f"{inst.name}: adds to a tile in {operands[0].space} that nobody has written: let the "
            "first one overwrite it, or set it to 0 before",
            jx.location(eqn),
        )


def _adds(inst: Instruction[..., Any], operands: list[Held]) -> bool:
    """Whether it certainly adds: always, or by a register that is known and not 0."""
    if inst.adds_if is None:
        return inst.adds
    known = operands[inst.destinations + inst.adds_if].known
    return known is not None and bool(np.all(known != 0))


def _after(
    begun: list[Values], first_at: dict[tuple[Any, ...], int], length: int
) -> Values:
    """The carry behind a loop's last turn, from what each turn that was walked began with."""
    last = len(begun) - 1
    if length <= last:
        return begun[length]
    key = tuple(held.key for held in begun[last])
    if key not in first_at:
        # Too long to follow.
        return [held.written() for held in begun[last]]
    # Turn 5 begins as turn 2 did: 100 turns end as 2 + (100 - 2) % 3 = 4 do.
    first = first_at[key]
    return begun[first + (length - first) % (last - first)]


__all__ = ["check", "check_any", "no_instruction"]
