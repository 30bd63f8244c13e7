"""One forward pass over a kernel's jaxpr that reads the clock of every core at once.

Each variable maps to when it is ready, each buffer to when it is idle. Engines issue in program
order (`emu.clock.issue`), so no event queue is needed. Branches are timed per core
(`emu.clock.branches`) and loops are stepped until they repeat, then jumped (`emu.loops`).
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from emu.checks import liveness, rules
from emu.clock import bands, plain, recording
from emu.clock.basic_blocks import Plans, Prepared, blocks, prepared
from emu.clock.branches import branch
from emu.clock.issue import issue
from emu.clock.reading import Event, Reading
from emu.clock.state import ClockState, Setup, initial_state
from emu.clock.ticks import Active, settled
from emu.clock.tiles import Value
from emu.clock.unpriced import constant, literal, without_instruction
from emu.datasheet import Device
from emu.errors import BranchBufferMismatch
from emu.loops import classes
from emu.tracing import jaxpr as jx


class Timeline:
    """The walk over a program: what each of its equations is to the clock.

    It holds no time itself: those are in the `ClockState` that it is given.

    Attributes:
      loops: what is kept of the loops read so far, so that none is read twice in one state.
      plans: of the basic blocks walked so far on one core.
    """

    def __init__(self) -> None:
        self.loops = classes.LoopStore()
        self.plans = Plans()

    def walk(
        self, state: ClockState, body: jx.Body, inputs: list[Value], active: Active
    ) -> list[Value]:
        """Reads a jaxpr on the active cores and returns its outputs."""
        input_ids, output_ids = body.ids
        values = _fixed(state, body).copy()
        values.update(zip(input_ids, inputs, strict=True))
        if active is None and state.is_plain:
            for block in blocks(body):
                if not (
                    block.is_basic and plain.walk(state, self.plans, block, values)
                ):
                    self.equations(state, block.equations, values, active)
        else:
            self.equations(state, prepared(body), values, active, body.last_uses)
        return [values[atom] for atom in output_ids]

    def equations(
        self,
        state: ClockState,
        equations: list[Prepared],
        values: dict[int, Value],
        active: Active,
        last_uses: list[list[int]] | None = None,
    ) -> None:
        """Reads equations one by one, and adds their results to the values by atom.

        Args:
          state: of the clock.
          equations: of a body, in order.
          values: by the atom's id.
          active: the cores that take part.
          last_uses: of each equation, the atoms that none behind it asks for. Their values are
            dropped: on a wafer each has an array of a time for every PE.
        """
        outer = state.path
        for number, inst, (eqn, operand_ids, result_ids) in equations:
            state.path = outer, number
            operands = [values[atom] for atom in operand_ids]
            if inst is not None:
                results = issue(state, inst, eqn, operands, active)
            else:
                results = self.equation(state, eqn, operands, active)
            if len(result_ids) == 1:
                values[result_ids[0]] = results[0]
            else:
                values.update(zip(result_ids, results, strict=True))
            for atom in last_uses[number] if last_uses is not None else ():
                del values[atom]
        state.path = outer

    def equation(
        self,
        state: ClockState,
        eqn: jx.Equation,
        operands: list[Value],
        active: Active,
    ) -> list[Value]:
        """Reads one equation that is no instruction."""
        name = eqn.primitive.name
        if name == "scan":
            if state.is_in_line:
                operands = state.settle(operands)
            return classes.scan(self.walk, self.loops, state, eqn, operands, active)
        if name == "cond":
            return branch(self.walk, state, eqn, operands, active)
        if (body := jx.call(eqn)) is not None:
            return self.walk(state, body, operands, active)
        if name in jx.IDENTITIES:
            return operands
        return [without_instruction(state, eqn, operands)]


# --- constants and arguments ---


def _fixed(state: ClockState, body: jx.Body) -> dict[int, Value]:
    """Values of a body's literals, made once, and of its constants, by the atom's id."""
    rank = state.setup.rank
    literals = state.literals.get(body)
    if literals is None:
        literals = {id(atom): literal(atom, rank) for atom in body.literals}
        state.literals[body] = literals
    if not body.consts:
        return literals
    # Literals are plain numbers and shared; a constant array takes a buffer in the home memory, so
    # each walk over the body makes its own.
    values = literals.copy()
    for atom, const in zip(body.constvars, body.consts, strict=True):
        on_mesh = np.asarray(const)[(None,) * rank]
        values[id(atom)] = _argument(state, atom.aval, on_mesh)
    return values


def _argument(state: ClockState, aval: jx.Aval, value: np.ndarray | None) -> Value:
    """A kernel argument in the device's home memory, or a known integer `[*mesh, *shape]`."""
    if value is not None and value.dtype.kind in "iub":
        return constant(aval, value)
    return state.there(aval, state.setup.device.home)


