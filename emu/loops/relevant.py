"""Which integers a loop's decisions are made of: others may differ between cores that decide alike.

Eight cores of a chip share out the heads of attention. Each works out which heads are its own,
`core * 4`, and where in a table their numbers lie; but whether a tile is skipped depends on the
chip alone. To a loop over tiles those eight are then one cell (`emu.loops.entry`).

A decision is a branch taken, or the count that an instruction's cost depends on. From these it is
followed back, equation by equation, through calls, branches and the carries of loops, to what
comes in.
"""

import dataclasses
import functools
from collections.abc import Iterable

from emu.instruction import COUNTS, lookup
from emu.tracing import jaxpr as jx

Places = frozenset[int]
"""Places among a body's inputs or outputs."""


@dataclasses.dataclass(frozen=True)
class Relevant:
    """What decisions depend on.

    Attributes:
      inputs: places of inputs.
      axes: of the mesh, along which a core's index matters.
    """

    inputs: Places
    axes: frozenset[str]


def of_loop(loop: jx.Scan) -> Relevant:
    """What the decisions of a loop depend on, in any of its iterations."""
    return _of_loop(loop, frozenset())


@dataclasses.dataclass(frozen=True, eq=False)
class Step:
    """An equation that decides, or makes what is decided by.

    Attributes:
      number: among all of its body.
      eqn: the equation.
      operands: ids of its operands, None for those that do not matter.
      results: ids of its results.
      wanted: places of the results that matter.
    """

    number: int
    eqn: jx.Equation
    operands: list[int | None]
    results: list[int]
    wanted: Places


def of_body(body: jx.Body, outputs: Places) -> Relevant:
    """What a body's decisions depend on, and those of its outputs that matter further on."""
    _, found = _followed(body, outputs)
    return found


def steps(body: jx.Body, outputs: Places) -> list[Step]:
    """The equations of a body by which its decisions and some outputs can be worked out."""
    found, _ = _followed(body, outputs)
    return found


@functools.lru_cache(maxsize=4096)
def _followed(body: jx.Body, outputs: Places) -> tuple[list[Step], Relevant]:
    _, output_ids = body.ids
    wanted = {output_ids[place] for place in outputs}
    axes: set[str] = set()
    found: list[Step] = []
    # Backwards, whoever reads a result is met before the equation that makes it.
    for number, (eqn, operands, results) in reversed([*enumerate(body.steps)]):
        further = frozenset(
            place for place, atom in enumerate(results) if atom in wanted
        )
        own = _of_equation(eqn, further)
        if not further and not own.inputs and not own.axes:
            continue
        axes |= own.axes
        read = [
            atom if place in own.inputs else None for place, atom in enumerate(operands)
        ]
        wanted.update(atom for atom in read if atom is not None)
        found.append(Step(number, eqn, read, results, further))
    input_ids, _ = body.ids
    inputs = [place for place, atom in enumerate(input_ids) if atom in wanted]
    return found[::-1], Relevant(frozenset(inputs), frozenset(axes))


def _of_equation(eqn: jx.Equation, results: Places) -> Relevant:
    """Which operands of an equation matter, given which of its results do."""
    name = eqn.primitive.name
    inst = lookup(eqn.primitive)
    if inst is not None:
        # What an instruction makes is data, on which nothing is decided.
        sources = enumerate(inst.reads, start=inst.destinations)
        counts = [place for place, space in sources if space in COUNTS]
        return Relevant(frozenset(counts), frozenset())
    if name == "scan":
        return _of_loop(jx.scan(eqn), results)
    if name == "cond":
        inside = [of_body(body, results) for body in jx.branches(eqn)]
        # The first operand says which branch is taken; the others go into it.
        behind = [place + 1 for each in inside for place in each.inputs]
        return Relevant(frozenset([0, *behind]), _all_axes(inside))
    if (body := jx.call(eqn)) is not None:
        return of_body(body, results)
    if not results:
        return Relevant(frozenset(), frozenset())
    if name == "axis_index":
        return Relevant(frozenset(), frozenset([eqn.params["axis_name"]]))
    return Relevant(frozenset(range(len(eqn.invars))), frozenset())


def _of_loop(loop: jx.Scan, results: Places) -> Relevant:
    # What is decided in a later iteration depends on the carry that an earlier one makes: more and
    # more of it matters, until nothing new does.
    outputs = results
    while True:
        inside = of_body(loop.body, outputs)
        carried = range(loop.consts, loop.consts + loop.carry)
        again = [place - loop.consts for place in inside.inputs if place in carried]
        if outputs.issuperset(again):
            return inside
        outputs = outputs.union(again)


def _all_axes(each: Iterable[Relevant]) -> frozenset[str]:
    axes: set[str] = set()
    for one in each:
        axes |= one.axes
    return frozenset(axes)


__all__ = ["Places", "Relevant", "Step", "of_body", "of_loop", "steps"]
