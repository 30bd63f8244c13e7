"""A cycle of every router: what arrives, what may leave, who gets the link, and where it goes."""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from emu.wse.fabric import ops
from emu.wse.fabric.cycles import counts, sets, turns
from emu.wse.fabric.cycles.counts import Counts
from emu.wse.fabric.cycles.fields import KIND_BITS
from emu.wse.fabric.cycles.machine import NEVER, Kinds, Live, Queues
from emu.wse.fabric.cycles.rows import NO_ROWS, PerPE, Rows, unfused
from emu.wse.fabric.cycles.shape import Shape
from emu.wse.fabric.cycles.tables import ByPosition, Tables
from emu.wse.fabric.directions import LINKS, OPPOSITE, PORTS, RAMP, flat_steps
from emu.wse.fabric.encoding.instructions import NONE

ByHearing = Mapping[int, PerPE]
"""A set of colors for each of `Shape.hearings`."""


@dataclasses.dataclass(frozen=True)
class Heads:
    """What each router could forward in a cycle, as sets of colors.

    Attributes:
      receive, send: by direction, in the switch's position; a control wavelet is not sent into a
        ramp.
      free: those whose channel has room.
      takes: those whose head is taken from the channel of a direction.
      has: those that have a head at all.
      kind: for each bit of a kind, the heads in whose it is set; nothing if all wavelets are data.
    """

    receive: Rows
    send: Rows
    free: ByHearing
    takes: ByHearing
    has: PerPE
    kind: Rows


@dataclasses.dataclass(frozen=True)
class Moves:
    """Which wavelets move in a cycle, as sets of colors.

    Attributes:
      forwarded: each router's heads.
      entered: from the PE's output queue into its router.
    """

    forwarded: PerPE
    entered: PerPE


# --- arrivals ---


def arrive(state: Live) -> tuple[Live, list[PerPE]]:
    """Wavelets in flight come a cycle nearer; those that arrive are counted in their queue.

    Returns:
      the state, and what arrived in the channels of each direction and, last, in the PEs' queues.
    """
    came = [queues.flying[0] for queues in (*state.channels, state.inputs)]
    channels = tuple(map(_nearer, state.channels))
    inputs = _nearer(state.inputs)
    return dataclasses.replace(state, channels=channels, inputs=inputs), came


def flying(state: Live) -> PerPE:
    """Where any wavelet is on a link or a ramp."""
    ways = [queues.flying.any() for queues in (*state.channels, state.inputs)]
    return sets.some(sets.union(ways))


def _nearer(queues: Queues) -> Queues:
    arrived, *rest = queues.flying
    return Queues(
        waiting=counts.plus(queues.waiting, [arrived]),
        flying=Rows([*rest, jnp.zeros_like(arrived)]),
        held=queues.held,
    )


def first_clash(
    tables: Tables, state: Live, came: list[PerPE], now: jax.Array
) -> jax.Array:
    """The first cycle in which a merging router had two arrivals on one color, PE and color."""
    shape = tables.shape
    found = state.clash
    if shape.one_channel_each:
        return found
    receive = _in_position(state, tables.receive)
    landed = twice = jnp.zeros_like(receive[0])
    for direction, arrived in zip(shape.hearings, came[:-1], strict=True):
        if direction != NONE:
            # What comes from a side that the position does not take is parked, and meets nothing.
            lands = arrived & receive[direction]
            twice |= landed & lands
            landed |= lands
    colors = sets.anywhere(twice)
    lowest = colors & -colors
    pe = jnp.argmax(sets.some(twice & lowest))
    first = jnp.stack([now, pe.astype(jnp.int32), sets.number_of(lowest)])
    # Only the first is kept: what follows from it would be told as one more fault.
    new = (found[0] == NEVER) & (colors != 0)
    return jnp.where(new, first, found)


# --- decisions, all of the state at the start of the cycle ---


