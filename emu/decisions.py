"""Which iterations of a loop decide alike: branches and counts evaluated ahead, without time.

A loop may be jumped only across iterations whose branches and known costs are those of the period
it repeats. Every decision of every iteration is evaluated here at once: a known integer gets one
more leading dimension for each loop it is in, `[*iterations, *mesh, *shape]`, outermost first.
"""

import dataclasses
import functools
from typing import Any

import numpy as np

from emu import jaxpr as jx
from emu import known
from emu.instruction import lookup
from emu.values import Value

MAX_DECISIONS = 1 << 24


class Opaque(Exception):
    """A decision that cannot be evaluated ahead; the loop is stepped."""


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is known of a loop's iterations before they are walked.

    Attributes:
      ids: an id per iteration, equal where decisions are; None if there is nothing to decide.
      carry: known value of each carry slot as each iteration begins, and after the last:
        `[length + 1 or 1, *mesh, *shape]`, or None.
    """

    ids: np.ndarray | None
    carry: list[np.ndarray | None]


def plan(
    line: Any, s: jx.Scan, consts: list[Value], carry: list[Value], stacked: list[Value]
) -> Plan | None:
    """Evaluates every iteration's decisions ahead; None if the loop must be stepped."""
    fixed, start = [c.known for c in consts], [c.known for c in carry]
    slices = [_iterations(s, x.known, line.rank, 0) for x in stacked]
    try:
        rows = _carried(line, s, fixed, start, slices, 0)
        if not decides(s.body):
            return Plan(None, rows)
        found: list[np.ndarray] = []
        _inside(line, s, fixed, rows, slices, 0, found)
    except Opaque:
        return None
    each = [d.reshape(s.length, -1) for d in found if d.shape[0] == s.length]
    if not each:
        return Plan(None, rows)
    table = np.concatenate([d.astype(np.int64) for d in each], axis=1)
    return Plan(np.unique(table, axis=0, return_inverse=True)[1].reshape(-1), rows)


@functools.lru_cache(maxsize=4096)
def decides(body: jx.Body) -> bool:
    """Whether a loop body holds a branch, or an instruction whose cost depends on a count."""
    for eqn in body.eqns:
        inst = lookup(eqn.primitive)
        if eqn.primitive.name == "cond" or (inst is not None and "count" in inst.reads):
            return True
        inner = jx.scan(eqn).body if eqn.primitive.name == "scan" else jx.call(eqn)
        if inner is not None and decides(inner):
            return True
    return False


# --- one loop ---


def _iterations(s: jx.Scan, x: Any, rank: int, depth: int) -> Any:
    """A stacked input with its leading own dimension as iterations, in the order they run."""
    if x is None:
        return None
    x = np.moveaxis(x, depth + rank, depth)
    return np.flip(x, depth) if s.reverse else x


def _carried(
    line: Any, s: jx.Scan, consts: list[Any], start: list[Any], slices: list[Any], depth: int
) -> list[Any]:
    """Each carry slot at every iteration and after the last, or None; one dimension more."""
    out = []
    for slot, x in enumerate(start):
        var, end = s.body.invars[s.consts + slot], s.body.outvars[slot]
        if x is None:
            out.append(None)
        elif end is var:
            out.append(np.expand_dims(x, depth))
        elif (step := _increment(s.body, var, end)) is not None:
            ramp = np.arange(s.length + 1).astype(x.dtype) * step.astype(x.dtype)
            ramp = ramp.reshape((1,) * depth + (-1,) + (1,) * (x.ndim - depth))
            out.append(np.expand_dims(x, depth) + ramp)
        else:
            return _stepped(line, s, consts, start, slices, depth)
    return out


def _increment(body: jx.Body, var: Any, end: Any) -> Any:
    """The constant by which a carry grows each iteration, or None where that is not its form."""
    for eqn in body.eqns:
        if eqn.primitive.name == "add" and eqn.outvars[0] is end:
            a, b = eqn.invars
            for x, y in ((a, b), (b, a)):
                if x is var and jx.is_literal(y):
                    return jx.literal_value(y)
    return None


def _stepped(
    line: Any, s: jx.Scan, consts: list[Any], state: list[Any], slices: list[Any], depth: int
) -> list[Any]:
    """Carries that follow no simple rule, evaluated one iteration after another."""
    rows: list[list[Any]] = [[x] for x in state]
    for t in range(s.length):
        now = [None if x is None else np.take(x, t, depth) for x in slices]
        state = _evaluate(line, s.body, [*consts, *state, *now], [], depth)[: s.carry]
        for row, x in zip(rows, state, strict=True):
            row.append(x)
    return [
        None if any(x is None for x in row) else np.stack(np.broadcast_arrays(*row), depth)
        for row in rows
    ]


