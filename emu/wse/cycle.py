"""One cycle of every PE and router at once, in JAX: queues, links, arbitration, datapaths, tasks.

Queues are counts: a wavelet's place in its stream says what it carries, so that values are worked
out apart (`flow.py`) and a router's state is a few bytes. All decisions of a cycle look at the
state at its start, arrivals included.

State arrays end in the flat axis of PEs; `colors`, `channels` and `threads` lead.
"""

import functools
from typing import Any

import jax.numpy as jnp

from emu.wse import ops
from emu.wse.encode import ACTIVATE, BLOCK, NONE, STAMP, SWITCH, UNBLOCK, VECTOR
from emu.wse.layout import Shape
from emu.wse.program import OPPOSITE, RAMP

State = dict[str, Any]
Tables = dict[str, Any]
IDLE = -1
TYPE_BITS, TYPE_MASK = 2, 3
HEARD = -2  # a logged start of data task k is HEARD - k


def initial(shape: Shape, started: Any, blocked: Any) -> State:
    """The machine before cycle 0."""
    n, c, x = shape.pes, shape.colors, len(shape.channels)
    i8, i32 = jnp.int8, jnp.int32
    state: State = {
        "pc": jnp.full(n, IDLE, i32), "wake": jnp.zeros(n, i32), "end": jnp.zeros(n, i32),
        "active": jnp.asarray(started, i32).reshape(n),
        "blocked": jnp.asarray(blocked, i32).reshape(n),
    }  # fmt: skip
    threads = {"wake": i32, "left": i32, "inward": i8, "outward": i8, "words": i8, "flags": i32,
               "control": i8}  # fmt: skip
    for name, dtype in threads.items():
        state[f"thread_{name}"] = jnp.zeros((shape.threads, n), dtype)
    state["thread_on"] = jnp.zeros((shape.threads, n), bool)
    if shape.threads > 1:
        state["thread_last"] = jnp.full((shape.threads, n), -1, i32)
    if shape.stamps:
        state["stamps"] = jnp.full((shape.stamps, n), -1, i32)
    if c:
        for name, rows in (("fifo", x), ("pipe", x), ("held", x), ("out", c), ("in", c),
                           ("in_pipe", c), ("in_held", c)):  # fmt: skip
            state[name] = jnp.zeros((rows, n), i8)
        state["two"] = jnp.full(3, -1, i32)
        if max(shape.positions) > 1:
            state["position"] = jnp.zeros((c, n), i8)
        if shape.control:
            state["types"], state["out_types"] = jnp.zeros((x, n), i32), jnp.zeros((c, n), i32)
        if shape.link_pairs:
            state["link_last"] = jnp.full((c, n), -1, i32)
        if shape.ramp_pairs:
            state["ramp_last"] = jnp.full((c, n), -1, i32)
    return state


# --- main thread ---


def _select(shape: Shape, tab: Tables, s: State, t: Any) -> tuple[State, Any]:
    """Idle main threads take their lowest task that is ready; also the data tasks started."""
    ready = s["active"] & ~s["blocked"]
    for task, color in shape.data_tasks:
        heard = (s["in"][color] > 0) & (tab["entry"][task] >= 0)
        ready |= jnp.where(heard & (s["blocked"] >> task & 1 == 0), 1 << task, 0)
    pick = (s["pc"] == IDLE) & (s["wake"] <= t) & (ready != 0)
    pick &= ~s["thread_on"][0]
    lowest = ready & -ready
    pc = s["pc"]
    for task in range(tab["entry"].shape[0]):
        pc = jnp.where(pick & (lowest == 1 << task), tab["entry"][task], pc)
    heard_task = jnp.full_like(pc, NONE)
    for task, color in shape.data_tasks:
        started = pick & (lowest == 1 << task)
        heard_task = jnp.where(started, task, heard_task)
        pops = jnp.zeros_like(s["in"]).at[color].set(started.astype(jnp.int8))
        s = s | {"in": s["in"] - pops, "in_held": s["in_held"] - pops}
    active = jnp.where(pick, s["active"] & ~lowest, s["active"])
    wake = jnp.where(pick, t + shape.task_switch_cycles, s["wake"])
    return s | {"pc": pc, "active": active, "wake": wake}, heard_task