def heads(tables: Tables, state: Live) -> Heads:
    """What each router could forward: per color its head, where from, and where to."""
    shape = tables.shape
    receive = NO_ROWS
    if not shape.one_channel_each:
        receive = _in_position(state, tables.receive)
    send = _in_position(state, tables.send)
    there = jnp.zeros_like(send[0])
    takes: dict[int, PerPE] = {}
    free: dict[int, PerPE] = {}
    channels = zip(shape.hearings, state.channels, tables.channel_capacity, strict=True)
    for direction, queues, capacity in channels:
        waits = counts.some(queues.waiting)
        if direction != NONE:
            # Two heads may wait together although they came in different cycles, as no word moved
            # on between. Then the order of directions decides: north, east, south, west, ramp.
            # Whose turn it was is logged (`turns_taken`), as values depend on it.
            waits &= receive[direction] & ~there
        takes[direction] = waits
        there |= waits
        free[direction] = counts.differ(queues.held, capacity)
    kind = NO_ROWS
    if shape.control:
        kind = _kinds_of_heads(shape, state, takes)
        into_pe = send[RAMP] & ~kind.any()
        send = Rows([*send[:RAMP], into_pe])
    return Heads(
        receive=receive, send=send, free=free, takes=takes, has=there, kind=kind
    )


def _in_position(state: Live, table: ByPosition) -> Rows:
    """The entries of a table at the routers' positions."""
    if len(table) == 1:
        return table[0]
    by_side: list[PerPE] = []
    at = [counts.are(state.position, position) for position in range(len(table))]
    for side in PORTS:
        entries = [row[side] & there for row, there in zip(table, at, strict=True)]
        by_side.append(sets.union(entries))
    return Rows(by_side)


def _kinds_of_heads(shape: Shape, state: Live, takes: ByHearing) -> Rows:
    rows: list[PerPE] = []
    for bit in range(KIND_BITS):
        taken: list[PerPE] = []
        for direction, kinds in zip(shape.hearings, state.channel_kinds, strict=True):
            taken.append(takes[direction] & kinds[bit][0])
        rows.append(sets.union(taken))
    return Rows(rows)


def forward(tables: Tables, state: Live, heads: Heads, inputs_held: Counts) -> PerPE:
    """Which colors leave each router: room wherever they go, and longest without the links.

    Args:
      inputs_held: of the PEs' input queues, at the start of the cycle.
    """
    shape = tables.shape
    can = heads.has
    for side in shape.used_sides:
        if side == RAMP:
            # `held` counts what is on the ramp too, so a wavelet that is let in always finds its
            # place.
            room = counts.differ(inputs_held, tables.input_capacity)
        else:
            # A wavelet sent to the east enters the eastern neighbour's channel that hears the west.
            room = _from_neighbours(tables, _heard(heads.free, OPPOSITE[side]), side)
        # All ways must be free: a wavelet that goes two ways goes both at once.
        can &= ~heads.send[side] | room
    if not len(state.link_served):
        return can
    # Colors compete where their heads have any direction in common, the ramp included.
    contests = [can & heads.send[side] for side in shape.used_sides]
    return can & ~turns.losers(contests, state.link_served)


def _heard(by_hearing: ByHearing, direction: int) -> PerPE:
    """Of all colors that may be heard from a direction, by channels of it or of any."""
    found = [by_hearing[heard] for heard in (NONE, direction) if heard in by_hearing]
    return sets.union(found)


def leave_queues(tables: Tables, state: Live, heads: Heads) -> PerPE:
    """Which colors' output queues hand a wavelet to their router."""
    can = counts.some(state.outputs) & _heard(heads.free, RAMP)
    if not len(state.ramp_served):
        return can
    return can & ~turns.losers([can], state.ramp_served)


