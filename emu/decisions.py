"""Which iterations of a loop decide alike: branches and counts evaluated ahead, without time.

A loop may be jumped only across iterations whose branches and known costs are those of the period
it repeats. Every decision of every iteration is evaluated here at once, on known integers with one
more leading dimension for the iteration; iterations with equal decisions get equal ids.
"""

from typing import Any

import numpy as np

from emu import jaxpr as jx
from emu import known
from emu.instruction import lookup
from emu.values import Value

MAX_DECISIONS = 1 << 25


class Opaque(Exception):
    """A decision that cannot be evaluated ahead; the loop is stepped."""


def carried(line: Any, s: jx.Scan, consts: list[Value], carry: list[Value], slices: Any) -> Any:
    """Known value of each carry slot at every iteration, `[length, *mesh, *shape]`, or None."""
    out: list[np.ndarray | None] = []
    for slot in range(s.carry):
        var = s.body.invars[s.consts + slot]
        start, end = carry[slot].known, s.body.outvars[slot]
        if start is None:
            out.append(None)
        elif end is var:
            out.append(start[None])
        elif (step := _increment(s.body, var, end)) is not None:
            ramp = np.arange(s.length, dtype=start.dtype) * step
            out.append(start[None] + ramp.reshape(-1, *(1,) * start.ndim))
        else:
            return _stepped(line, s, consts, carry, slices)
    return out


def _increment(body: jx.Body, var: Any, end: Any) -> Any:
    """The constant by which a carry grows each iteration, or None where that is not its form."""
    for eqn in body.eqns:
        if end in eqn.outvars and eqn.primitive.name == "add":
            a, b = eqn.invars
            if a is var and jx.is_literal(b):
                return jx.literal_value(b)
            if b is var and jx.is_literal(a):
                return jx.literal_value(a)
    return None


def _stepped(line: Any, s: jx.Scan, consts: list[Value], carry: list[Value], slices: Any) -> Any:
    """Carries that follow no simple rule, evaluated one iteration after another."""
    state = [None if c.known is None else c.known[None] for c in carry]
    fixed = [None if c.known is None else c.known[None] for c in consts]
    rows: list[list[Any]] = [[] for _ in state]
    for t in range(s.length):
        for row, x in zip(rows, state, strict=True):
            row.append(x)
        sliced = [None if x is None else x[t : t + 1] for x in slices]
        state = _evaluate(line, s.body, [*fixed, *state, *sliced], [])[: s.carry]
    return [
        None if any(x is None for x in row) else np.concatenate(np.broadcast_arrays(*row))
        for row in rows
    ]


def ids(line: Any, s: jx.Scan, consts: list[Value], carry: Any, slices: Any) -> np.ndarray | None:
    """An id per iteration; iterations of equal id take equal decisions. None: cannot be known.

    Args:
      line: the timeline, for its mesh.
      s: the loop.
      consts: values of its constants.
      carry: from `carried`.
      slices: known stacked inputs in the order of iterations, `[length, *mesh, *shape]`, or None.
    """
    if not decides(s.body):
        return np.zeros(s.length, np.int64)
    fixed = [None if c.known is None else c.known[None] for c in consts]
    found: list[np.ndarray] = []
    try:
        _evaluate(line, s.body, [*fixed, *carry, *slices], found)
    except Opaque:
        return None
    rows = [d.reshape(s.length, -1) for d in found if d.shape[0] == s.length and s.length > 1]
    if not rows:
        return np.zeros(s.length, np.int64)
    if sum(r.size for r in rows) > MAX_DECISIONS:
        return None
    table = np.concatenate([r.astype(np.int64) for r in rows], axis=1)
    return np.unique(table, axis=0, return_inverse=True)[1].reshape(-1)


def decides(body: jx.Body) -> bool:
    """Whether a loop body holds a branch, or an instruction whose cost depends on a count."""
    for eqn in body.eqns:
        inst = lookup(eqn.primitive)
        if eqn.primitive.name == "cond" or (inst is not None and "count" in inst.reads):
            return True
        inner = jx.call(eqn)
        if eqn.primitive.name == "scan":
            inner = jx.scan(eqn).body
        if inner is not None and decides(inner):
            return True
    return False


def _evaluate(line: Any, body: jx.Body, ins: list[Any], found: list[np.ndarray]) -> list[Any]:
    """Known outputs of a jaxpr, iterations side by side; appends every decision to `found`."""
    lead = 1 + line.rank
    env: dict[Any, Any] = dict(zip(body.invars, ins, strict=True))
    for var, const in zip(body.constvars, body.consts, strict=True):
        value = np.asarray(const)
        env[var] = value[(None,) * lead] if value.dtype.kind in "iub" else None

    def get(atom: Any) -> Any:
        if jx.is_literal(atom):
            value = jx.literal_value(atom)
            return value[(None,) * lead] if value.dtype.kind in "iub" else None
        return env[atom]

    for eqn in body.eqns:
        xs = [get(v) for v in eqn.invars]
        outs = _equation(line, eqn, xs, found)
        env.update(zip(eqn.outvars, outs, strict=True))
    return [get(v) for v in body.outvars]


def _equation(line: Any, eqn: Any, xs: list[Any], found: list[np.ndarray]) -> list[Any]:
    name, nothing = eqn.primitive.name, [None] * len(eqn.outvars)
    lead = 1 + line.rank
    if inst := lookup(eqn.primitive):
        for x, space in zip(xs[inst.destinations :], inst.reads, strict=True):
            if space == "count":
                _decide(x, found)
        return nothing
    if name == "cond":
        return _branch(line, eqn, xs, found)
    if name == "scan":
        return _loop(line, jx.scan(eqn), xs, found)
    if (body := jx.call(eqn)) is not None:
        return _evaluate(line, body, xs, found)
    if name == "axis_index":
        return [line.core_index(eqn.params["axis_name"])[None]]
    if name == "iota":
        return [known.iota(eqn.params, lead)]
    if xs and all(x is not None for x in xs):
        return [known.evaluate(name, eqn.params, xs, lead)]
    return nothing


def _decide(x: Any, found: list[np.ndarray]) -> None:
    if x is None:
        raise Opaque
    found.append(x)


def _branch(line: Any, eqn: Any, xs: list[Any], found: list[np.ndarray]) -> list[Any]:
    pick, *xs = xs
    _decide(pick, found)
    bodies = jx.branches(eqn)
    results = [_evaluate(line, b, xs, found) for b in bodies]
    which = np.clip(pick.astype(np.int64), 0, len(bodies) - 1)
    out = []
    for cases in zip(*results, strict=True):
        if any(c is None for c in cases):
            out.append(None)
        else:
            own = which.reshape(*which.shape, *(1,) * (cases[0].ndim - which.ndim))
            out.append(np.choose(own, cases))
    return out


def _loop(line: Any, s: jx.Scan, xs: list[Any], found: list[np.ndarray]) -> list[Any]:
    """An inner loop, stepped once for all iterations of the outer one."""
    consts, state = xs[: s.consts], xs[s.consts : s.consts + s.carry]
    stacked = xs[s.consts + s.carry :]
    if not decides(s.body) and all(x is None for x in state):
        return [None] * len(s.body.outvars)
    lead = 1 + line.rank
    for t in range(s.length):
        at = s.length - 1 - t if s.reverse else t
        sliced = [None if x is None else x[(slice(None),) * lead + (at,)] for x in stacked]
        state = _evaluate(line, s.body, [*consts, *state, *sliced], found)[: s.carry]
    return [*state, *[None] * (len(s.body.outvars) - s.carry)]
