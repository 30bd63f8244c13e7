"""A cycle of every router: what arrives, what may leave, who gets the link, and where it goes."""

import dataclasses
import functools
import operator

import jax
import jax.numpy as jnp

from emu.wse.fabric import ops
from emu.wse.fabric.cycles import turns
from emu.wse.fabric.cycles.fields import KIND_BITS, KIND_MASK
from emu.wse.fabric.cycles.machine import NEVER, Live, Queues
from emu.wse.fabric.cycles.rows import (
    NO_ROWS,
    PerPE,
    Rows,
    materialize,
    unfused,
    where,
)
from emu.wse.fabric.cycles.shape import Shape
from emu.wse.fabric.cycles.tables import ByPosition, Tables
from emu.wse.fabric.directions import LINKS, OPPOSITE, PORTS, RAMP, flat_steps, has
from emu.wse.fabric.directions import several as several_in
from emu.wse.fabric.encoding.instructions import NONE

ByColor = dict[int, PerPE]
NOT_INTO_RAMP = 0xFF ^ (1 << RAMP)
PACKED_BITS = 31
"""Of an int32, whose sign is left alone: what is shifted right must bring in zeros."""


@dataclasses.dataclass(frozen=True)
class Heads:
    """What each router could forward in a cycle.

    Attributes:
      receive, send: `uint8[colors, PEs]`, sets of directions in the switch's position; a control
        wavelet is not sent into a ramp.
      free: `bool[channels, PEs]`, whether the channel has room.
      takes: `bool[channels, PEs]`, the channel that a color's head is taken from; None if every
        color has one.
      has: `bool[colors, PEs]`, whether there is a head at all.
      kind: `int32[colors, PEs]`, what it is; without rows if all wavelets are data.
    """

    receive: Rows
    send: Rows
    free: Rows
    takes: Rows | None
    has: Rows
    kind: Rows


@dataclasses.dataclass(frozen=True)
class Moves:
    """Which wavelets move in a cycle, `bool[colors, PEs]`.

    Attributes:
      forwarded: each router's heads.
      entered: from the PE's output queue into its router.
    """

    forwarded: Rows
    entered: Rows


# --- arrivals ---


def arrive(state: Live) -> tuple[Live, Rows]:
    """Wavelets in flight come a cycle nearer; those that arrive are counted in their queue.

    Returns:
      the state, and what arrived in each channel.
    """
    came = state.channels.flying & 1
    channels = _nearer(state.channels)
    inputs = _nearer(state.inputs)
    return dataclasses.replace(state, channels=channels, inputs=inputs), came


def flying(state: Live) -> PerPE:
    """Where any wavelet is on a link or a ramp."""
    if not len(state.inputs.flying):
        return jnp.zeros_like(state.pc, bool)
    channels, inputs = state.channels.flying, state.inputs.flying
    return channels.differs(0).any() | inputs.differs(0).any()


def _nearer(queues: Queues[Rows]) -> Queues[Rows]:
    arrived = queues.flying & 1
    return Queues(
        waiting=queues.waiting + arrived, flying=queues.flying >> 1, held=queues.held
    )


def first_clash(tables: Tables, state: Live, came: Rows, now: jax.Array) -> jax.Array:
    """The first cycle in which a merging router had two arrivals on one color, PE and color."""
    shape = tables.shape
    found = state.clash
    if shape.one_channel_each:
        return found
    receive = _in_position(state, tables.receive)
    for color in range(shape.colors):
        lands: list[PerPE] = []
        for row in shape.channels_of(color):
            _, direction = shape.channels[row]
            if direction != NONE:
                # What comes from a side that the position does not take is parked, and meets
                # nothing.
                lands.append((came[row] != 0) & has(receive[color], direction))
        if len(lands) < 2:
            continue
        arrivals = Rows(land.astype(jnp.int8) for land in lands).sum()
        together = arrivals > 1
        first = jnp.stack([now, jnp.argmax(together), jnp.int32(color)])
        # Only the first is kept: what follows from it would be told as one more fault.
        new = (found[0] == NEVER) & together.any()
        found = jnp.where(new, first.astype(jnp.int32), found)
    return found


# --- decisions, all of the state at the start of the cycle ---