def turns_taken(
    shape: Shape, heads: Heads, forwarded: PerPE, colors: jax.Array, pes: jax.Array
) -> jax.Array:
    """`int8`: whose turn it was at some routers that merge: a direction, or NONE.

    A router that takes one side has no turns to tell, even of a color that merges elsewhere.
    """

    def of(members: PerPE) -> jax.Array:
        return members[pes] >> colors.astype(members.dtype) & 1

    received = sum(of(row).astype(jnp.int8) for row in heads.receive)
    tells = (of(forwarded) == 1) & (received > 1)
    turn = jnp.full(pes.shape, NONE, jnp.int8)
    for direction in shape.hearings:
        if direction != NONE:
            takes = tells & (of(heads.takes[direction]) == 1)
            turn = jnp.where(takes, jnp.int8(direction), turn)
    return turn


# --- moves ---


def _from_neighbours(tables: Tables, members: PerPE, side: int) -> PerPE:
    """Each PE's neighbour's set on a side.

    What wraps round the edge is never sent, as no route leaves the grid.
    """
    # The neighbour's entry lies a step further on, so all move a step back.
    shift = -flat_steps(tables.shape.width)[side]
    return unfused(tables.on, lambda array: jnp.roll(array, shift), members)


def move(
    tables: Tables,
    state: Live,
    heads: Heads,
    moves: Moves,
    now: jax.Array,
) -> Live:
    """Wavelets leave their queues and enter what is next."""
    shape = tables.shape
    forwarded = moves.forwarded
    entered = moves.entered
    gone = {hearing: heads.takes[hearing] & forwarded for hearing in shape.hearings}
    sent, kinds_sent = _sent(tables, heads, forwarded)
    channels: list[Queues] = []
    kinds: list[Kinds] = []
    for place, hearing in enumerate(shape.hearings):
        entering = _entering(shape, hearing, sent, entered)
        queues = state.channels[place]
        channels.append(_after(shape, queues, gone[hearing], entering))
        if shape.control:
            came_kinds = _kinds_that_enter(state, entering, kinds_sent)
            came = sets.union(list(entering.values()))
            left = counts.minus(queues.held, [gone[hearing]])
            of_channels = state.channel_kinds[place]
            kinds.append(
                _kinds_after(of_channels, left, gone[hearing], came, came_kinds)
            )
    into_pe = forwarded & heads.send[RAMP]
    # What the datapath took has been counted by `exchange` already.
    inputs = _after(shape, state.inputs, None, {RAMP: into_pe})
    moved = dataclasses.replace(
        state,
        channels=tuple(channels),
        inputs=inputs,
        outputs=counts.minus(state.outputs, [entered]),
    )
    if len(state.link_served):
        served = turns.after(state.link_served, forwarded, now)
        moved = dataclasses.replace(moved, link_served=served)
    if len(state.ramp_served):
        served = turns.after(state.ramp_served, entered, now)
        moved = dataclasses.replace(moved, ramp_served=served)
    if not shape.control:
        return moved
    output_kinds = tuple(_without_head(kinds, entered) for kinds in state.output_kinds)
    return dataclasses.replace(
        moved,
        channel_kinds=tuple(kinds),
        output_kinds=output_kinds,
        position=_positions_after(tables, state, gone),
    )


def _entering(
    shape: Shape, hearing: int, sent: Mapping[int, PerPE], entered: PerPE
) -> dict[int, PerPE]:
    """What enters the ways to the channels of a direction, by the side that it comes from."""
    # A static color has one channel for whichever side it takes, and only that side ever sends to
    # it: `encoding/checks.py` refuses what a router does not hear.
    hears = entered.dtype.type(shape.hear(hearing))
    came = {**sent, RAMP: entered}
    return {
        side: members & hears
        for side, members in came.items()
        if hearing in (NONE, side)
    }


