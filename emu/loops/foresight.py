"""Known integers of all iterations of a loop at once, and every decision that depends on them.

A known integer gets one more leading dimension for each loop it is in, `[*iterations, *mesh,
*shape]`, outermost first. In a loop of 4 iterations on a mesh of 2 cores the loop's index is
`[[0], [1], [2], [3]]`, alike on both cores, and `index < 2 + core` is

    [[True, True], [True, True], [False, True], [False, False]]

so the first two iterations decide alike, and the others each in their own way.
"""

import functools
import math
from typing import Protocol, TypeAlias

import numpy as np

from emu.clock.resources import Path
from emu.instruction import COUNTS, lookup
from emu.loops import relevant
from emu.loops.relevant import Places
from emu.tracing import integers
from emu.tracing import jaxpr as jx

# Of 8 bytes each these are 34 MB.
MAX_DECISIONS = 1 << 22

Known: TypeAlias = np.ndarray | None
"""An integer in all iterations, or None where it depends on data."""


class Mesh(Protocol):
    """What is asked of a mesh: `emu.clock.state.Setup`, or groups of cores side by side."""

    @property
    def rank(self) -> int: ...

    def core_index(self, axis: str) -> np.ndarray:
        """Every core's index along an axis, broadcastable to the mesh."""
        ...


class Opaque(Exception):
    """A decision that cannot be evaluated ahead; the loop is stepped."""


class Decisions(dict[tuple[Path, int], np.ndarray]):
    """Decisions, `[*iterations, *mesh]` each, by the path of equations to them and a number.

    Attributes:
      path: of the equation that is being evaluated.
    """

    path: Path = ()


@functools.lru_cache(maxsize=4096)
def sites(body: jx.Body) -> int:
    """How many branches and counts one pass through a body meets at most, all branches taken."""
    total = 0
    for eqn in body.eqns:
        name = eqn.primitive.name
        inst = lookup(eqn.primitive)
        counts = inst is not None and inst.is_counted
        if counts or name == "cond":
            total += 1
        times = jx.scan(eqn).length if name == "scan" else 1
        for inner in jx.inner(eqn):
            total += times * sites(inner)
    return total


@functools.lru_cache(maxsize=4096)
def decides(body: jx.Body) -> bool:
    """Whether a loop body holds a branch, or an instruction whose cost depends on a count."""
    return sites(body) > 0


# --- one loop ---


def iterations(loop: jx.Scan, known: Known, rank: int, depth: int) -> Known:
    """A stacked input with its leading own dimension as iterations, in the order they run."""
    if known is None:
        return None
    # The mesh's dimensions stand between: `[*outer, *mesh, length, ...]`.
    own = depth + rank
    moved = np.moveaxis(known, own, depth)
    # A reversed loop of four reads slices 3, 2, 1, 0: flipped, row 0 is what runs first.
    return np.flip(moved, depth) if loop.reverse else moved


def carried(
    mesh: Mesh,
    loop: jx.Scan,
    consts: list[Known],
    carry: list[Known],
    slices: list[Known],
    depth: int,
) -> list[Known]:
    """Each carry slot at every iteration and after the last; one dimension more.

    A carry of 5 that grows by 2 in each of 3 iterations is `[5, 7, 9, 11]`, worked out without
    walking them; one that never changes is `[5]`, alike in all.

    Args:
      mesh: of the cores.
      loop: the `scan`.
      consts, carry, slices: its inputs, those that are stacked as `iterations` gives them.
      depth: of loops around it.
    """
    rows: list[Known] = []
    _, slots, _ = loop.parts(loop.body.invars)
    for slot, known in enumerate(carry):
        if known is None:
            rows.append(None)
            continue
        before = slots[slot]
        after = loop.body.outvars[slot]
        first = np.expand_dims(known, depth)
        # One row for all: a dimension of 1 broadcasts against the `length` rows of other operands,
        # and a decision that keeps it tells no iterations apart.
        if after is before:
            rows.append(first)
            continue
        step = _increment(loop.body, before, after)
        if step is None:
            # It may depend on any other carry, so all are stepped.
            return _stepped(mesh, loop, consts, carry, slices, depth)
        rows.append(first + _ramp(loop, step, known, depth))
    return rows


def _ramp(loop: jx.Scan, step: np.ndarray, known: np.ndarray, depth: int) -> np.ndarray:
    """0, 1, 2, ... times a step, along the dimension of iterations; in the carry's own dtype."""
    # So it wraps where XLA does: a carry of 8 bits that begins at 120 and grows by 10 is -126 next.
    # Modulo 256 it makes no difference whether every sum wraps or only the product.
    count = np.arange(loop.length + 1).astype(known.dtype)
    ramp = count * step.astype(known.dtype)
    inner = known.ndim - depth
    shape = (1,) * depth + (-1,) + (1,) * inner
    return ramp.reshape(shape)