def heads(tables: Tables, state: Live) -> Heads:
    """What each router could forward: per color its head, where from, and where to."""
    shape = tables.shape
    channels = state.channels
    receive = _in_position(state, tables.receive)
    send = _in_position(state, tables.send)
    # With one channel a color whatever is there may go; else the switch's position decides.
    takes = None
    there = channels.waiting > 0
    if not shape.one_channel_each:
        # Whose turn it was is logged (`turns_taken`), as values depend on it.
        takes = _first_of_color(shape, _open_channels(shape, there, receive))
        there = Rows(
            functools.reduce(jnp.logical_or, [takes[row] for row in rows])
            for rows in map(shape.channels_of, range(shape.colors))
        )
    kind = NO_ROWS
    if shape.control:
        kind = _kinds_of_heads(shape, state, takes)
        not_data = kind.differs(ops.DATA)
        send = where(not_data, send & jnp.uint8(NOT_INTO_RAMP), send)
    return Heads(
        receive=receive,
        send=send,
        free=channels.held < tables.channel_capacity,
        takes=takes,
        has=there,
        kind=kind,
    )


def _in_position(state: Live, table: ByPosition) -> Rows:
    """Each color's entry of a table at its router's position."""
    found = table[0]
    for position in range(1, len(table)):
        found = where(state.position.same(position), table[position], found)
    return found


def _open_channels(shape: Shape, there: Rows, receive: Rows) -> Rows:
    """Channels with a head that the router's position takes."""
    rows: list[PerPE] = []
    for row, (color, direction) in enumerate(shape.channels):
        is_open = direction == NONE or has(receive[color], direction)
        rows.append(there[row] & is_open)
    return Rows(rows)


def _first_of_color(shape: Shape, takes: Rows) -> Rows:
    """One channel a color: of several heads that a merging router could take, the first."""
    rows = list(takes)
    for color in range(shape.colors):
        # Two heads may wait together although they came in different cycles, as no word moved on
        # between. Then the order of directions decides: north, east, south, west, ramp.
        taken = jnp.zeros_like(rows[0])
        for row in shape.channels_of(color):
            rows[row] = rows[row] & ~taken
            taken = taken | rows[row]
    return Rows(rows)


def _kinds_of_heads(shape: Shape, state: Live, takes: Rows | None) -> Rows:
    """`int32[colors, PEs]`: what the heads are."""
    kinds = state.channel_kinds & KIND_MASK
    if takes is None:
        return kinds
    # One channel at most is taken from, so or-ing its kind with zeros finds it.
    kinds = where(takes, kinds, 0)
    return Rows(
        functools.reduce(jnp.bitwise_or, [kinds[row] for row in rows])
        for rows in map(shape.channels_of, range(shape.colors))
    )


def forward(tables: Tables, state: Live, heads: Heads, inputs_held: Rows) -> Rows:
    """Which colors leave each router: room wherever they go, and longest without the links.

    Args:
      inputs_held: of the PEs' input queues, at the start of the cycle.
    """
    shape = tables.shape
    room = _room(tables, heads, inputs_held)
    wants: list[PerPE] = []
    for color in range(shape.colors):
        can = heads.has[color]
        for side in shape.sides[color]:
            if color in room[side]:
                # All ways must be free: a wavelet that goes two ways goes both at once.
                elsewhere = (heads.send[color] >> side & 1) == 0
                can &= elsewhere | room[side][color]
        wants.append(can)
    if not shape.link_pairs:
        return Rows(wants)
    known = materialize(tables.on, *wants)
    # Colors compete where their heads have any direction in common, the ramp included.
    send = heads.send
    pairs = {
        (one, other): known[one] & known[other] & ((send[one] & send[other]) != 0)
        for one, other in shape.link_pairs
    }
    return turns.settled(known, pairs, state.link_ahead)


def _room(tables: Tables, heads: Heads, inputs_held: Rows) -> dict[int, ByColor]:
    """By direction and color, whether what lies there has room for one more."""
    shape = tables.shape
    # A wavelet sent to the east enters the eastern neighbour's channel that hears the west.
    room: dict[int, ByColor] = {}
    for side in LINKS:
        # A color that goes nowhere on this side, or that no neighbour hears from there, needs no
        # look.
        free: ByColor = {}
        for color in range(shape.colors):
            row = shape.channel_from(color, OPPOSITE[side])
            if side in shape.sides[color] and row is not None:
                free[color] = heads.free[row]
        there = _from_neighbours(tables, free, side)
        room[side] = {color: bit == 1 for color, bit in there.items()}
    # `held` counts what is on the ramp too, so a wavelet that is let in always finds its place.
    room[RAMP] = dict(enumerate(inputs_held < tables.input_capacity))
    return room


def leave_queues(tables: Tables, state: Live) -> Rows:
    """Which colors' output queues hand a wavelet to their router."""
    shape = tables.shape
    wants: list[PerPE] = []
    free = state.channels.held < tables.channel_capacity
    for color in range(shape.colors):
        waits = state.outputs[color] > 0
        # No row: no router of the wafer takes the color from its PE.
        row = shape.channel_from(color, RAMP)
        room = False if row is None else free[row]
        wants.append(waits & room)
    if not shape.ramp_pairs:
        return Rows(wants)
    pairs = {(one, other): wants[one] & wants[other] for one, other in shape.ramp_pairs}
    return turns.settled(wants, pairs, state.ramp_ahead)