def _decode(tab: Tables, pc: Any) -> dict[str, Any]:
    """The fields of each PE's instruction, as `layout._instruction_tables` packs them."""
    a, issues, b, c = (tab[f"word{k}"][jnp.maximum(pc, 0)] for k in range(4))
    mask = (1 << 20) - 1
    return {
        "setup": a & mask, "kind": a >> 20 & 15, "thread": a >> 24 & 15, "last": a >> 28 & 1 == 1,
        "issues": issues, "drain": b & mask, "words": b >> 20 & 7, "inward": (b >> 23 & 31) - 1,
        "activate": (c & 63) - 1, "unblock": (c >> 6 & 63) - 1, "target": (c >> 12 & 63) - 1,
        "outward": (c >> 18 & 31) - 1, "control": c >> 23 & 3, "position": c >> 25 & 3,
    }  # fmt: skip


def _flags(i: dict[str, Any]) -> Any:
    """What a completion does to tasks, in one word: activate and unblock index, each plus 1."""
    return (i["activate"] + 1) | (i["unblock"] + 1) << 8


def _dispatch(shape: Shape, tab: Tables, s: State, t: Any) -> tuple[State, Any]:
    """Main threads that are due dispatch their next instruction."""
    i = _decode(tab, s["pc"])
    due = (s["pc"] >= 0) & (s["wake"] <= t) & ~s["thread_on"][0]
    vector = i["kind"] == VECTOR
    for u in range(1, shape.threads):  # a busy microthread stalls the main thread
        due &= ~(vector & (i["thread"] == u) & s["thread_on"][u])
    starts = due & vector
    s = _start(shape, s, i, starts, t)
    synchronous = starts & (i["thread"] == 0)
    cycles = jnp.where(starts, shape.async_cycles, i["setup"])
    wake = jnp.where(due & ~synchronous, t + cycles, s["wake"])
    wake = jnp.where(synchronous, i["drain"], wake)  # until it completes: what is added then
    following = jnp.where(i["last"], IDLE, s["pc"] + 1)
    s = s | {"wake": wake, "pc": jnp.where(due, following, s["pc"])}
    s["end"] = jnp.where(due & ~synchronous, wake, s["end"])
    return _scalar(shape, s, i, due, t), due


def _start(shape: Shape, s: State, i: dict[str, Any], starts: Any, t: Any) -> State:
    """Vector operations enter their threads."""
    fields = {"wake": t + i["setup"], "left": i["issues"], "inward": i["inward"],
              "outward": i["outward"], "words": i["words"], "flags": _flags(i),
              "control": i["control"]}  # fmt: skip
    mine = jnp.stack([starts & (i["thread"] == u) for u in range(shape.threads)])
    out = {"thread_on": s["thread_on"] | mine}
    for name, value in fields.items():
        old = s[f"thread_{name}"]
        out[f"thread_{name}"] = jnp.where(mine, value.astype(old.dtype)[None], old)
    return s | out


def _scalar(shape: Shape, s: State, i: dict[str, Any], due: Any, t: Any) -> State:
    """Instructions that only set bits: stamps, task flags, switches."""
    out = {}
    if STAMP in shape.kinds:
        at = jnp.arange(shape.stamps)[:, None]
        hit = (due & (i["kind"] == STAMP))[None] & (i["target"][None] == at)
        out["stamps"] = jnp.where(hit, t, s["stamps"])
    if shape.tasked:
        bit = jnp.where(due, 1 << jnp.maximum(i["target"], 0), 0)
        on = lambda kind: jnp.where(i["kind"] == kind, bit, 0)  # noqa: E731
        out["active"] = s["active"] | on(ACTIVATE)
        out["blocked"] = (s["blocked"] | on(BLOCK)) & ~on(UNBLOCK)
    if SWITCH in shape.kinds:
        at = jnp.arange(shape.colors)[:, None]
        hit = (due & (i["kind"] == SWITCH))[None] & (i["target"][None] == at)
        out["position"] = jnp.where(hit, i["position"].astype(jnp.int8)[None], s["position"])
    return s | out


# --- datapath ---


def _at_color(x: Any, color: Any, colors: int) -> Any:
    """`x[color]` for each PE, of arrays `[colors, n]`; 0 where the color is NONE."""
    out = jnp.zeros_like(x[0])
    for c in range(colors):
        out = jnp.where(color == c, x[c], out)
    return out