def _increment(body: jx.Body, before: jx.Atom, after: jx.Atom) -> Known:
    """The constant by which a carry grows each iteration, or None where that is not its form."""
    for eqn in body.eqns:
        # The form that loop indices and counters take. Any other, such as `x - 1` or `x + stride`,
        # is as right when it is stepped, only slower.
        if eqn.primitive.name != "add" or eqn.outvars[0] is not after:
            continue
        left, right = eqn.invars
        if left is before and jx.is_literal(right):
            return jx.literal_value(right)
        if right is before and jx.is_literal(left):
            return jx.literal_value(left)
    return None


def _stepped(
    mesh: Mesh,
    loop: jx.Scan,
    consts: list[Known],
    carry: list[Known],
    slices: list[Known],
    depth: int,
) -> list[Known]:
    """Carries that follow no simple rule, evaluated one iteration after another."""
    history = [carry]
    for iteration in range(loop.length):
        now: list[Known] = []
        for known in slices:
            own = None if known is None else np.take(known, iteration, depth)
            now.append(own)
        inputs = [*consts, *history[-1], *now]
        # Decisions of one iteration lack the dimension of iterations and are dropped:
        # `in_every_iteration` finds them again once the carry is known at all of them.
        results = _evaluate(
            mesh, loop.body, inputs, Decisions(), depth, _all(loop.body)
        )
        history.append(results[: loop.carry])
    rows: list[Known] = []
    for each in zip(*history, strict=True):
        known = [carried for carried in each if carried is not None]
        # Known at first and then replaced by data: there is no row that holds for all.
        if len(known) < len(each):
            rows.append(None)
            continue
        alike = np.broadcast_arrays(*known)
        rows.append(np.stack(alike, depth))
    return rows


def in_every_iteration(
    mesh: Mesh,
    loop: jx.Scan,
    consts: list[Known],
    rows: list[Known],
    slices: list[Known],
    depth: int,
    decisions: Decisions,
) -> None:
    """Adds the decisions of all iterations, side by side; `rows` are from `carried`."""
    outer = (slice(None),) * depth
    # The last entry of a carry is what it is after the loop.
    as_they_begin = (*outer, slice(loop.length))
    inputs: list[Known] = []
    for known in consts:
        same_in_all = None if known is None else np.expand_dims(known, depth)
        inputs.append(same_in_all)
    for known in rows:
        inputs.append(None if known is None else known[as_they_begin])
    _evaluate(mesh, loop.body, [*inputs, *slices], decisions, depth + 1, _NONE)


# --- one jaxpr ---


_NONE: Places = frozenset()


def _all(body: jx.Body) -> Places:
    """Places of all outputs."""
    return frozenset(range(len(body.outvars)))


def _evaluate(
    mesh: Mesh,
    body: jx.Body,
    inputs: list[Known],
    decisions: Decisions,
    depth: int,
    outputs: Places,
) -> list[Known]:
    """Known values of some outputs of a jaxpr inside `depth` loops; adds every decision."""
    lead = depth + mesh.rank

    def constant(value: np.ndarray) -> Known:
        return value[(None,) * lead] if value.dtype.kind in "iub" else None

    values: dict[int, Known] = {}
    for atom in body.literals:
        values[id(atom)] = constant(jx.literal_value(atom))
    for atom, const in zip(body.constvars, body.consts, strict=True):
        values[id(atom)] = constant(np.asarray(const))
    input_ids, output_ids = body.ids
    values.update(zip(input_ids, inputs, strict=True))
    outer = decisions.path
    # Most of a body is instructions, which decide nothing.
    for step in relevant.steps(body, outputs):
        decisions.path = outer, step.number
        operands = [None if atom is None else values[atom] for atom in step.operands]
        results = _equation(mesh, step, operands, decisions, depth)
        for known in results:
            if known is not None and known.size > MAX_DECISIONS:
                raise Opaque
        values.update(zip(step.results, results, strict=True))
    decisions.path = outer
    wanted = enumerate(output_ids)
    return [values.get(atom) if place in outputs else None for place, atom in wanted]