def turns_taken(shape: Shape, heads: Heads, forwarded: Rows) -> Rows:
    """`int8[colors, PEs]`: whose turn it was at routers that merge: a direction, or NONE."""
    rows: list[PerPE] = []
    none = jnp.int8(NONE)
    for color in range(shape.colors):
        turn = jnp.full(shape.pes, NONE, jnp.int8)
        if heads.takes is not None:
            for row in shape.channels_of(color):
                _, direction = shape.channels[row]
                turn = jnp.where(heads.takes[row], jnp.int8(direction), turn)
        # A router that takes one side has no turns to tell, even of a color that merges elsewhere.
        merges = several_in(heads.receive[color])
        rows.append(jnp.where(forwarded[color] & merges, turn, none))
    return Rows(rows)


# --- moves ---


def _from_neighbours(
    tables: Tables,
    rows: ByColor,
    side: int,
    bits: int = 1,
) -> ByColor:
    """Each PE's neighbour's entries on a side, of several arrays of `bits` bits by color.

    As many as an integer holds are packed into one, so that one copy does: 31 single bits, or the
    kinds of 15 colors. What wraps round the edge is never sent, as no route leaves the grid.
    """
    shape = tables.shape
    # The neighbour's entry lies a step further on, so all move a step back.
    shift = -flat_steps(shape.width)[side]
    mask = (1 << bits) - 1
    there: ByColor = {}
    colors = list(rows)
    together = PACKED_BITS // bits
    for begin in range(0, len(colors), together):
        some = colors[begin : begin + together]
        shifted = []
        for place, color in enumerate(some):
            shifted.append(rows[color].astype(jnp.int32) << (bits * place))
        # Bits that the colors a, b and c have at PEs 0 to 3 go as `a | b << 1 | c << 2`: one roll
        # by -1 brings PE 0 the entries of all three at PE 1.
        packed = functools.reduce(operator.or_, shifted)
        packed = unfused(tables.on, lambda array: jnp.roll(array, shift), packed)
        for place, color in enumerate(some):
            there[color] = packed >> (bits * place) & mask
    return there


def move(
    tables: Tables,
    state: Live,
    heads: Heads,
    moves: Moves,
) -> Live:
    """Wavelets leave their queues and enter what is next."""
    shape = tables.shape
    forwarded = moves.forwarded
    entered = moves.entered
    leaves: list[PerPE] = []
    for row, (color, _) in enumerate(shape.channels):
        taken = forwarded[color]
        leaves.append(taken if heads.takes is None else taken & heads.takes[row])
    gone = Rows(leaves)
    came, kinds = _what_enters(tables, state, heads, moves)
    into_pe = forwarded & heads.send.has(RAMP)
    channels = state.channels
    inputs = state.inputs
    left = gone.astype(jnp.int8)
    none = jnp.int8(0)
    way_in = where(came, tables.channel_entry, none)
    way_into_pe = where(into_pe, jnp.int8(_way(shape.ramp_cycles)), none)
    moved = dataclasses.replace(
        state,
        channels=Queues(
            waiting=channels.waiting - left,
            flying=channels.flying | way_in,
            # A place is taken from when a wavelet enters the way to it, and free again a cycle
            # after it left. So what is let in never overflows. That is why capacities include a
            # place for each cycle of the way (`tables.py`).
            held=channels.held - left + came.astype(jnp.int8),
        ),
        inputs=Queues(
            # What the datapath took has been counted by `exchange` already.
            waiting=inputs.waiting,
            flying=inputs.flying | way_into_pe,
            held=inputs.held + into_pe.astype(jnp.int8),
        ),
        outputs=state.outputs - entered.astype(jnp.int8),
    )
    if shape.link_pairs:
        ahead = turns.after(state.link_ahead, turns.as_set(list(forwarded)))
        moved = dataclasses.replace(moved, link_ahead=ahead)
    if shape.ramp_pairs:
        ahead = turns.after(state.ramp_ahead, turns.as_set(list(entered)))
        moved = dataclasses.replace(moved, ramp_ahead=ahead)
    if not shape.control:
        return moved
    channel_kinds = _kinds_after(state, gone, came, kinds)
    output_kinds = where(entered, state.output_kinds >> KIND_BITS, state.output_kinds)
    return dataclasses.replace(
        moved,
        channel_kinds=channel_kinds,
        output_kinds=output_kinds,
        position=_positions_after(tables, state, gone),
    )


