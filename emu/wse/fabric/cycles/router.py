"""A cycle of every router: what arrives, what may leave, who gets the link, and where it goes."""

import functools
from typing import Any

import jax.numpy as jnp

from emu.wse.fabric import ops
from emu.wse.fabric.cycles.datapath import TYPE_BITS, longest_ago
from emu.wse.fabric.cycles.main_thread import State, Tables
from emu.wse.fabric.cycles.rows import Rows, apart, where
from emu.wse.fabric.cycles.tables import Shape
from emu.wse.fabric.directions import OPPOSITE, RAMP
from emu.wse.fabric.encoding.instructions import NONE

TYPE_MASK = (1 << TYPE_BITS) - 1


def arrive(shape: Shape, s: State) -> tuple[State, Any, Any]:
    """Wavelets in flight come a cycle nearer; those that arrive are counted in their queue."""
    came, in_came = s["pipe"] & 1, s["in_pipe"] & 1
    flying = (s["pipe"].differs(0).any()) | (s["in_pipe"].differs(0).any())
    return (
        s
        | {
            "fifo": s["fifo"] + came,
            "pipe": s["pipe"] >> 1,
            "in": s["in"] + in_came,
            "in_pipe": s["in_pipe"] >> 1,
        },
        flying,
        came,
    )


def _from_side(x: Any, side: int, shape: Shape) -> Any:
    """Each PE's neighbour's entry; what wraps round is never sent, as no route leaves the grid."""
    return jnp.roll(x, {0: shape.width, 1: -1, 2: -shape.width, 3: 1}[side])


def _across(
    on: Any, rows: dict[int, Any], side: int, shape: Shape, bits: int = 1
) -> dict[int, Any]:
    """`_from_side` of several arrays of `bits` bits, by color: packed, so that one copy does."""
    if not rows:
        return {}
    packed = functools.reduce(
        jnp.bitwise_or,
        (x.astype(jnp.int32) << (bits * n) for n, x in enumerate(rows.values())),
    )
    packed = apart(on, lambda x: _from_side(x, side, shape), packed)
    mask = (1 << bits) - 1
    return {c: packed >> (bits * n) & mask for n, c in enumerate(rows)}


def _position(s: State, table: Any) -> Any:
    """Each color's entry of `table` `[positions, colors, n]` at its router's position."""
    out = table[0]
    for p in range(1, len(table)):
        out = where(s["position"].same(p), table[p], out)
    return out


def heads(shape: Shape, tab: Tables, s: State) -> dict[str, Any]:
    """What each router could forward: per color its head, where from, and where to."""
    send = _position(s, tab["send"])
    free = s["held"] < tab["cap"]
    # Unused, and then not worked out, if takes is None.
    receive = _position(s, tab["receive"])
    if all(d == NONE for _, d in shape.channels):
        takes, has = None, s["fifo"] > 0
    else:
        takes = Rows(
            (s["fifo"][x] > 0) & (True if d == NONE else (receive[c] >> d & 1) == 1)
            for x, (c, d) in enumerate(shape.channels)
        )
        takes = _first_channel(shape, takes)
        has = Rows(_any_channel(shape, takes, c) for c in range(shape.colors))
    if shape.control:
        head = s["types"] & TYPE_MASK
        if takes is not None:
            head = where(takes, head, 0)
            head = Rows(
                functools.reduce(jnp.bitwise_or, [head[x] for x in _channels(shape, c)])
                for c in range(shape.colors)
            )
        send = where(head.differs(ops.DATA), send & jnp.uint8(0xFF ^ (1 << RAMP)), send)
    else:
        head = None
    return {
        "send": send,
        "free": free,
        "takes": takes,
        "has": has,
        "head": head,
        "receive": receive,
    }


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
    return Rows(rows)


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
    return Rows(rows)


def _channel_from(shape: Shape, color: int, direction: int) -> int | None:
    """The channel that hears a color from a direction."""
    for x, (c, d) in enumerate(shape.channels):
        if c == color and d in (NONE, direction):
            return x
    return None


def forward(shape: Shape, tab: Tables, s: State, r: dict[str, Any]) -> Rows:
    """Which colors leave each router: room wherever they go, and longest without the links."""
    room: dict[int, dict[int, Any]] = {}
    for side in range(RAMP):
        heard = {
            c: _channel_from(shape, c, OPPOSITE[side])
            for c in range(shape.colors)
            if side in shape.sides[c]
        }
        free = {c: r["free"][x] for c, x in heard.items() if x is not None}
        room[side] = {
            c: x == 1 for c, x in _across(tab["on"], free, side, shape).items()
        }
    room[RAMP] = dict(enumerate(s["in_held"] < tab["in_cap"]))
    open_ = []
    for c in range(shape.colors):
        ok = r["has"][c]
        for side in shape.sides[c]:
            if c in room[side]:
                ok &= ((r["send"][c] >> side & 1) == 0) | room[side][c]
        open_.append(ok)
    if not shape.link_pairs:
        return Rows(open_)
    meet = [(r["send"][i] & r["send"][j]) != 0 for i, j in shape.link_pairs]
    return Rows(longest_ago(open_, s["link_last"], shape.link_pairs, meet))


