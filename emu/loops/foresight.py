"""Known integers of all iterations of a loop at once, and every decision that depends on them.

A known integer gets one more leading dimension for each loop it is in, `[*iterations, *mesh,
*shape]`, outermost first.
"""

import functools
import math
from typing import Any, Protocol

import numpy as np

from emu.instruction import lookup
from emu.tracing import integers
from emu.tracing import jaxpr as jx

MAX_DECISIONS = 1 << 22


class Mesh(Protocol):
    """What is asked of a mesh: `emu.clock.state.Setup`, or groups of cores side by side."""

    @property
    def rank(self) -> int: ...

    def core_index(self, axis: str) -> np.ndarray:
        """Every core's index along an axis, broadcastable to the mesh."""
        ...


class Opaque(Exception):
    """A decision that cannot be evaluated ahead; the loop is stepped."""


class Found(dict[Any, np.ndarray]):
    """Decisions, `[*iterations, *mesh]` each, by the path of equations to them and a number."""

    path: Any = ()


@functools.lru_cache(maxsize=4096)
def sites(body: jx.Body) -> int:
    """How many branches and counts one pass through a body meets at most, all branches taken."""
    total = 0
    for eqn in body.eqns:
        inst, times = lookup(eqn.primitive), 1
        total += eqn.primitive.name == "cond" or (
            inst is not None and "count" in inst.reads
        )
        if eqn.primitive.name == "scan":
            times = jx.scan(eqn).length
        total += times * sum(sites(b) for b in jx.inner(eqn))
    return total


@functools.lru_cache(maxsize=4096)
def decides(body: jx.Body) -> bool:
    """Whether a loop body holds a branch, or an instruction whose cost depends on a count."""
    return sites(body) > 0


# --- one loop ---


def iterations(s: jx.Scan, x: Any, rank: int, depth: int) -> Any:
    """A stacked input with its leading own dimension as iterations, in the order they run."""
    if x is None:
        return None
    x = np.moveaxis(x, depth + rank, depth)
    return np.flip(x, depth) if s.reverse else x


def carried(
    mesh: Mesh,
    s: jx.Scan,
    consts: list[Any],
    start: list[Any],
    slices: list[Any],
    depth: int,
) -> list[Any]:
    """Each carry slot at every iteration and after the last, or None; one dimension more."""
    out = []
    for slot, x in enumerate(start):
        var = s.body.invars[s.consts + slot]
        end = s.body.outvars[slot]
        if x is None:
            out.append(None)
        elif end is var:
            out.append(np.expand_dims(x, depth))
        elif (step := _increment(s.body, var, end)) is not None:
            ramp = np.arange(s.length + 1).astype(x.dtype) * step.astype(x.dtype)
            ramp = ramp.reshape((1,) * depth + (-1,) + (1,) * (x.ndim - depth))
            out.append(np.expand_dims(x, depth) + ramp)
        else:
            return _stepped(mesh, s, consts, start, slices, depth)
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
    mesh: Mesh,
    s: jx.Scan,
    consts: list[Any],
    state: list[Any],
    slices: list[Any],
    depth: int,
) -> list[Any]:
    """Carries that follow no simple rule, evaluated one iteration after another."""
    rows: list[list[Any]] = [[x] for x in state]
    for t in range(s.length):
        now = [None if x is None else np.take(x, t, depth) for x in slices]
        state = _evaluate(mesh, s.body, [*consts, *state, *now], Found(), depth)[
            : s.carry
        ]
        for row, x in zip(rows, state, strict=True):
            row.append(x)
    return [
        None
        if any(x is None for x in row)
        else np.stack(np.broadcast_arrays(*row), depth)
        for row in rows
    ]


def inside(
    mesh: Mesh,
    s: jx.Scan,
    consts: list[Any],
    rows: list[Any],
    slices: list[Any],
    depth: int,
    found: Found,
) -> None:
    """Adds the decisions of all iterations, side by side, to `found`."""
    begin = (slice(None),) * depth + (slice(s.length),)
    ins = [None if x is None else np.expand_dims(x, depth) for x in consts]
    ins += [None if x is None else x[begin] for x in rows]
    _evaluate(mesh, s.body, [*ins, *slices], found, depth + 1)


# --- one jaxpr ---