def _equation(
    mesh: Mesh,
    step: relevant.Step,
    operands: list[Known],
    decisions: Decisions,
    depth: int,
) -> list[Known]:
    eqn = step.eqn
    name = eqn.primitive.name
    lead = depth + mesh.rank
    unknown: list[Known] = [None] * len(eqn.outvars)
    if inst := lookup(eqn.primitive):
        sources = operands[inst.destinations :]
        for operand, space in zip(sources, inst.reads, strict=True):
            if space in COUNTS:
                _decide(operand, decisions, lead)
        return unknown
    if name == "cond":
        return _branch(mesh, step, operands, decisions, depth)
    if name == "scan":
        return _loop(mesh, jx.scan(eqn), operands, decisions, depth)
    if (body := jx.call(eqn)) is not None:
        return _evaluate(mesh, body, operands, decisions, depth, step.wanted)
    if name == "axis_index":
        index = mesh.core_index(eqn.params["axis_name"])
        return [index[(None,) * depth]]
    if name == "iota":
        return [integers.iota(eqn.params, lead)]
    known = [operand for operand in operands if operand is not None]
    if not operands or len(known) < len(operands):
        return unknown
    # Checked before it is worked out: iterations times cores times elements may fill the memory.
    frames = [operand.shape[:lead] for operand in known]
    elements = [math.prod(operand.shape[lead:]) for operand in known]
    frame = np.broadcast_shapes(*frames)
    if math.prod(frame) * max(elements) > MAX_DECISIONS:
        raise Opaque
    return [integers.evaluate(name, eqn.params, known, lead)]


def _decide(operand: Known, decisions: Decisions, lead: int) -> np.ndarray:
    """Adds each element of a known integer as a decision."""
    if operand is None:
        raise Opaque
    # Said in full, as a loop of length 0 leaves nothing to tell -1 from.
    count = math.prod(operand.shape[lead:])
    elements = operand.reshape(*operand.shape[:lead], count)
    for number in range(elements.shape[-1]):
        decisions[decisions.path, number] = elements[..., number]
    return operand


def _branch(
    mesh: Mesh,
    step: relevant.Step,
    operands: list[Known],
    decisions: Decisions,
    depth: int,
) -> list[Known]:
    """Decisions inside a branch count where it is taken."""
    pick = _decide(operands[0], decisions, depth + mesh.rank)
    bodies = jx.branches(step.eqn)
    choice = np.clip(pick.astype(np.int64), 0, len(bodies) - 1)
    _, *values = operands
    results: dict[int, list[Known]] = {}
    for number, body in enumerate(bodies):
        here = choice == number
        if not here.any():
            continue
        # What a core would have decided in a branch that it skips is set to 0, or cores and
        # iterations would be told apart by counts that they never meet. A real 0 cannot be confused
        # with it: that the branch was taken is itself a decision.
        inside = Decisions()
        inside.path = decisions.path, number
        results[number] = _evaluate(mesh, body, values, inside, depth, step.wanted)
        for path, decision in inside.items():
            # It may be in further loops, which have dimensions of their own.
            loops = decision.ndim - choice.ndim
            own = range(depth, depth + loops)
            taken = np.expand_dims(here, tuple(own))
            never = np.zeros_like(decision)
            decisions[path] = np.where(taken, decision, never)
    if not results:
        return [None] * len(bodies[0].outvars)  # inside a loop of no iterations
    # Of branches 0 to 3 only 1 and 3 may be taken: then 1 is the first case, 3 the second.
    case = np.searchsorted(list(results), choice)
    merged: list[Known] = []
    for cases in zip(*results.values(), strict=True):
        known = [result for result in cases if result is not None]
        complete = len(known) == len(cases)
        merged.append(integers.choose(case, known) if complete else None)
    return merged


def _loop(
    mesh: Mesh,
    loop: jx.Scan,
    operands: list[Known],
    decisions: Decisions,
    depth: int,
) -> list[Known]:
    """An inner loop, for all iterations of the outer ones at once."""
    consts, carry, stacked = loop.parts(operands)
    stacks: list[Known] = [None] * (len(loop.body.outvars) - loop.carry)
    if not decides(loop.body) and all(known is None for known in carry):
        return [*carry, *stacks]
    slices = [iterations(loop, known, mesh.rank, depth) for known in stacked]
    # Also of a loop that decides nothing: a branch behind it may go by what it leaves.
    rows = carried(mesh, loop, consts, carry, slices, depth)
    if decides(loop.body):
        in_every_iteration(mesh, loop, consts, rows, slices, depth, decisions)
    last: list[Known] = []
    for row in rows:
        last.append(None if row is None else np.take(row, -1, depth))
    return [*last, *stacks]


__all__ = [
    "Decisions",
    "Known",
    "MAX_DECISIONS",
    "Mesh",
    "Opaque",
    "carried",
    "decides",
    "in_every_iteration",
    "iterations",
    "sites",
]