def leave_queues(shape: Shape, tab: Tables, s: State) -> Rows:
    """Which colors' output queues hand a wavelet to their router."""
    wants = []
    for c in range(shape.colors):
        x = _channel_from(shape, c, RAMP)
        ok = s["out"][c] > 0
        wants.append(
            ok & (s["held"][x] < tab["cap"][x]) if x is not None else ok & False
        )
    if not shape.ramp_pairs:
        return Rows(wants)
    return Rows(longest_ago(wants, s["ramp_last"], shape.ramp_pairs))


def move(
    shape: Shape, tab: Tables, s: State, r: dict[str, Any], go: Any, up: Any, t: Any
) -> State:
    """Wavelets leave (`go` routers, `up` output queues) and enter what is next."""
    i8 = jnp.int8
    sent, kind = _sent(shape, tab["on"], r, go)
    leaves = []
    enters = []
    kinds = []
    for x, (c, direction) in enumerate(shape.channels):
        leaves.append(go[c] if r["takes"] is None else go[c] & r["takes"][x])
        came = jnp.zeros(shape.pes, bool)
        what = jnp.zeros(shape.pes, jnp.int32)
        for side in range(RAMP):
            if direction in (NONE, side) and c in sent[side]:
                came |= sent[side][c] == 1
                if shape.control:
                    what |= jnp.where(sent[side][c] == 1, kind[side][c], 0)
        if direction in (NONE, RAMP):
            came |= up[c]
            if shape.control:
                what = jnp.where(up[c], s["out_types"][c] & TYPE_MASK, what)
        enters.append(came)
        kinds.append(what)
    gone, came = Rows(leaves), Rows(enters)
    into = go & (r["send"] >> RAMP & 1).same(1)
    out = {
        "fifo": s["fifo"] - gone.astype(i8),
        "pipe": s["pipe"] | where(came, tab["enter"], i8(0)),
        "held": s["held"] - gone.astype(i8) + came.astype(i8),
        "out": s["out"] - up.astype(i8),
        "in_pipe": s["in_pipe"] | where(into, i8(1 << (shape.ramp_cycles - 1)), i8(0)),
        "in_held": s["in_held"] + into.astype(i8),
    }
    if shape.link_pairs:
        out["link_last"] = where(go, t, s["link_last"])
    if shape.ramp_pairs:
        out["ramp_last"] = where(up, t, s["ramp_last"])
    if shape.control:
        out |= _move_types(shape, tab, s, r, gone, came, Rows(kinds), up)
    return s | out


def _sent(shape: Shape, on: Any, r: dict[str, Any], go: Rows) -> tuple[Any, Any]:
    """By side and color, what each router's neighbour there sends it, and the wavelets' kinds."""
    sent, kind = {}, {}
    for side in range(RAMP):
        colors = [c for c in range(shape.colors) if OPPOSITE[side] in shape.sides[c]]
        leaving = {
            c: go[c] & ((r["send"][c] >> OPPOSITE[side] & 1) == 1) for c in colors
        }
        sent[side] = _across(on, leaving, side, shape)
        if shape.control:
            heads = {c: r["head"][c] for c in colors}
            kind[side] = _across(on, heads, side, shape, TYPE_BITS)
    return sent, kind


def _move_types(
    shape: Shape,
    tab: Tables,
    s: State,
    r: dict[str, Any],
    gone: Any,
    came: Any,
    kinds: Any,
    up: Any,
) -> State:
    """Queues of wavelet kinds, packed two bits each, head lowest; and what control does."""
    types = where(gone, s["types"] >> TYPE_BITS, s["types"])
    at = (s["held"] - gone.astype(jnp.int8)).astype(jnp.int32) << (TYPE_BITS - 1)
    types = types | where(came, kinds << at, 0)
    out = {
        "types": types,
        "out_types": where(up, s["out_types"] >> TYPE_BITS, s["out_types"]),
    }
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
    return out | {"position": Rows(rows)}


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
        lands = [
            (came[x] != 0) & (receive[c] >> shape.channels[x][1] & 1 == 1) for x in mine
        ]
        bad = Rows(x.astype(jnp.int8) for x in lands).sum() > 1
        first = jnp.stack([t, jnp.argmax(bad), jnp.int32(c)]).astype(jnp.int32)
        found = jnp.where((found[0] < 0) & bad.any(), first, found)
    return {"two": found}


__all__ = [
    "arrive",
    "forward",
    "heads",
    "leave_queues",
    "move",
    "turns",
    "two_arrivals",
]
