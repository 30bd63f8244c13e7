"""A cycle of every router: what arrives, what may leave, who gets the link, and where it goes."""

import functools
from typing import Any

import jax.numpy as jnp

from emu.wse import ops
from emu.wse.cycle_datapath import TYPE_BITS, longest_ago
from emu.wse.cycle_main import State, Tables
from emu.wse.encode import NONE
from emu.wse.layout import Shape
from emu.wse.program import OPPOSITE, RAMP

TYPE_MASK = (1 << TYPE_BITS) - 1


def arrive(shape: Shape, s: State) -> tuple[State, Any, Any]:
    """Wavelets in flight come a cycle nearer; those that arrive are counted in their queue."""
    came, in_came = s["pipe"] & 1, s["in_pipe"] & 1
    flying = (s["pipe"] != 0).any(0) | (s["in_pipe"] != 0).any(0)
    return s | {
        "fifo": s["fifo"] + came, "pipe": s["pipe"] >> 1,
        "in": s["in"] + in_came, "in_pipe": s["in_pipe"] >> 1,
    }, flying, came  # fmt: skip


def _from_side(x: Any, side: int, shape: Shape) -> Any:
    """Each PE's neighbour's entry; what wraps round is never sent, as no route leaves the grid."""
    offset = {0: -shape.width, 1: 1, 2: shape.width, 3: -1}[side]
    return jnp.roll(x, -offset, axis=-1)


def _position(s: State, table: Any) -> Any:
    """Each color's entry of `table` `[positions, colors, n]` at its router's position."""
    out = table[0]
    for p in range(1, table.shape[0]):
        out = jnp.where(s["position"] == p, table[p], out)
    return out


def heads(shape: Shape, tab: Tables, s: State) -> dict[str, Any]:
    """What each router could forward: per color its head, where from, and where to."""
    send = _position(s, tab["send"])
    free = s["held"] < tab["cap"]
    receive = _position(s, tab["receive"])  # unused, and then not worked out, if takes is None
    if all(d == NONE for _, d in shape.channels):
        takes, has = None, s["fifo"] > 0
    else:
        takes = jnp.stack([
            (s["fifo"][x] > 0) & (True if d == NONE else (receive[c] >> d & 1) == 1)
            for x, (c, d) in enumerate(shape.channels)
        ])  # fmt: skip
        takes = _first_channel(shape, takes)
        has = jnp.stack([_any_channel(shape, takes, c) for c in range(shape.colors)])
    if shape.control:
        head = s["types"] & TYPE_MASK
        if takes is not None:
            head = jnp.where(takes, head, 0)
            head = jnp.stack([
                functools.reduce(jnp.bitwise_or, [head[x] for x in _channels(shape, c)])
                for c in range(shape.colors)
            ])  # fmt: skip
        send = jnp.where(head != ops.LOCAL, send & ~(1 << RAMP), send)
    else:
        head = None
    return {"send": send, "free": free, "takes": takes, "has": has, "head": head,
            "receive": receive}  # fmt: skip


def turns(shape: Shape, r: dict[str, Any], go: Any) -> Any:
    """`int8[colors, PEs]`: whose turn it was at routers that merge: a direction, or NONE."""
    rows, takes = [], r["takes"]
    for c in range(shape.colors):
        row = jnp.full(shape.pes, NONE, jnp.int8)
        for x in _channels(shape, c):
            if takes is None:
                break
            row = jnp.where(takes[x], jnp.int8(shape.channels[x][1]), row)
        several = (r["receive"][c] & (r["receive"][c] - 1)) != 0
        rows.append(jnp.where(go[c] & several, row, jnp.int8(NONE)))
    return jnp.stack(rows)


def _channels(shape: Shape, color: int) -> list[int]:
    return [x for x, (c, _) in enumerate(shape.channels) if c == color]


def _any_channel(shape: Shape, takes: Any, color: int) -> Any:
    return functools.reduce(jnp.logical_or, [takes[x] for x in _channels(shape, color)])


def _first_channel(shape: Shape, takes: Any) -> Any:
    """One channel a color: of several heads that a merging router could take, the first."""
    rows = list(takes)
    for color in range(shape.colors):
        taken = jnp.zeros_like(rows[0])
        for x in _channels(shape, color):
            rows[x] = rows[x] & ~taken
            taken = taken | rows[x]
    return jnp.stack(rows)


def _channel_from(shape: Shape, color: int, direction: int) -> int | None:
    """The channel that hears a color from a direction."""
    for x, (c, d) in enumerate(shape.channels):
        if c == color and d in (NONE, direction):
            return x
    return None


def forward(shape: Shape, tab: Tables, s: State, r: dict[str, Any]) -> Any:
    """Which colors leave each router: room wherever they go, and longest without the links."""
    open_ = []
    for c in range(shape.colors):
        ok = r["has"][c]
        for side in shape.sides[c]:
            wanted = (r["send"][c] >> side & 1) == 1
            if side == RAMP:
                room = s["in_held"][c] < tab["in_cap"][c]
            else:
                x = _channel_from(shape, c, OPPOSITE[side])
                room = True if x is None else _from_side(r["free"][x], side, shape)
            ok &= ~wanted | room
        open_.append(ok)
    if not shape.link_pairs:
        return jnp.stack(open_)
    wins = list(open_)
    for i, j in shape.link_pairs:
        both = open_[i] & open_[j] & ((r["send"][i] & r["send"][j]) != 0)
        first = s["link_last"][i] <= s["link_last"][j]
        wins[i] = wins[i] & ~(both & ~first)
        wins[j] = wins[j] & ~(both & first)
    return jnp.stack(wins)


