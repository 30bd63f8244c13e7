"""A cycle of every main thread: which task runs, and what its next instruction starts."""

from typing import Any

import jax.numpy as jnp

from emu.wse.fabric.cycles.rows import Rows, once, where
from emu.wse.fabric.cycles.tables import Shape
from emu.wse.fabric.encoding.instructions import (
    ACTIVATE,
    BLOCK,
    NONE,
    PAUSE,
    STAMP,
    SWITCH,
    UNBLOCK,
    VECTOR,
)

State = dict[str, Any]
Tables = dict[str, Any]
IDLE = -1
PACE = 3  # bits of an issue's wavelets, below the cycles that its thread sits out after one


def select(shape: Shape, tab: Tables, s: State, t: Any) -> tuple[State, Any]:
    """Idle main threads take their lowest task that is ready; also the data tasks started."""
    ready = s["active"] & ~s["blocked"]
    for task, color in shape.data_tasks:
        heard = (s["in"][color] > 0) & (tab["entry"][task] >= 0)
        ready |= jnp.where(heard & (s["blocked"] >> task & 1 == 0), 1 << task, 0)
    pick = (s["pc"] == IDLE) & (s["wake"] <= t) & (ready != 0)
    pick &= ~s["thread_on"][0]
    lowest = ready & -ready
    pc = s["pc"]
    for task in range(shape.tasks):
        first = tab["entry"][task]
        if PAUSE in shape.kinds:
            first = jnp.where(s["resume"][task] > 0, s["resume"][task], first)
            s = s | {"task": jnp.where(pick & (lowest == 1 << task), task, s["task"])}
        pc = jnp.where(pick & (lowest == 1 << task), first, pc)
    heard_task = jnp.full_like(pc, NONE)
    for task, color in shape.data_tasks:
        started = pick & (lowest == 1 << task)
        heard_task = jnp.where(started, task, heard_task)
        pops = Rows(
            started.astype(jnp.int8) * jnp.int8(c == color) for c in range(shape.colors)
        )
        s = s | {"in": s["in"] - pops, "in_held": s["in_held"] - pops}
    active = jnp.where(pick, s["active"] & ~lowest, s["active"])
    wake = jnp.where(pick, t + shape.task_switch_cycles, s["wake"])
    return s | {"pc": pc, "active": active, "wake": wake}, heard_task


def _decode(tab: Tables, pc: Any) -> dict[str, Any]:
    """The fields of each PE's instruction, as `layout._instruction_tables` packs them."""
    a, issues, b, c = (tab[f"word{k}"][jnp.maximum(pc, 0)] for k in range(4))
    mask = (1 << 20) - 1
    return {
        "setup": a & mask,
        "kind": a >> 20 & 15,
        "thread": a >> 24 & 15,
        "last": a >> 28 & 1 == 1,
        "issues": issues,
        "drain": b & mask,
        "words": b >> 20 & 7,
        "inward": (b >> 23 & 31) - 1,
        "interval": b >> 28 & 7,
        "activate": (c & 63) - 1,
        "unblock": (c >> 6 & 63) - 1,
        "target": (c >> 12 & 63) - 1,
        "outward": (c >> 18 & 31) - 1,
        "control": c >> 23 & 3,
        "position": c >> 25 & 3,
        "conflict": c >> 27 & 1,
    }


def _flags(i: dict[str, Any]) -> Any:
    """What a completion does to tasks: activate and unblock index, each plus 1; bank conflicts."""
    return (i["activate"] + 1) | (i["unblock"] + 1) << 8 | i["conflict"] << 16


def dispatch(shape: Shape, tab: Tables, s: State, t: Any) -> tuple[State, Any]:
    """Main threads that are due dispatch their next instruction."""
    i = _decode(tab, s["pc"])
    due = (s["pc"] >= 0) & (s["wake"] <= t) & ~s["thread_on"][0]
    vector = i["kind"] == VECTOR
    for u in range(1, shape.threads):  # a busy microthread stalls the main thread
        due &= ~(vector & (i["thread"] == u) & s["thread_on"][u])
    due, starts = once(tab["on"], due, due & vector)
    s = _start(shape, s, i, starts, t)
    synchronous = starts & (i["thread"] == 0)
    cycles = jnp.where(starts, shape.async_cycles, i["setup"])
    wake = jnp.where(due & ~synchronous, t + cycles, s["wake"])
    # Until it completes: what is added then.
    wake = jnp.where(synchronous, i["drain"], wake)
    following = s["pc"] + 1
    s = s | {
        "wake": wake,
        "pc": jnp.where(due, jnp.where(i["last"], IDLE, following), s["pc"]),
    }
    s["end"] = jnp.where(due & ~synchronous, wake, s["end"])
    if PAUSE in shape.kinds:
        s["resume"] = _resume(s, i, due, following)
    return _scalar(shape, s, i, due, t), due


def _resume(s: State, i: dict[str, Any], due: Any, following: Any) -> Any:
    """Where each task goes on when it runs next; 0 is at its start."""
    ends = due & i["last"]
    at = jnp.where(i["kind"] == PAUSE, following, 0)
    mine = Rows(ends & (s["task"] == k) for k in range(len(s["resume"])))
    return where(mine, at, s["resume"])


def _start(shape: Shape, s: State, i: dict[str, Any], starts: Any, t: Any) -> State:
    """Vector operations enter their threads; their pace shares a byte with their width."""
    fields = {
        "wake": t + i["setup"],
        "left": i["issues"],
        "inward": i["inward"],
        "outward": i["outward"],
        "words": i["words"] | i["interval"] << PACE,
        "flags": _flags(i),
        "control": i["control"],
    }
    mine = Rows(starts & (i["thread"] == u) for u in range(shape.threads))
    out = {"thread_on": s["thread_on"] | mine}
    for name, value in fields.items():
        old = s[f"thread_{name}"]
        out[f"thread_{name}"] = where(mine, value.astype(old[0].dtype), old)
    return s | out


def _scalar(shape: Shape, s: State, i: dict[str, Any], due: Any, t: Any) -> State:
    """Instructions that only set bits: stamps, task flags, switches."""
    out = {}
    if STAMP in shape.kinds:
        stamp = due & (i["kind"] == STAMP)
        hit = Rows(stamp & (i["target"] == k) for k in range(shape.stamps))
        out["stamps"] = where(hit, t, s["stamps"])
    if shape.tasked:
        bit = jnp.where(due, 1 << jnp.maximum(i["target"], 0), 0)
        on = lambda kind: jnp.where(i["kind"] == kind, bit, 0)  # noqa: E731
        out["active"] = s["active"] | on(ACTIVATE)
        out["blocked"] = (s["blocked"] | on(BLOCK)) & ~on(UNBLOCK)
    if SWITCH in shape.kinds:
        turns = due & (i["kind"] == SWITCH)
        hit = Rows(turns & (i["target"] == c) for c in range(shape.colors))
        out["position"] = where(hit, i["position"].astype(jnp.int8), s["position"])
    return s | out


__all__ = ["IDLE", "PACE", "State", "Tables", "dispatch", "select"]