def _evaluate(
    mesh: Mesh, body: jx.Body, ins: list[Any], found: Found, depth: int
) -> list[Any]:
    """Known outputs of a jaxpr inside `depth` loops; adds every decision to `found`."""
    lead, outer = depth + mesh.rank, found.path
    env: dict[Any, Any] = dict(zip(body.invars, ins, strict=True))

    def constant(value: np.ndarray) -> Any:
        return value[(None,) * lead] if value.dtype.kind in "iub" else None

    def get(atom: Any) -> Any:
        return constant(jx.literal_value(atom)) if jx.is_literal(atom) else env[atom]

    env |= {
        v: constant(np.asarray(c))
        for v, c in zip(body.constvars, body.consts, strict=True)
    }
    for i, eqn in enumerate(body.eqns):
        found.path = outer, i
        outs = _equation(mesh, eqn, [get(v) for v in eqn.invars], found, depth)
        if any(x is not None and x.size > MAX_DECISIONS for x in outs):
            raise Opaque
        env.update(zip(eqn.outvars, outs, strict=True))
    found.path = outer
    return [get(v) for v in body.outvars]


def _equation(
    mesh: Mesh, eqn: Any, xs: list[Any], found: Found, depth: int
) -> list[Any]:
    name, lead = eqn.primitive.name, depth + mesh.rank
    if inst := lookup(eqn.primitive):
        for x, space in zip(xs[inst.destinations :], inst.reads, strict=True):
            if space == "count":
                _decide(x, found, lead)
    elif name == "cond":
        return _branch(mesh, eqn, xs, found, depth)
    elif name == "scan":
        return _loop(mesh, jx.scan(eqn), xs, found, depth)
    elif (body := jx.call(eqn)) is not None:
        return _evaluate(mesh, body, xs, found, depth)
    elif name == "axis_index":
        return [mesh.core_index(eqn.params["axis_name"])[(None,) * depth]]
    elif name == "iota":
        return [integers.iota(eqn.params, lead)]
    elif xs and all(x is not None for x in xs):
        frame = np.broadcast_shapes(*(x.shape[:lead] for x in xs))
        if (
            math.prod(frame) * max(math.prod(x.shape[lead:]) for x in xs)
            > MAX_DECISIONS
        ):
            raise Opaque
        return [integers.evaluate(name, eqn.params, xs, lead)]
    return [None] * len(eqn.outvars)


def _decide(x: Any, found: Found, lead: int) -> None:
    if x is None:
        raise Opaque
    own = x.reshape(*x.shape[:lead], -1)
    for i in range(own.shape[-1]):
        found[found.path, i] = own[..., i]


def _branch(mesh: Mesh, eqn: Any, xs: list[Any], found: Found, depth: int) -> list[Any]:
    """Decisions inside a branch count where it is taken."""
    pick, *xs = xs
    _decide(pick, found, depth + mesh.rank)
    bodies = jx.branches(eqn)
    which = np.clip(pick.astype(np.int64), 0, len(bodies) - 1)
    results: dict[int, list[Any]] = {}
    for b in range(len(bodies)):
        here = which == b
        if not here.any():
            continue
        inside = Found()
        inside.path = found.path, b
        results[b] = _evaluate(mesh, bodies[b], xs, inside, depth)
        for path, d in inside.items():  # it may be in further loops
            taken = np.expand_dims(
                here, tuple(range(depth, depth + d.ndim - which.ndim))
            )
            found[path] = np.where(taken, d, np.zeros_like(d))
    rank = np.searchsorted(sorted(results), which)
    return [
        None if any(c is None for c in cases) else integers.choose(rank, cases)
        for cases in zip(*(results[b] for b in sorted(results)), strict=True)
    ]


def _loop(mesh: Mesh, s: jx.Scan, xs: list[Any], found: Found, depth: int) -> list[Any]:
    """An inner loop, for all iterations of the outer ones at once."""
    consts = xs[: s.consts]
    state = xs[s.consts : s.consts + s.carry]
    ys = [None] * (len(s.body.outvars) - s.carry)
    if not decides(s.body) and all(x is None for x in state):
        return [*state, *ys]
    slices = [iterations(s, x, mesh.rank, depth) for x in xs[s.consts + s.carry :]]
    rows = carried(mesh, s, consts, state, slices, depth)
    if decides(s.body):
        inside(mesh, s, consts, rows, slices, depth, found)
    last = [None if x is None else np.take(x, -1, depth) for x in rows]
    return [*last, *ys]


__all__ = [
    "Found",
    "MAX_DECISIONS",
    "Opaque",
    "carried",
    "decides",
    "inside",
    "iterations",
    "sites",
]
