"""One cycle of every PE and router at once, in JAX: queues, links, arbitration, datapaths, tasks.

Queues are counts: a wavelet's place in its stream says what it carries, so that values are worked
out apart (`flow.py`) and a router's state is a few bytes. All decisions of a cycle look at the
state at its start, arrivals included.

State arrays end in the flat axis of PEs; `colors`, `channels` and `threads` lead.
"""

from typing import Any

import jax.numpy as jnp

from emu.wse.fabric.cycles import router
from emu.wse.fabric.cycles.datapath import TYPE_BITS, exchange, issue
from emu.wse.fabric.cycles.main_thread import IDLE, State, Tables, dispatch, select
from emu.wse.fabric.cycles.rows import Rows, once, where, zeros
from emu.wse.fabric.cycles.tables import Shape
from emu.wse.fabric.encoding.instructions import PAUSE
from emu.wse.fabric.program import TASKS

HEARD = -2  # a logged start of data task k is HEARD - k


def initial(shape: Shape, started: Any, blocked: Any) -> State:
    """The machine before cycle 0."""
    n = shape.pes
    c = shape.colors
    x = len(shape.channels)
    i8, i32 = jnp.int8, jnp.int32
    state: State = {
        "pc": jnp.full(n, IDLE, i32),
        "wake": jnp.zeros(n, i32),
        "end": jnp.zeros(n, i32),
        "active": jnp.asarray(started, i32).reshape(n),
        "blocked": jnp.asarray(blocked, i32).reshape(n),
    }
    if PAUSE in shape.kinds:
        state["task"], state["resume"] = jnp.zeros(n, i32), zeros(TASKS, n, i32)
    threads = {
        "wake": i32,
        "left": i32,
        "inward": i8,
        "outward": i8,
        "words": i8,
        "flags": i32,
        "control": i8,
    }
    for name, dtype in threads.items():
        state[f"thread_{name}"] = zeros(shape.threads, n, dtype)
    state["thread_on"] = zeros(shape.threads, n, bool)
    if shape.threads > 1:
        state["thread_last"] = _unset(shape.threads, n)
    if shape.stamps:
        state["stamps"] = _unset(shape.stamps, n)
    if c:
        for name, rows in (
            ("fifo", x),
            ("pipe", x),
            ("held", x),
            ("out", c),
            ("in", c),
            ("in_pipe", c),
            ("in_held", c),
        ):
            state[name] = zeros(rows, n, i8)
        state["two"] = jnp.full(3, -1, i32)
        if max(shape.positions) > 1:
            state["position"] = zeros(c, n, i8)
        if shape.control:
            state["types"], state["out_types"] = zeros(x, n, i32), zeros(c, n, i32)
        if shape.link_pairs:
            state["link_last"] = _unset(c, n)
        if shape.ramp_pairs:
            state["ramp_last"] = _unset(c, n)
    return state


def _unset(rows: int, n: int) -> Rows:
    return zeros(rows, n, jnp.int32) - 1


def step(shape: Shape, tab: Tables, s: State, t: Any) -> tuple[State, dict[str, Any]]:
    """One cycle; also who dispatched, heard, issued and sent in it."""
    busy = s["thread_on"] & (s["thread_wake"] > t)
    waits = busy.any() | ((s["wake"] > t) & ~s["thread_on"][0])
    if shape.colors:
        s, flying, came = router.arrive(shape, s)
        waits |= flying
    routes = router.heads(shape, tab, s) if shape.colors else {}
    start = s
    s, heard = select(shape, tab, s, t)
    pc = s["pc"]
    waits |= (pc >= 0) & (start["pc"] < 0)
    s, due = dispatch(shape, tab, s, t)
    before = s
    s, issues, words, stalls = issue(shape, tab, s, t)
    seen = {
        "due": due,
        "pc": pc,
        "heard": heard,
        "issues": issues,
        "before": before,
    } | stalls
    alive = waits | due | issues.any() | (heard >= 0)
    if shape.colors:
        up = router.leave_queues(shape, tab, before)
        # What a data task took from its queue makes room from the next cycle on.
        go = router.forward(shape, tab, before | {"in_held": start["in_held"]}, routes)
        go, up = once(tab["on"], go, up)
        s |= router.two_arrivals(
            shape, start, routes | {"table": tab["receive"]}, came, t
        )
        # Counts change by what leaves and what enters; every decision above saw the start.
        s = exchange(shape, s, words)
        s = _merge_moves(shape, tab, before, s, routes, go, up, t)
        seen |= {
            "go": go,
            "send": routes["send"],
            "turns": router.turns(shape, routes, go),
        }
        alive |= go.any() | up.any()
    return s, seen | {"alive": alive}


def _merge_moves(
    shape: Shape,
    tab: Tables,
    before: State,
    s: State,
    r: dict[str, Any],
    go: Any,
    up: Any,
    t: Any,
) -> State:
    """`router.move` on a state whose queues the datapath has already changed."""
    if not shape.control:
        return router.move(shape, tab, s, r, go, up, t)
    # A kind popped from the output queue must leave before the new one finds its place in it.
    moved = router.move(
        shape, tab, s | {"out_types": before["out_types"]}, r, go, up, t
    )
    put = s["out_types"] - before["out_types"]
    shifted = where(up, put >> TYPE_BITS, put)
    return moved | {"out_types": moved["out_types"] | shifted}


__all__ = ["HEARD", "initial", "step"]