def _after(
    shape: Shape, queues: Queues, gone: PerPE | None, entering: Mapping[int, PerPE]
) -> Queues:
    """Queues from which some heads went, and whose ways some wavelets entered.

    A place is taken from when a wavelet enters the way to it, and free again a cycle after it left.
    So what is let in never overflows. That is why capacities include a place for each cycle of the
    way (`tables.py`).
    """
    waiting, held = queues.waiting, queues.held
    if gone is not None:
        waiting = counts.minus(waiting, [gone])
        held = counts.minus(held, [gone])
    if not entering:
        return Queues(waiting=waiting, flying=queues.flying, held=held)
    flying = list(queues.flying)
    for side, members in entering.items():
        cycles = shape.ramp_cycles if side == RAMP else shape.hop_cycles
        flying[cycles - 1] |= members
    came = sets.union(list(entering.values()))
    return Queues(waiting=waiting, flying=Rows(flying), held=counts.plus(held, [came]))


def _sent(
    tables: Tables, heads: Heads, forwarded: PerPE
) -> tuple[dict[int, PerPE], dict[int, list[PerPE]]]:
    """By side, what each router's neighbour there sends it, and of it the bits of the kinds."""
    sent: dict[int, PerPE] = {}
    kinds: dict[int, list[PerPE]] = {}
    for side in LINKS:
        towards = OPPOSITE[side]
        if towards in tables.shape.used_sides:
            leaving = forwarded & heads.send[towards]
            sent[side] = _from_neighbours(tables, leaving, side)
            of_kinds = [leaving & kind for kind in heads.kind]
            kinds[side] = [_from_neighbours(tables, kind, side) for kind in of_kinds]
    return sent, kinds


def _kinds_that_enter(
    state: Live,
    entering: Mapping[int, PerPE],
    kinds_sent: Mapping[int, list[PerPE]],
) -> list[PerPE]:
    """For each bit of a kind the colors of which one enters in whose it is set."""
    found: list[PerPE] = []
    for bit, of_outputs in enumerate(state.output_kinds):
        kinds = {side: sent[bit] for side, sent in kinds_sent.items()}
        kinds[RAMP] = of_outputs[0]
        came = [members & kinds[side] for side, members in entering.items()]
        found.append(sets.union(came))
    return found


def _kinds_after(
    kinds: Kinds,
    left: Counts,
    gone: PerPE,
    came: PerPE,
    came_kinds: list[PerPE],
) -> Kinds:
    """The kinds behind what went move up, and what came is put last, behind those `left`.

    Kinds are kept of wavelets in flight as well, so these are counted too.
    """
    after: list[Rows] = []
    last = [came & counts.are(left, place) for place in range(len(kinds[0]))]
    for bits, entering in zip(kinds, came_kinds, strict=True):
        rows = zip(_without_head(bits, gone), last, strict=True)
        after.append(Rows(row | (here & entering) for row, here in rows))
    return tuple(after)


def _without_head(places: Rows, gone: PerPE) -> Rows:
    """One bit of the kinds in a queue, after some heads went."""
    behind = [*places[1:], jnp.zeros_like(gone)]
    return Rows(
        (row & ~gone) | (after & gone)
        for row, after in zip(places, behind, strict=True)
    )


def _positions_after(tables: Tables, state: Live, gone: ByHearing) -> Counts:
    """The switches' positions after control wavelets have passed."""
    shape = tables.shape
    if not len(state.position):
        return state.position
    acts = jnp.zeros_like(tables.heeds)
    for hearing, kinds in zip(shape.hearings, state.channel_kinds, strict=True):
        # Static colors have one position and so nowhere to turn to.
        if hearing == NONE:
            continue
        # The kinds are those of the heads, which have just left if `gone`.
        head = Rows(bits[0] for bits in kinds)
        turned = [ops.ALL, ops.OWN] if hearing == RAMP else [ops.ALL]
        for kind in turned:
            acts |= gone[hearing] & counts.are(head, kind)
    # At its last position a switch stays.
    further = counts.differ(state.position, tables.last)
    return counts.plus(state.position, [acts & tables.heeds & further])


__all__ = [
    "Heads",
    "Moves",
    "arrive",
    "first_clash",
    "flying",
    "forward",
    "heads",
    "leave_queues",
    "move",
    "turns_taken",
]