def read(
    traced: jx.Body,
    arguments: list[np.ndarray | None],
    mesh: Mapping[str, int],
    device: Device,
    *,
    jump: bool = True,
    contended: bool = True,
    trace_core: tuple[int, ...] | None = None,
) -> Reading:
    """Times a kernel, written for one core, on every core of `mesh`.

    Args:
      traced: its jaxpr, from `emu.tracing.jaxpr.trace`.
      arguments: the integer arrays of known arguments, None for data.
      mesh: axis name to size.
      device: machine and band.
      jump: False steps every iteration of every loop.
      contended: False gives the critical path alone (engines and buffers without limit).
      trace_core: records that core's events.

    Raises:
      EmulationError: an instruction, branch or operand the machine cannot run as written.
    """
    setup = Setup(device, dict(mesh), jump, contended, trace_core)
    if contended:
        return _read(traced, arguments, setup)
    # Without contention the time since the kernel's start matters, not that since an engine was
    # free: no loop is met twice in one state, so reading it class by class gains nothing. It is
    # needed only where cores that take different branches hold different buffers inside a loop.
    try:
        return _read(traced, arguments, setup, all_at_once=True)
    except BranchBufferMismatch:
        return _read(traced, arguments, setup)


def read_bands(
    traced: jx.Body,
    arguments: list[np.ndarray | None],
    mesh: Mapping[str, int],
    devices: Sequence[Device],
) -> list[Reading]:
    """`read` under several bands of one machine, in one pass where that is possible and faster.

    `stepped` and `unjumped` of each reading are those of the pass.
    """
    machine = tuple(devices)
    # One core's times are plain numbers, which three readings pass faster than one passes arrays.
    one_core = math.prod(mesh.values()) == 1
    if one_core or not bands.can_be_read_together(machine):
        return [read(traced, arguments, mesh, device) for device in machine]
    setup = Setup(machine[0], {bands.AXIS: len(machine), **mesh}, bands=machine)
    # A bands' dimension of 1: integers are the same under all.
    known = [None if value is None else value[None] for value in arguments]
    return bands.apart(_read(traced, known, setup), machine)


def _read(
    traced: jx.Body,
    arguments: list[np.ndarray | None],
    setup: Setup,
    *,
    all_at_once: bool = False,
) -> Reading:
    clock = initial_state(setup)
    if all_at_once:
        clock.all_at_once = True
    # Before anything is billed that XLA would delete.
    liveness.check_all_read(traced)
    rules.check(traced, setup.device)
    inputs: list[Value] = []
    for atom, known in zip(traced.invars, arguments, strict=True):
        inputs.append(_argument(clock, atom.aval, known))
    outputs = Timeline().walk(clock, traced, inputs, None)
    events: list[Event] = []
    if clock.trace is not None:
        recording.finish(clock.trace)
        events = clock.trace.events
    issued = clock.tally.by("count")
    return Reading(
        setup.device,
        setup.grid,
        end=settled(clock.end),
        last={name: settled(engine.last) for name, engine in clock.engines.items()},
        spent={key: settled(ticks) for key, ticks in clock.spent.items()},
        tally=clock.tally,
        outputs=[output.settled() for output in outputs],
        events=events,
        stepped=clock.stepped,
        issued=sum(issued.values()),
        unjumped=clock.unjumped,
    )


__all__ = ["Timeline", "read", "read_bands"]
