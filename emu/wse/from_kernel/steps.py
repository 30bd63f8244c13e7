"""What the PEs of a kernel do, in order: its jaxpr walked with all that is known.

Loops are walked iteration by iteration, branches on the PEs that take them, and views are followed,
so that what is left is a list of instructions, each with the tiles that it touches, the PEs that
run it and the cycles that its cost says on each of them.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from emu.datasheet import Device
from emu.errors import EmulationError, LimitExceeded
from emu.instruction import COUNTS, Instruction, Operand, lookup
from emu.tracing import integers
from emu.tracing import jaxpr as jx
from emu.wse.from_kernel.tiles import Tile, Value, View
from emu.wse.pe.isa import SPACE

MOST_STEPS = 50_000
"""A kernel of more, all iterations counted, is none of a few layers."""


@dataclasses.dataclass(frozen=True, eq=False)
class Step:
    """One instruction.

    Attributes:
      inst, params: of the equation.
      operands: destinations first.
      results: what it writes.
      place: `bool[*mesh]`, the PEs that run it.
      cycles: `int64[*mesh]`, of its cost; 0 of what crosses PEs.
      where: the kernel's line.
    """

    inst: Instruction[..., Any]
    params: Mapping[str, Any]
    operands: tuple[Value, ...]
    results: tuple[View, ...]
    place: np.ndarray
    cycles: np.ndarray
    where: str


@dataclasses.dataclass
class Steps:
    """A kernel taken apart.

    Attributes:
      mesh: axis name to size.
      steps: in program order.
      given: the tiles of the arguments and constants, and of constants their content.
      inputs: of the tiles of arguments, by their place among `given`, the argument's number.
      outputs: the kernel's results.
    """

    mesh: dict[str, int]
    steps: list[Step]
    given: list[tuple[Tile, np.ndarray | None]]
    inputs: dict[int, int]
    outputs: list[Value]


def steps(
    body: jx.Body,
    arguments: Sequence[np.ndarray | None],
    mesh: Mapping[str, int],
    device: Device,
) -> Steps:
    """The instructions of a traced kernel.

    Args:
      body: its jaxpr.
      arguments: what is known of them, None for data, as `Program.trace` gives both.
      mesh: axis name to size.
      device: whose costs.

    Raises:
      LimitExceeded: an equation that is no instruction and no view, with its line.
      EmulationError: what the instructions' costs raise.
    """
    walk = _Walk(dict(mesh), device)
    inputs: list[Value] = []
    numbers: dict[int, int] = {}
    for number, (atom, known) in enumerate(zip(body.invars, arguments, strict=True)):
        if known is not None and known.dtype.kind in "iub":
            inputs.append(known)
            continue
        numbers[len(walk.data)] = number
        inputs.append(walk.given(atom.aval, None))
    outputs = walk.body(body, inputs, np.ones(tuple(mesh.values()), bool))
    end = len(walk.steps)
    for value in outputs:
        if isinstance(value, View):
            value.tile.touched(end)
    return Steps(walk.mesh, walk.steps, walk.data, numbers, outputs)


class _Walk:
    """A walk over a kernel.

    Args:
      mesh: axis name to size.
      device: whose costs.
    """

    def __init__(self, mesh: dict[str, int], device: Device):
        self.mesh = mesh
        self.device = device
        self.grid = tuple(mesh.values())
        self.steps: list[Step] = []
        self.data: list[tuple[Tile, np.ndarray | None]] = []

    def given(self, aval: jx.Aval, content: np.ndarray | None) -> View:
        """An argument's tile, which is there from the first step to the last."""
        tile = Tile(aval.shape, np.dtype(aval.dtype), given=len(self.data))
        self.data.append((tile, content))
        return View.whole(tile)

    def body(
        self, body: jx.Body, inputs: Sequence[Value], place: np.ndarray
    ) -> list[Value]:
        """Walks a jaxpr on some PEs and returns its outputs."""
        values: dict[int, Value] = {}
        lead = (None,) * len(self.grid)
        for atom in body.literals:
            values[id(atom)] = jx.literal_value(atom)[lead]
        for atom, const in zip(body.constvars, body.consts, strict=True):
            content = np.asarray(const)
            is_known = content.dtype.kind in "iub"
            value = content[lead]
            values[id(atom)] = value if is_known else self.given(atom.aval, value)
        input_ids, output_ids = body.ids
        values.update(zip(input_ids, inputs, strict=True))
        for eqn, operand_ids, result_ids in body.steps:
            operands = [values[atom] for atom in operand_ids]
            results = self._equation(eqn, operands, place)
            values.update(zip(result_ids, results, strict=True))
        return [values[atom] for atom in output_ids]

    def _equation(
        self, eqn: jx.Equation, operands: list[Value], place: np.ndarray
    ) -> list[Value]:
        inst = lookup(eqn.primitive)
        if inst is not None:
            return self._instruction(inst, eqn, operands, place)
        name = eqn.primitive.name
        if name == "scan":
            return self._loop(eqn, operands, place)
        if name == "cond":
            return self._branch(eqn, operands, place)
        if (body := jx.call(eqn)) is not None:
            return self.body(body, operands, place)
        if name in jx.IDENTITIES:
            return operands
        return [self._free(eqn, operands)]

    def _free(self, eqn: jx.Equation, operands: list[Value]) -> Value:
        """What costs nothing: known integers, and views."""
        name = eqn.primitive.name
        rank = len(self.grid)
        if name == "axis_index":
            axis = list(self.mesh).index(eqn.params["axis_name"])
            shape = [1] * rank
            shape[axis] = self.grid[axis]
            return np.arange(self.grid[axis], dtype=np.int32).reshape(shape)
        found: Value | None = None
        if name == "iota":
            found = integers.iota(eqn.params, rank)
        elif not any(isinstance(value, View) for value in operands):
            known = [value for value in operands if not isinstance(value, View)]
            found = integers.evaluate(name, eqn.params, known, rank)
        elif name in jx.VIEWS and isinstance(operands[0], View):
            starts = [value for value in operands[1:] if not isinstance(value, View)]
            if len(starts) == len(operands) - 1:
                found = operands[0].viewed(eqn, starts)
        if found is None:
            raise LimitExceeded(
                f"{name}: is no instruction of a PE, no view and nothing known, so there is no "
                "operation of the fabric for it; use an instruction of emu.wse",
                jx.location(eqn),
            )
        return found

    def _loop(
        self, eqn: jx.Equation, operands: list[Value], place: np.ndarray
    ) -> list[Value]:
        loop = jx.scan(eqn)
        consts, carry, stacked = loop.parts(operands)
        rows: list[list[Value]] = []
        order = range(loop.length)
        for number in reversed(order) if loop.reverse else order:
            slices = [self._row(value, number) for value in stacked]
            results = self.body(loop.body, [*consts, *carry, *slices], place)
            carry = results[: loop.carry]
            rows.append(results[loop.carry :])
        if loop.reverse:
            rows.reverse()
        return [*carry, *[self._stack(eqn, each) for each in zip(*rows, strict=True)]]

    def _row(self, value: Value, number: int) -> Value:
        if isinstance(value, View):
            return dataclasses.replace(value, index=value.index[number])
        own = (slice(None),) * len(self.grid)
        return value[(*own, number)]

    def _stack(self, eqn: jx.Equation, rows: Sequence[Value]) -> Value:
        known = [row for row in rows if not isinstance(row, View)]
        if len(known) < len(rows):
            raise LimitExceeded(
                "scan: stacks tiles of its iterations, of which a PE has no operation; write each "
                "into a part of one tile with copy_into",
                jx.location(eqn),
            )
        alike = np.broadcast_arrays(*known)
        return np.stack(alike, axis=len(self.grid))

    def _branch(
        self, eqn: jx.Equation, operands: list[Value], place: np.ndarray
    ) -> list[Value]:
        pick, *values = operands
        if isinstance(pick, View):
            raise LimitExceeded(
                "cond: the branch depends on data, so what PEs do is unknown; give the integers "
                "it depends on as emu.Known",
                jx.location(eqn),
            )
        bodies = jx.branches(eqn)
        choice = np.clip(pick.astype(np.int64), 0, len(bodies) - 1)
        choice = np.broadcast_to(choice, self.grid)
        merged: list[Value] | None = None
        for number in np.unique(choice[place]).tolist():
            here = place & (choice == number)
            found = self.body(bodies[number], values, here)
            if merged is None:
                merged = found
            else:
                pairs = zip(found, merged, strict=True)
                merged = [self._chosen(eqn, here, *pair) for pair in pairs]
        # No PE takes part: a loop in a branch that none takes.
        return self.body(bodies[0], values, place) if merged is None else merged

    def _chosen(
        self, eqn: jx.Equation, here: np.ndarray, new: Value, old: Value
    ) -> Value:
        """`new` on some PEs and `old` on the others."""
        if isinstance(new, View) and isinstance(old, View):
            same = new.tile is old.tile and np.array_equal(new.index, old.index)
            if same:
                offset = np.where(here, new.offset, old.offset)
                is_one = (offset == offset.flat[0]).all()
                offset = int(offset.flat[0]) if is_one else offset
                return dataclasses.replace(new, offset=offset)
        elif not isinstance(new, View) and not isinstance(old, View):
            more = max(new.ndim, old.ndim) - here.ndim
            return np.where(here.reshape(*here.shape, *(1,) * more), new, old)
        raise LimitExceeded(
            "cond: a result is a different buffer in each branch; write both into one destination",
            jx.location(eqn),
        )

    # --- instructions ---

    def _instruction(
        self,
        inst: Instruction[..., Any],
        eqn: jx.Equation,
        operands: list[Value],
        place: np.ndarray,
    ) -> list[Value]:
        if not inst.in_place:
            return self._made(inst, eqn)
        if len(self.steps) == MOST_STEPS:
            raise LimitExceeded(
                f"{inst.name}: the {MOST_STEPS + 1:,}th instruction of the program, its loops "
                f"unrolled, at most {MOST_STEPS:,}; translate a part of the kernel",
                jx.location(eqn),
            )
        results = operands[: inst.destinations]
        written = tuple(value for value in results if isinstance(value, View))
        assert len(written) == len(results)
        cycles = self._cycles(inst, eqn, operands)
        for value in operands:
            if isinstance(value, View):
                value.tile.touched(len(self.steps))
        step = Step(
            inst=inst,
            params=eqn.params,
            operands=tuple(operands),
            results=written,
            place=place,
            cycles=cycles,
            where=jx.location(eqn),
        )
        self.steps.append(step)
        return list(results)

    def _made(self, inst: Instruction[..., Any], eqn: jx.Equation) -> list[Value]:
        """A tile that is declared; what else makes a buffer of its own is refused."""
        if inst.reads and eqn.outvars:
            raise LimitExceeded(
                f"{inst.name}: makes a buffer of its own from operands, for which the fabric has "
                "no operation; use an instruction that writes into a tile",
                jx.location(eqn),
            )
        made: list[Value] = []
        for atom in eqn.outvars:
            aval = atom.aval
            made.append(View.whole(Tile(aval.shape, np.dtype(aval.dtype))))
        return made

    def _cycles(
        self, inst: Instruction[..., Any], eqn: jx.Equation, operands: list[Value]
    ) -> np.ndarray:
        """`int64[*mesh]`: of the instruction's cost, rounded up as the clock does."""
        if inst.across:
            return np.zeros(self.grid, np.int64)
        allowed = (*inst.writes[: inst.destinations], *inst.reads)
        seen: list[Operand] = []
        for value, space in zip(operands, allowed, strict=True):
            if isinstance(value, View):
                seen.append(Operand(value.shape, value.tile.dtype, SPACE))
                continue
            known = value if space in COUNTS else None
            own = value.shape[len(self.grid) :]
            seen.append(Operand(own, value.dtype, "register", known))
        try:
            cost = inst.cost(self.device, *seen, **eqn.params)
        except EmulationError as error:
            raise type(error)(str(error), jx.location(eqn)) from None
        exact = np.asarray(cost.busy_cycles, np.float64)
        return np.broadcast_to(np.ceil(np.round(exact, 6)), self.grid).astype(np.int64)


__all__ = ["Step", "Steps", "steps"]
