"""A cycle of every datapath: which thread it serves, and what moves in and out of its queues."""

from typing import Any

import jax.numpy as jnp

from emu.wse.fabric.cycles.main_thread import PACE, State, Tables
from emu.wse.fabric.cycles.rows import Rows, once, where
from emu.wse.fabric.cycles.tables import Shape

TYPE_BITS = 2  # a wavelet's kind, packed into its queue's word


def _at_color(x: Any, color: Any, colors: int) -> Any:
    """`x[color]` for each PE, of arrays `[colors, n]`; 0 where the color is NONE."""
    out = jnp.zeros_like(x[0])
    for c in range(colors):
        out = jnp.where(color == c, x[c], out)
    return out


def issue(
    shape: Shape, tab: Tables, s: State, t: Any
) -> tuple[State, Any, Any, dict[str, Any]]:
    """Each PE's datapath serves one thread.

    Returns:
      the state, `bool[threads, n]` that issued, their wavelets, and why the others that could
      have did not: no wavelets (`starved`), no room (`full`), another's turn (`lost`).
    """
    ready = []
    moved = []
    starved = []
    full = []
    for u in range(shape.threads):
        due = s["thread_on"][u] & (s["thread_wake"][u] <= t)
        words = s["thread_words"][u].astype(jnp.int32) & ((1 << PACE) - 1)
        words = jnp.minimum(words, s["thread_left"][u])
        words = words.astype(jnp.int8)
        if shape.colors:
            inward = s["thread_inward"][u]
            outward = s["thread_outward"][u]
            came = _at_color(s["in"], inward, shape.colors)
            room = _at_color(tab["out_cap"] - s["out"], outward, shape.colors)
            words = jnp.where(
                inward >= 0, jnp.minimum(words, jnp.maximum(came, 1)), words
            )
            starved.append(due & (inward >= 0) & (came <= 0))
            full.append(due & ~starved[u] & (outward >= 0) & (room < words))
            due &= ~starved[u] & ~full[u]
        ready.append(due)
        moved.append(words)
    issues = Rows(longest_ago(ready, s.get("thread_last")))
    words = where(issues, Rows(moved), jnp.int8(0))
    issues, words = once(tab["on"], issues, words)
    left = s["thread_left"] - words.astype(jnp.int32)
    done = issues & left.same(0)
    stalls = {"lost": Rows(ready) & ~issues}
    if shape.colors:
        stalls |= {"starved": Rows(starved), "full": Rows(full)}
    s = s | {"thread_left": left, "thread_on": s["thread_on"] & ~done}
    if shape.threads > 1:
        s["thread_last"] = where(issues, t, s["thread_last"])
        again = (s["thread_words"] >> PACE).astype(jnp.int32) + (t + 1)
        s["thread_wake"] = where(issues, again, s["thread_wake"])
    return _complete(shape, s, done, t), issues, words, stalls


def _complete(shape: Shape, s: State, done: Any, t: Any) -> State:
    """The main thread goes on after a synchronous operation; microthreads set task flags."""
    wake = jnp.where(done[0], t + 1 + s["wake"], s["wake"])  # wake held the drain
    end = jnp.where(done[0], wake, s["end"])
    out = {"wake": wake, "end": end}
    if shape.threads > 1:
        out["end"] = jnp.where(done[1:].any(), jnp.maximum(end, t + 1), end)
    if shape.threads > 1 and shape.tasked:
        active, blocked = s["active"], s["blocked"]
        for u in range(1, shape.threads):
            flags = jnp.where(done[u], s["thread_flags"][u], 0)
            active |= (1 << (flags & 255)) >> 1
            blocked &= ~((1 << (flags >> 8 & 255)) >> 1)
        out |= {"active": active, "blocked": blocked}
    return s | out


def longest_ago(
    wants: list[Any], last: Any, pairs: Any = None, meet: Any = None
) -> list[Any]:
    """Of those that want the same, the one served longest ago; ties go to the first.

    Args:
      wants: per row, who does.
      last: per row, when it was served last; None if rows never meet.
      pairs: rows that may want the same; all of them if None.
      meet: per pair, where they do; everywhere if None.
    """
    if len(wants) == 1 or last is None:
        return wants
    pairs = pairs or [
        (i, j) for i in range(len(wants)) for j in range(i + 1, len(wants))
    ]
    wins = list(wants)
    for n, (i, j) in enumerate(pairs):
        both = wants[i] & wants[j]
        if meet is not None:
            both &= meet[n]
        first = last[i] <= last[j]
        wins[i] = wins[i] & ~(both & ~first)
        wins[j] = wins[j] & ~(both & first)
    return wins


def exchange(shape: Shape, s: State, words: Any) -> State:
    """Issues take their wavelets from input queues and put theirs into output queues."""
    taken, put = [], []
    for c in range(shape.colors):
        taken.append(where(s["thread_inward"].same(c), words, jnp.int8(0)).sum())
        put.append(where(s["thread_outward"].same(c), words, jnp.int8(0)).sum())
    taken = Rows(taken)
    out = {
        "in": s["in"] - taken,
        "in_held": s["in_held"] - taken,
        "out": s["out"] + Rows(put),
    }
    if shape.control:
        control = where(words.differs(0), s["thread_control"], jnp.int8(0)).astype(
            jnp.int32
        )
        rows = []
        for c in range(shape.colors):
            kind = where(s["thread_outward"].same(c), control, 0).sum()
            rows.append(kind << (s["out"][c].astype(jnp.int32) * TYPE_BITS))
        out["out_types"] = s["out_types"] | Rows(rows)
    return s | out


__all__ = ["TYPE_BITS", "exchange", "issue", "longest_ago"]
