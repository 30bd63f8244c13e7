"""A cycle of every datapath: which thread it serves, and what moves in and out of its queues."""

from typing import Any

import jax.numpy as jnp

from emu.wse.cycle_main import PACE, State, Tables
from emu.wse.layout import Shape

TYPE_BITS = 2  # a wavelet's kind, packed into its queue's word


def _at_color(x: Any, color: Any, colors: int) -> Any:
    """`x[color]` for each PE, of arrays `[colors, n]`; 0 where the color is NONE."""
    out = jnp.zeros_like(x[0])
    for c in range(colors):
        out = jnp.where(color == c, x[c], out)
    return out


def issue(
    shape: Shape, tab: Tables, s: State, t: Any
) -> tuple[State, Any, Any, dict[str, Any]]:  # fmt: skip
    """Each PE's datapath serves one thread.

    Returns:
      the state, `bool[threads, n]` that issued, their wavelets, and why the others that could
      have did not: no wavelets (`starved`), no room (`full`), another's turn (`lost`).
    """
    ready, moved, starved, full = [], [], [], []
    for u in range(shape.threads):
        due = s["thread_on"][u] & (s["thread_wake"][u] <= t)
        words = s["thread_words"][u].astype(jnp.int32) & ((1 << PACE) - 1)
        words = jnp.minimum(words, s["thread_left"][u])
        words = words.astype(jnp.int8)
        if shape.colors:
            inward, outward = s["thread_inward"][u], s["thread_outward"][u]
            came = _at_color(s["in"], inward, shape.colors)
            room = _at_color(tab["out_cap"] - s["out"], outward, shape.colors)
            words = jnp.where(inward >= 0, jnp.minimum(words, jnp.maximum(came, 1)), words)
            starved.append(due & (inward >= 0) & (came <= 0))
            full.append(due & ~starved[u] & (outward >= 0) & (room < words))
            due &= ~starved[u] & ~full[u]
        ready.append(due)
        moved.append(words)
    issues = jnp.stack(longest_ago(ready, s.get("thread_last")))
    words = jnp.where(issues, jnp.stack(moved), 0)
    left = s["thread_left"] - words.astype(jnp.int32)
    done = issues & (left == 0)
    stalls = {"lost": jnp.stack(ready) & ~issues}
    if shape.colors:
        stalls |= {"starved": jnp.stack(starved), "full": jnp.stack(full)}
    s = s | {"thread_left": left, "thread_on": s["thread_on"] & ~done}
    if shape.threads > 1:
        s["thread_last"] = jnp.where(issues, t, s["thread_last"])
        again = t + 1 + (s["thread_words"] >> PACE).astype(jnp.int32)
        s["thread_wake"] = jnp.where(issues, again, s["thread_wake"])
    return _complete(shape, s, done, t), issues, words, stalls


def _complete(shape: Shape, s: State, done: Any, t: Any) -> State:
    """The main thread goes on after a synchronous operation; microthreads set task flags."""
    wake = jnp.where(done[0], t + 1 + s["wake"], s["wake"])  # wake held the drain
    end = jnp.where(done[0], wake, s["end"])
    out = {"wake": wake, "end": jnp.where(done[1:].any(0), jnp.maximum(end, t + 1), end)}
    if shape.threads > 1 and shape.tasked:
        active, blocked = s["active"], s["blocked"]
        for u in range(1, shape.threads):
            flags = jnp.where(done[u], s["thread_flags"][u], 0)
            active |= (1 << (flags & 255)) >> 1
            blocked &= ~((1 << (flags >> 8 & 255)) >> 1)
        out |= {"active": active, "blocked": blocked}
    return s | out


def longest_ago(wants: list[Any], last: Any, pairs: Any = None) -> list[Any]:
    """Of those that want, the one served longest ago; ties go to the first."""
    if len(wants) == 1 or last is None:
        return wants
    pairs = pairs or [(i, j) for i in range(len(wants)) for j in range(i + 1, len(wants))]
    wins = list(wants)
    for i, j in pairs:
        both = wants[i] & wants[j]
        first = last[i] <= last[j]
        wins[i] = wins[i] & ~(both & ~first)
        wins[j] = wins[j] & ~(both & first)
    return wins


def exchange(shape: Shape, s: State, words: Any) -> State:
    """Issues take their wavelets from input queues and put theirs into output queues."""
    taken, put = [], []
    for c in range(shape.colors):
        taken.append(jnp.where(s["thread_inward"] == c, words, 0).sum(0, dtype=jnp.int8))
        put.append(jnp.where(s["thread_outward"] == c, words, 0).sum(0, dtype=jnp.int8))
    taken, put = jnp.stack(taken), jnp.stack(put)
    out = {"in": s["in"] - taken, "in_held": s["in_held"] - taken, "out": s["out"] + put}
    if shape.control:
        control = jnp.where(words != 0, s["thread_control"], 0)
        rows = []
        for c in range(shape.colors):
            kind = jnp.where(s["thread_outward"] == c, control, 0).sum(0, dtype=jnp.int32)
            rows.append(kind << (s["out"][c].astype(jnp.int32) * TYPE_BITS))
        out["out_types"] = s["out_types"] | jnp.stack(rows)
    return s | out


__all__ = ["TYPE_BITS", "exchange", "issue", "longest_ago"]