def leave_queues(shape: Shape, tab: Tables, s: State) -> Any:
    """Which colors' output queues hand a wavelet to their router."""
    wants = []
    for c in range(shape.colors):
        x = _channel_from(shape, c, RAMP)
        ok = s["out"][c] > 0
        wants.append(ok & (s["held"][x] < tab["cap"][x]) if x is not None else ok & False)
    if not shape.ramp_pairs:
        return jnp.stack(wants)
    return jnp.stack(longest_ago(wants, s["ramp_last"], shape.ramp_pairs))


def move(shape: Shape, tab: Tables, s: State, r: dict[str, Any], go: Any, up: Any, t: Any) -> State:
    """Wavelets leave (`go` routers, `up` output queues) and enter what is next."""
    i8 = jnp.int8
    leaves, enters, kinds = [], [], []
    for x, (c, direction) in enumerate(shape.channels):
        taken = go[c] if r["takes"] is None else go[c] & r["takes"][x]
        leaves.append(taken)
        came, kind = jnp.zeros_like(taken), 0
        for side in range(RAMP):
            if direction not in (NONE, side) or OPPOSITE[side] not in shape.sides[c]:
                continue
            sent = go[c] & ((r["send"][c] >> OPPOSITE[side] & 1) == 1)
            sent = _from_side(sent, side, shape)
            came |= sent
            if shape.control:
                kind = jnp.where(sent, _from_side(r["head"][c], side, shape), kind)
        if direction in (NONE, RAMP):
            came |= up[c]
            if shape.control:
                kind = jnp.where(up[c], s["out_types"][c] & TYPE_MASK, kind)
        enters.append(came)
        kinds.append(kind)
    gone, came = jnp.stack(leaves), jnp.stack(enters)
    into = go & ((r["send"] >> RAMP & 1) == 1)
    out = {
        "fifo": s["fifo"] - gone.astype(i8),
        "pipe": s["pipe"] | jnp.where(came, tab["enter"], 0),
        "held": s["held"] - gone.astype(i8) + came.astype(i8),
        "out": s["out"] - up.astype(i8),
        "in_pipe": s["in_pipe"] | jnp.where(into, i8(1 << (shape.ramp_cycles - 1)), 0),
        "in_held": s["in_held"] + into.astype(i8),
    }
    if shape.link_pairs:
        out["link_last"] = jnp.where(go, t, s["link_last"])
    if shape.ramp_pairs:
        out["ramp_last"] = jnp.where(up, t, s["ramp_last"])
    if shape.control:
        out |= _move_types(shape, tab, s, r, gone, came, jnp.stack(kinds), up)
    return s | out


def _move_types(
    shape: Shape, tab: Tables, s: State, r: dict[str, Any], gone: Any, came: Any, kinds: Any,
    up: Any,
) -> State:  # fmt: skip
    """Queues of wavelet kinds, packed two bits each, head lowest; and what control does."""
    types = jnp.where(gone, s["types"] >> TYPE_BITS, s["types"])
    at = (s["held"] - gone.astype(jnp.int8)).astype(jnp.int32) * TYPE_BITS
    types |= jnp.where(came, kinds << at, 0)
    out = {"types": types, "out_types": jnp.where(up, s["out_types"] >> TYPE_BITS, s["out_types"])}
    if "position" not in s:
        return out
    rows = []
    for c in range(shape.colors):
        acts = jnp.zeros_like(gone[0])
        for x in _channels(shape, c):
            from_ramp = tab["enter"][x] == 1 << (shape.ramp_cycles - 1)
            if shape.channels[x][1] != NONE:
                from_ramp = shape.channels[x][1] == RAMP
            head = s["types"][x] & TYPE_MASK
            own = (head == ops.OWN) & from_ramp
            acts |= gone[x] & (own | (head == ops.ALL))
        moves = acts & tab["heeds"][c] & (s["position"][c] < tab["last"][c])
        rows.append(s["position"][c] + moves.astype(jnp.int8))
    return out | {"position": jnp.stack(rows)}


def two_arrivals(shape: Shape, s: State, r: dict[str, Any], came: Any, t: Any) -> State:
    """The first cycle in which a merging router had two arrivals on one color, PE and color."""
    if all(d == NONE for _, d in shape.channels):
        return {}
    found = s["two"]
    receive = _position(s, r["table"])
    for c in range(shape.colors):
        mine = [x for x in _channels(shape, c) if shape.channels[x][1] != NONE]
        if len(mine) < 2:
            continue
        lands = [(came[x] != 0) & (receive[c] >> shape.channels[x][1] & 1 == 1) for x in mine]
        bad = jnp.stack(lands).sum(0, dtype=jnp.int8) > 1
        first = jnp.stack([t, jnp.argmax(bad), jnp.int32(c)]).astype(jnp.int32)
        found = jnp.where((found[0] < 0) & bad.any(), first, found)
    return {"two": found}


__all__ = ["arrive", "forward", "heads", "leave_queues", "move", "turns", "two_arrivals"]
