"""Runs the cycle stepper to its end, in chunks so that a log fits memory and progress shows."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from emu.wse.fabric.cycles.cycle import initial, step
from emu.wse.fabric.cycles.log import Listener, Log, write
from emu.wse.fabric.cycles.profile import count, counters
from emu.wse.fabric.cycles.rows import Rows
from emu.wse.fabric.cycles.tables import Shape, shape_of, tables
from emu.wse.fabric.encoding.encode import Encoded

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
      states: `int8[steps, threads, traced]`, what each thread of the traced PEs did in each cycle,
        indices of `cycle_states.THREAD_STATES`.
      traced: flat indices of the traced PEs, which are watched too.
      merges: `int64[events, 3]`, (flat PE, color, direction) of each wavelet that a router took in
        a position with several receive directions, in order; empty where no PE is watched.
      counters: `pes` `int32[COUNTERS, PEs]`, `links` `int32[5, PEs]` and what `by_color` reads, of
        `cycle_profile`, over all steps; None where they were not asked for.
      shape: the machine's, which tells what the arrays' rows are.
    """

    cycles: int
    steps: int
    last: int
    state: dict[str, np.ndarray]
    order: np.ndarray
    issues: np.ndarray
    watch: np.ndarray
    states: np.ndarray
    traced: np.ndarray
    merges: np.ndarray
    counters: dict[str, np.ndarray] | None
    shape: Shape


@functools.partial(jax.jit, static_argnums=(0, 1), donate_argnums=(3,))
def _chunk(
    shape: Shape,
    counting: bool,
    tab: Any,
    carry: dict[str, Any],
    places: dict[str, Any],
    stop: Any,
) -> dict[str, Any]:
    """Steps until `stop` or until nothing happens; logs the PEs at `places`."""

    def body(c: dict[str, Any]) -> dict[str, Any]:
        t = c["t"]
        state, seen = step(shape, tab, c["state"], t)
        out = c | {"state": state, "t": t + 1}
        out["last"] = jnp.where(seen["alive"].any(), t, c["last"])
        if places:
            out["log"] = write(shape, c["log"], places, seen, t, t - c["begin"])
        if counting:
            out["counters"] = count(shape, c["counters"], seen, t)
        return out

    def going(c: dict[str, Any]) -> Any:
        return (c["t"] < stop) & (c["t"] - c["last"] < QUIET)

    return lax.while_loop(going, body, carry)


def run(
    e: Encoded,
    *,
    watch: np.ndarray | None = None,
    traced: np.ndarray | None = None,
    profile: bool = False,
    listen: Listener | None = None,
    progress: Callable[[int], None] | None = None,
    limit_cycles: int = 1 << 30,
    shape: Shape | None = None,
) -> Cycles:
    """Steps an encoded program until nothing more can happen.

    Args:
      e: the program.
      watch: flat indices of PEs whose dispatches and issues to log; None logs none.
      traced: flat indices of PEs of which to log what each thread does in every cycle.
      profile: count what every PE does and what every link carries.
      listen: given every PE's dispatches and issues chunk by chunk, see `cycle_log.Log`.
      progress: called with the cycle reached after every chunk.
      limit_cycles: stop here at the latest.
      shape: a shape that allows for more than the program needs, so that many share a compilation.
    """
    shape = shape or shape_of(e)
    tab = {k: _apart(v) for k, v in tables(e, shape).items()}
    log = Log(e, shape, watch, traced, listen)
    carry: dict[str, Any] = {
        "t": jnp.int32(0),
        "last": jnp.int32(0),
        "begin": jnp.int32(0),
        "state": initial(shape, e.started, e.blocked),
        "log": log.blank(),
    }
    if profile:
        carry["counters"] = counters(shape)
    places, begin = log.places(), 0
    while True:
        stop = min(begin + log.rows, limit_cycles)
        carry["begin"] = jnp.int32(begin)
        carry = _chunk(shape, profile, tab, carry, places, jnp.int32(stop))
        t = int(carry["t"])
        log.take(carry["log"], begin, t)
        begin = t
        if progress is not None:
            progress(t)
        if t < stop or t >= limit_cycles:
            break
    state = {k: _together(v) for k, v in carry["state"].items()}
    counted = (
        {k: _together(v) for k, v in carry["counters"].items()} if profile else None
    )
    return Cycles(
        cycles=int(state["end"].max()),
        steps=t,
        last=int(carry["last"]),
        state=state,
        counters=counted,
        shape=shape,
        **log.kept(),
    )


def _apart(x: np.ndarray) -> Any:
    """A table on the device, row by row: `[rows, n]` as `Rows`, `[positions, rows, n]` a tuple."""
    if np.ndim(x) < 2:
        return jnp.asarray(x)
    rows = [_apart(row) for row in x]
    return Rows(rows) if x.ndim == 2 else tuple(rows)


def _together(x: Any) -> np.ndarray:
    return (
        np.stack([np.asarray(row) for row in x])
        if isinstance(x, Rows)
        else np.asarray(x)
    )


__all__ = ["Cycles", "QUIET", "run"]