def _inside(
    line: Any, s: jx.Scan, consts: list[Any], rows: list[Any], slices: list[Any], depth: int,
    found: list[np.ndarray],
) -> None:  # fmt: skip
    """Appends the decisions of all iterations, side by side, to `found`."""
    begin = (slice(None),) * depth + (slice(s.length),)
    ins = [None if x is None else np.expand_dims(x, depth) for x in consts]
    ins += [None if x is None else x[begin] for x in rows]
    _evaluate(line, s.body, [*ins, *slices], found, depth + 1)


# --- one jaxpr ---


def _evaluate(
    line: Any, body: jx.Body, ins: list[Any], found: list[np.ndarray], depth: int
) -> list[Any]:
    """Known outputs of a jaxpr inside `depth` loops; appends every decision to `found`."""
    lead = depth + line.rank
    env: dict[Any, Any] = dict(zip(body.invars, ins, strict=True))

    def constant(value: np.ndarray) -> Any:
        return value[(None,) * lead] if value.dtype.kind in "iub" else None

    def get(atom: Any) -> Any:
        return constant(jx.literal_value(atom)) if jx.is_literal(atom) else env[atom]

    env |= {v: constant(np.asarray(c)) for v, c in zip(body.constvars, body.consts, strict=True)}
    for eqn in body.eqns:
        outs = _equation(line, eqn, [get(v) for v in eqn.invars], found, depth)
        if any(x is not None and x.size > MAX_DECISIONS for x in outs):
            raise Opaque
        env.update(zip(eqn.outvars, outs, strict=True))
    return [get(v) for v in body.outvars]


def _equation(line: Any, eqn: Any, xs: list[Any], found: list[np.ndarray], depth: int) -> list[Any]:
    name, lead = eqn.primitive.name, depth + line.rank
    if inst := lookup(eqn.primitive):
        for x, space in zip(xs[inst.destinations :], inst.reads, strict=True):
            if space == "count":
                _decide(x, found, lead)
    elif name == "cond":
        return _branch(line, eqn, xs, found, depth)
    elif name == "scan":
        return _loop(line, jx.scan(eqn), xs, found, depth)
    elif (body := jx.call(eqn)) is not None:
        return _evaluate(line, body, xs, found, depth)
    elif name == "axis_index":
        return [line.core_index(eqn.params["axis_name"])[(None,) * depth]]
    elif name == "iota":
        return [known.iota(eqn.params, lead)]
    elif xs and all(x is not None for x in xs):
        return [known.evaluate(name, eqn.params, xs, lead)]
    return [None] * len(eqn.outvars)


def _decide(x: Any, found: list[np.ndarray], lead: int) -> None:
    if x is None:
        raise Opaque
    own = x.reshape(*x.shape[:lead], -1)
    found += [own[..., i] for i in range(own.shape[-1])]


def _branch(line: Any, eqn: Any, xs: list[Any], found: list[np.ndarray], depth: int) -> list[Any]:
    """Decisions inside a branch count where it is taken."""
    pick, *xs = xs
    _decide(pick, found, depth + line.rank)
    bodies = jx.branches(eqn)
    which = np.clip(pick.astype(np.int64), 0, len(bodies) - 1)
    results: dict[int, list[Any]] = {}
    for b in np.unique(which).tolist():
        inside: list[np.ndarray] = []
        results[b] = _evaluate(line, bodies[b], xs, inside, depth)
        for d in inside:  # it may be in further loops
            taken = np.expand_dims(which == b, tuple(range(depth, depth + d.ndim - which.ndim)))
            found.append(np.where(taken, d, np.zeros_like(d)))
    rank = np.searchsorted(sorted(results), which)
    return [
        None if any(c is None for c in cases) else known.choose(rank, cases)
        for cases in zip(*(results[b] for b in sorted(results)), strict=True)
    ]


def _loop(line: Any, s: jx.Scan, xs: list[Any], found: list[np.ndarray], depth: int) -> list[Any]:
    """An inner loop, for all iterations of the outer ones at once."""
    consts, state = xs[: s.consts], xs[s.consts : s.consts + s.carry]
    ys = [None] * (len(s.body.outvars) - s.carry)
    if not decides(s.body) and all(x is None for x in state):
        return [*state, *ys]
    slices = [_iterations(s, x, line.rank, depth) for x in xs[s.consts + s.carry :]]
    rows = _carried(line, s, consts, state, slices, depth)
    if decides(s.body):
        _inside(line, s, consts, rows, slices, depth, found)
    last = [None if x is None else np.take(x, -1, depth) for x in rows]
    return [*last, *ys]


__all__ = ["Opaque", "Plan", "decides", "plan"]