def _issue(shape: Shape, tab: Tables, s: State, t: Any) -> tuple[State, Any, Any]:
    """Each PE's datapath serves one thread; returns the state, issuing threads, and completions."""
    ready, moved = [], []
    for u in range(shape.threads):
        ok = s["thread_on"][u] & (s["thread_wake"][u] <= t)
        words = jnp.minimum(s["thread_words"][u].astype(jnp.int32), s["thread_left"][u])
        words = words.astype(jnp.int8)
        if shape.colors:
            inward, outward = s["thread_inward"][u], s["thread_outward"][u]
            came = _at_color(s["in"], inward, shape.colors)
            room = _at_color(tab["out_cap"] - s["out"], outward, shape.colors)
            ok &= ((inward < 0) | (came > 0)) & ((outward < 0) | (room >= words))
        ready.append(ok)
        moved.append(words)
    issues = jnp.stack(_longest_ago(ready, s.get("thread_last")))
    words = jnp.where(issues, jnp.stack(moved), 0)
    left = s["thread_left"] - words.astype(jnp.int32)
    done = issues & (left == 0)
    s = s | {"thread_left": left, "thread_on": s["thread_on"] & ~done}
    if shape.threads > 1:
        s["thread_last"] = jnp.where(issues, t, s["thread_last"])
    s = _complete(shape, s, done, t)
    return s, issues, words


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
            blocked &= ~((1 << (flags >> 8)) >> 1)
        out |= {"active": active, "blocked": blocked}
    return s | out


def _longest_ago(wants: list[Any], last: Any, pairs: Any = None) -> list[Any]:
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


# --- fabric ---


def _arrive(shape: Shape, s: State) -> tuple[State, Any, Any]:
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


def _stack(rows: list[Any]) -> Any:
    return jnp.stack(rows)


def _position(s: State, table: Any) -> Any:
    """Each color's entry of `table` `[positions, colors, n]` at its router's position."""
    out = table[0]
    for p in range(1, table.shape[0]):
        out = jnp.where(s["position"] == p, table[p], out)
    return out


def _route(shape: Shape, tab: Tables, s: State) -> dict[str, Any]:
    """What each router could forward: per color its head, where from, and where to."""
    send = _position(s, tab["send"])
    free = s["held"] < tab["cap"]
    if all(d == NONE for _, d in shape.channels):
        takes, has = None, s["fifo"] > 0
    else:
        receive = _position(s, tab["receive"])
        takes = _stack([
            (s["fifo"][x] > 0) & (True if d == NONE else (receive[c] >> d & 1) == 1)
            for x, (c, d) in enumerate(shape.channels)
        ])  # fmt: skip
        takes = _first_channel(shape, takes)
        has = _stack([_any_channel(shape, takes, c) for c in range(shape.colors)])
    if shape.control:
        head = s["types"] & TYPE_MASK
        if takes is not None:
            head = jnp.where(takes, head, 0)
            head = _stack([
                functools.reduce(jnp.bitwise_or, [head[x] for x in _channels(shape, c)])
                for c in range(shape.colors)
            ])  # fmt: skip
        send = jnp.where(head != ops.LOCAL, send & ~(1 << RAMP), send)
    else:
        head = None
    return {"send": send, "free": free, "takes": takes, "has": has, "head": head}


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
    return _stack(rows)


def _channel_from(shape: Shape, color: int, direction: int) -> int | None:
    """The channel that hears a color from a direction."""
    for x, (c, d) in enumerate(shape.channels):
        if c == color and d in (NONE, direction):
            return x
    return None


def _forward(shape: Shape, tab: Tables, s: State, r: dict[str, Any]) -> Any:
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
        return _stack(open_)
    wins = list(open_)
    for i, j in shape.link_pairs:
        both = open_[i] & open_[j] & ((r["send"][i] & r["send"][j]) != 0)
        first = s["link_last"][i] <= s["link_last"][j]
        wins[i] = wins[i] & ~(both & ~first)
        wins[j] = wins[j] & ~(both & first)
    return _stack(wins)


def _leave_queues(shape: Shape, tab: Tables, s: State) -> Any:
    """Which colors' output queues hand a wavelet to their router."""
    wants = []
    for c in range(shape.colors):
        x = _channel_from(shape, c, RAMP)
        ok = s["out"][c] > 0
        wants.append(ok & (s["held"][x] < tab["cap"][x]) if x is not None else ok & False)
    if not shape.ramp_pairs:
        return _stack(wants)
    return _stack(_longest_ago(wants, s["ramp_last"], shape.ramp_pairs))