def _way(cycles: int) -> int:
    """The bit of `Queues.flying` that entering a way of some cycles sets."""
    return 1 << (cycles - 1)


def _what_enters(
    tables: Tables,
    state: Live,
    heads: Heads,
    moves: Moves,
) -> tuple[Rows, Rows]:
    """Per channel: whether a wavelet enters its way, and which kind it is."""
    shape = tables.shape
    sent, kind_sent = _sent(tables, heads, moves.forwarded)
    enters: list[PerPE] = []
    kinds: list[PerPE] = []
    for color, direction in shape.channels:
        # A static color has one channel for whichever side it takes, and only that side ever sends
        # to it: `encoding/checks.py` refuses what a router does not hear.
        came = jnp.zeros(shape.pes, bool)
        kind = jnp.zeros(shape.pes, jnp.int32)
        for side in LINKS:
            if direction in (NONE, side) and color in sent[side]:
                from_there = sent[side][color] == 1
                came |= from_there
                if shape.control:
                    kind |= jnp.where(from_there, kind_sent[side][color], 0)
        if direction in (NONE, RAMP):
            from_pe = moves.entered[color]
            came |= from_pe
            if shape.control:
                head = state.output_kinds[color] & KIND_MASK
                kind = jnp.where(from_pe, head, kind)
        enters.append(came)
        kinds.append(kind)
    return Rows(enters), Rows(kinds)


def _sent(
    tables: Tables,
    heads: Heads,
    forwarded: Rows,
) -> tuple[dict[int, ByColor], dict[int, ByColor]]:
    """By side and color, what each router's neighbour there sends it, and the wavelets' kinds."""
    shape = tables.shape
    sent: dict[int, ByColor] = {}
    kinds: dict[int, ByColor] = {}
    for side in LINKS:
        towards = OPPOSITE[side]
        leaving: ByColor = {}
        for color in range(shape.colors):
            if towards in shape.sides[color]:
                leaving[color] = forwarded[color] & has(heads.send[color], towards)
        sent[side] = _from_neighbours(tables, leaving, side)
        if shape.control:
            of_heads = {color: heads.kind[color] for color in leaving}
            kinds[side] = _from_neighbours(tables, of_heads, side, KIND_BITS)
    return sent, kinds


def _kinds_after(state: Live, gone: Rows, came: Rows, kinds: Rows) -> Rows:
    """Each channel's list of kinds, the head lowest: what left is shifted out, what came put last.

    Data, control, data is 0b000100. When the head leaves and another control wavelet comes it is
    0b010001, that is control, data, control.
    """
    # Two bits a wavelet in 32: kinds are kept of those in flight as well, so a place in the list is
    # one of `held`.
    after = where(gone, state.channel_kinds >> KIND_BITS, state.channel_kinds)
    place = state.channels.held - gone.astype(jnp.int8)
    shift = place.astype(jnp.int32) << (KIND_BITS - 1)
    return after | where(came, kinds << shift, 0)


def _positions_after(tables: Tables, state: Live, gone: Rows) -> Rows:
    """The switches' positions after control wavelets have passed."""
    shape = tables.shape
    if not len(state.position):
        return state.position
    rows: list[PerPE] = []
    way_from_ramp = _way(shape.ramp_cycles)
    for color in range(shape.colors):
        acts = jnp.zeros_like(gone[0])
        for row in shape.channels_of(color):
            _, direction = shape.channels[row]
            if direction == NONE:
                # Of a static color, whose routers have one position and so nowhere to turn to:
                # where a hop takes as long as the ramp this is true of all, and does no harm.
                from_ramp = tables.channel_entry[row] == way_from_ramp
            else:
                from_ramp = direction == RAMP
            # The kind is that of the head, which has just left if `gone`.
            kind = state.channel_kinds[row] & KIND_MASK
            own = (kind == ops.OWN) & from_ramp
            acts |= gone[row] & (own | (kind == ops.ALL))
        position = state.position[color]
        # At its last position a switch stays.
        further = position < tables.last[color]
        moves = acts & tables.heeds[color] & further
        rows.append(position + moves.astype(jnp.int8))
    return Rows(rows)


def crossed(heads: Heads, forwarded: Rows) -> Rows:
    """`int32[5, PEs]`: wavelets that left each router in each direction."""
    sums: list[PerPE] = []
    for direction in PORTS:
        crosses = forwarded & heads.send.has(direction)
        sums.append(crosses.astype(jnp.int32).sum())
    return Rows(sums)


__all__ = [
    "Heads",
    "Moves",
    "arrive",
    "crossed",
    "first_clash",
    "flying",
    "forward",
    "heads",
    "leave_queues",
    "move",
    "turns_taken",
]
