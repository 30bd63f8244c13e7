"""Runs the cycle stepper to its end, in chunks so that a log fits memory and progress shows."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from emu.wse.cycle import HEARD, initial, step
from emu.wse.cycle_profile import count, counters
from emu.wse.encode import NONE, Encoded
from emu.wse.layout import Shape, shape_of, tables
from emu.wse.rows import Rows
from emu.wse.switching import merging

LOG_ROWS = (64, 2048)  # cycles a chunk logs, at least and at most
LOG_ENTRIES = 1 << 22  # and how many entries about
QUIET = 2  # cycles without an event after which nothing can happen any more


@dataclasses.dataclass(frozen=True)
class Cycles:
    """What stepping a program cycle by cycle shows.

    Attributes:
      cycles: until the last PE's last task was done.
      steps: cycles stepped.
      last: the last cycle in which anything happened.
      state: the machine at the end, arrays over the flat PEs.
      order: `int64[events, 3]`: cycle, flat PE and instruction of every dispatch of the watched
        PEs, in order; `HEARD - k` is the start of data task k. Empty where none are watched.
      issues: `int8[steps, watched]`: the thread each watched PE's datapath served, or NONE.
      watch: flat indices of the watched PEs.
      merges: `int64[events, 3]`, (flat PE, color, direction) of each wavelet that a router took in
        a position with several receive directions, in order; empty where no PE is watched.
      counters: `pes` `int32[COUNTERS, PEs]` and `links` `int32[5, PEs]` of `cycle_profile`, over
        all steps; None where they were not asked for.
      shape: the machine's, which tells what the arrays' rows are.
    """

    cycles: int
    steps: int
    last: int
    state: dict[str, np.ndarray]
    order: np.ndarray
    issues: np.ndarray
    watch: np.ndarray
    merges: np.ndarray
    counters: dict[str, np.ndarray] | None
    shape: Shape


def _thread(issues: Any, watch: Any) -> Any:
    """The thread that issued on each watched PE, or NONE."""
    out = jnp.full(watch.shape, NONE, jnp.int8)
    for u in range(len(issues)):
        out = jnp.where(issues[u][watch], jnp.int8(u), out)
    return out


@functools.partial(jax.jit, static_argnums=(0, 1), donate_argnums=(3,))
def _chunk(
    shape: Shape, counting: bool, tab: Any, carry: dict[str, Any], watch: Any,
    merges_at: Any, stop: Any,
) -> dict[str, Any]:  # fmt: skip
    """Steps until `stop` or until nothing happens; logs the watched PEs."""

    def body(c: dict[str, Any]) -> dict[str, Any]:
        t = c["t"]
        state, seen = step(shape, tab, c["state"], t)
        out = c | {"state": state, "t": t + 1}
        out["last"] = jnp.where(seen["alive"].any(), t, c["last"])
        if watch.shape[0]:
            row = t - c["begin"]
            heard = seen["heard"][watch]
            pc = jnp.where(seen["due"][watch], seen["pc"][watch], NONE)
            log = jnp.stack([pc, jnp.where(heard >= 0, HEARD - heard, NONE)])
            out["log"] = lax.dynamic_update_slice(c["log"], log[None], (row, 0, 0))
            thread = _thread(seen["issues"], watch)
            out["issues"] = lax.dynamic_update_slice(c["issues"], thread[None], (row, 0))
            if "turns" in c:
                turn = jnp.stack(list(seen["turns"]))[merges_at[:, 0], merges_at[:, 1]]
                out["turns"] = lax.dynamic_update_slice(c["turns"], turn[None], (row, 0))
        if counting:
            out["counters"] = count(shape, c["counters"], seen, t)
        return out

    def going(c: dict[str, Any]) -> Any:
        return (c["t"] < stop) & (c["t"] - c["last"] < QUIET)

    return lax.while_loop(going, body, carry)


def run(
    e: Encoded, *, watch: np.ndarray | None = None, profile: bool = False,
    progress: Callable[[int], None] | None = None, limit_cycles: int = 1 << 30,
    shape: Shape | None = None,
) -> Cycles:  # fmt: skip
    """Steps an encoded program until nothing more can happen.

    Args:
      e: the program.
      watch: flat indices of PEs to log; None logs none.
      profile: count what every PE does and what every link carries.
      progress: called with the cycle reached after every chunk.
      limit_cycles: stop here at the latest.
      shape: a shape that allows for more than the program needs, so that many share a compilation.
    """
    shape = shape or shape_of(e)
    tab = {k: _apart(v) for k, v in tables(e, shape).items()}
    seen = np.zeros(0, np.int32) if watch is None else np.asarray(watch, np.int32)
    merges_at = _merging(e)
    rows = int(np.clip(LOG_ENTRIES // max(1, len(seen)), *LOG_ROWS))
    carry: dict[str, Any] = {
        "t": jnp.int32(0), "last": jnp.int32(0), "begin": jnp.int32(0),
        "state": initial(shape, e.started, e.blocked),
    }  # fmt: skip
    if len(seen):
        carry["log"] = jnp.full((rows, 2, len(seen)), NONE, jnp.int32)
        carry["issues"] = jnp.full((rows, len(seen)), NONE, jnp.int8)
        if len(merges_at):
            carry["turns"] = jnp.full((rows, len(merges_at)), NONE, jnp.int8)
    if profile:
        carry["counters"] = counters(shape)
    order, issues, merges, begin = [], [], [np.zeros((0, 3), np.int64)], 0
    while True:
        stop = min(begin + rows, limit_cycles)
        carry["begin"] = jnp.int32(begin)
        carry = _chunk(shape, profile, tab, carry, jnp.asarray(seen), jnp.asarray(merges_at),
                       jnp.int32(stop))  # fmt: skip
        t = int(carry["t"])
        if len(seen):
            order.append(_events(np.asarray(carry["log"])[: t - begin], begin, seen))
            issues.append(np.asarray(carry["issues"])[: t - begin].copy())
        if "turns" in carry:
            merges.append(_turns(np.asarray(carry["turns"])[: t - begin], merges_at))
        begin = t
        if progress is not None:
            progress(t)
        if t < stop or t >= limit_cycles:
            break
    state = {k: _together(v) for k, v in carry["state"].items()}
    return Cycles(
        int(state["end"].max()), t, int(carry["last"]), state,
        np.concatenate(order) if order else np.zeros((0, 3), np.int64),
        np.concatenate(issues) if issues else np.zeros((t, 0), np.int8), seen,
        np.concatenate(merges),
        {k: _together(v) for k, v in carry["counters"].items()} if profile else None, shape,
    )  # fmt: skip


def _apart(x: np.ndarray) -> Any:
    """A table on the device, row by row: `[rows, n]` as `Rows`, `[positions, rows, n]` a tuple."""
    if x.ndim < 2:
        return jnp.asarray(x)
    rows = [_apart(row) for row in x]
    return Rows(rows) if x.ndim == 2 else tuple(rows)


def _together(x: Any) -> np.ndarray:
    return np.stack([np.asarray(row) for row in x]) if isinstance(x, Rows) else np.asarray(x)


def _events(log: np.ndarray, begin: int, watch: np.ndarray) -> np.ndarray:
    """A chunk's log as rows (cycle, PE, instruction); a data task's start precedes its code."""
    log = log[:, ::-1]  # the wavelet is heard before the code is dispatched
    row, which, at = np.nonzero(log != NONE)
    return np.stack([row + begin, watch[at].astype(np.int64), log[row, which, at]], axis=1)


def _merging(e: Encoded) -> np.ndarray:
    """`int32[routers, 2]`: color and flat PE of each router that merges streams."""
    rows = [np.zeros((0, 2), np.int64)]
    for c in e.program.colors.values():
        pes = merging(c)
        rows.append(np.stack([np.full(len(pes), c.index), pes], axis=1))
    return np.concatenate(rows).astype(np.int32)


def _turns(log: np.ndarray, merges_at: np.ndarray) -> np.ndarray:
    """A chunk's log as rows (PE, color, direction)."""
    row, at = np.nonzero(log != NONE)
    return np.stack([merges_at[at, 1], merges_at[at, 0], log[row, at]], axis=1).astype(np.int64)


__all__ = ["Cycles", "QUIET", "run"]