def _move(
    shape: Shape, tab: Tables, s: State, r: dict[str, Any], go: Any, up: Any, t: Any
) -> State:
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
    gone, came = _stack(leaves), _stack(enters)
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
        out |= _move_types(shape, tab, s, r, gone, came, _stack(kinds), up)
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
    return out | {"position": _stack(rows)}


def _exchange(shape: Shape, s: State, words: Any, t: Any) -> State:
    """Issues take their wavelets from input queues and put theirs into output queues."""
    taken, put = [], []
    for c in range(shape.colors):
        mine = words != 0
        taken.append((mine & (s["thread_inward"] == c)).sum(0, dtype=jnp.int8))
        put.append(jnp.where(s["thread_outward"] == c, words, 0).sum(0, dtype=jnp.int8))
    taken, put = _stack(taken), _stack(put)
    out = {"in": s["in"] - taken, "in_held": s["in_held"] - taken, "out": s["out"] + put}
    if shape.control:
        control = jnp.where(words != 0, s["thread_control"], 0)
        rows = []
        for c in range(shape.colors):
            kind = jnp.where(s["thread_outward"] == c, control, 0).sum(0, dtype=jnp.int32)
            rows.append(kind << (s["out"][c].astype(jnp.int32) * TYPE_BITS))
        out["out_types"] = s["out_types"] | _stack(rows)
    return s | out


def _two_arrivals(shape: Shape, s: State, r: dict[str, Any], came: Any, t: Any) -> State:
    """Remembers the first cycle in which a merging router had two arrivals on one color."""
    if all(d == NONE for _, d in shape.channels):
        return s
    found = s["two"]
    receive = _position(s, r["table"])
    for c in range(shape.colors):
        mine = [x for x in _channels(shape, c) if shape.channels[x][1] != NONE]
        if len(mine) < 2:
            continue
        count = sum(
            ((came[x] != 0) & (receive[c] >> shape.channels[x][1] & 1 == 1)).astype(jnp.int8)
            for x in mine
        )
        bad = count > 1  # type: ignore[operator]
        first = jnp.stack([t, jnp.argmax(bad), jnp.int32(c)]).astype(jnp.int32)
        found = jnp.where((found[0] < 0) & bad.any(), first, found)
    return s | {"two": found}


# --- a cycle ---


def step(shape: Shape, tab: Tables, s: State, t: Any) -> tuple[State, dict[str, Any]]:
    """One cycle; also who dispatched, heard, issued and sent in it."""
    busy = s["thread_on"] & (s["thread_wake"] > t)
    waits = busy.any(0) | ((s["pc"] >= 0) & (s["wake"] > t) & ~s["thread_on"][0])
    waits |= (s["pc"] < 0) & (s["wake"] > t) & (s["active"] != 0)
    if shape.colors:
        s, flying, came = _arrive(shape, s)
        waits |= flying
    s, heard = _select(shape, tab, s, t)
    pc = s["pc"]
    s, due = _dispatch(shape, tab, s, t)
    routes = _route(shape, tab, s) if shape.colors else {}
    before = s
    s, issues, words = _issue(shape, tab, s, t)
    seen = {"due": due, "pc": pc, "heard": heard, "issues": issues}
    alive = waits | due | issues.any(0) | (heard >= 0)
    if shape.colors:
        up = _leave_queues(shape, tab, before)
        go = _forward(shape, tab, before, routes)
        s = _two_arrivals(shape, s, routes | {"table": tab["receive"]}, came, t)
        # Counts change by what leaves and what enters; every decision above saw the start.
        s = _exchange(shape, s, words, t)
        s = _merge_moves(shape, tab, before, s, routes, go, up, t)
        seen |= {"go": go, "send": routes["send"]}
        alive |= go.any(0) | up.any(0)
    return s, seen | {"alive": alive}


def _merge_moves(
    shape: Shape, tab: Tables, before: State, s: State, r: dict[str, Any], go: Any, up: Any, t: Any
) -> State:
    """`_move` on a state whose queues the datapath has already changed."""
    if not shape.control:
        return _move(shape, tab, s, r, go, up, t)
    # A kind popped from the output queue must leave before the new one finds its place in it.
    moved = _move(shape, tab, s | {"out_types": before["out_types"]}, r, go, up, t)
    put = s["out_types"] ^ before["out_types"]
    shifted = jnp.where(up, put >> TYPE_BITS, put)
    return moved | {"out_types": moved["out_types"] | shifted}


__all__ = ["HEARD", "IDLE", "initial", "step"]
