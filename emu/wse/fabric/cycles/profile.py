"""What every PE did in each cycle, and what every link carried: counters of the cycle stepper.

A cycle of a PE is one of `STATES`, so these add up to all cycles. `OVERLAPPING` counts what happens
within them, under the names that the vendor's traces give stalls.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from emu.wse.fabric.cycles import counts, fields, sets, tally
from emu.wse.fabric.cycles.cycle import Seen
from emu.wse.fabric.cycles.rows import PerPE, Rows
from emu.wse.fabric.cycles.shape import Shape
from emu.wse.fabric.cycles.tables import Tables
from emu.wse.fabric.cycles.tally import Tally
from emu.wse.fabric.directions import PORTS, RAMP
from emu.wse.fabric.encoding.instructions import NONE

STATES = ("datapath", "set-up", "code", "waiting for wavelets", "queue full", "idle")
OVERLAPPING = ("bank conflict", "datapath busy")
COUNTERS = STATES + OVERLAPPING


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Counting:
    """Counts of all cycles so far.

    Attributes:
      pes: of `COUNTERS`.
      forwarded: of the colors that left each router, for each position of its switch the data and,
        if any are sent, the control wavelets: from these follow the directions.
    """

    pes: Tally
    forwarded: tuple[Tally, ...]


@dataclasses.dataclass(frozen=True)
class Counters:
    """What was counted.

    Attributes:
      pes: `int32[COUNTERS, PEs]`, cycles of each kind.
      links: `int64[5, PEs]`, wavelets that left each router in each direction.
      colors: `int64[colors, 5]`, the same over all PEs, by color and direction.
    """

    pes: np.ndarray
    links: np.ndarray
    colors: np.ndarray


def no_counts(shape: Shape) -> Counting:
    """All zero."""
    of_colors = jnp.zeros(shape.pes, sets.dtype_for(shape.colors))
    of_counters = jnp.zeros(shape.pes, sets.dtype_for(len(COUNTERS)))
    kinds = 2 if shape.control else 1
    ways = kinds * max(shape.positions, default=0)
    forwarded = [tally.nothing(shape.colors, of_colors) for _ in range(ways)]
    return Counting(
        pes=tally.nothing(len(COUNTERS), of_counters), forwarded=tuple(forwarded)
    )


def count(shape: Shape, counting: Counting, seen: Seen, now: jax.Array) -> Counting:
    """The counters after one more cycle."""
    happened = sets.of(list(_of_pes(shape, seen, now)))
    ways = [] if seen.moves is None else _ways(shape, seen)
    forwarded = [
        tally.add(before, members, now)
        for before, members in zip(counting.forwarded, ways, strict=True)
    ]
    return Counting(
        pes=tally.add(counting.pes, happened, now), forwarded=tuple(forwarded)
    )


def _ways(shape: Shape, seen: Seen) -> list[PerPE]:
    """The colors that left each router, as `Counting.forwarded` has them."""
    assert seen.heads is not None and seen.moves is not None
    by_kind = [seen.moves.forwarded]
    if shape.control:
        control = seen.heads.kind.any()
        by_kind = [by_kind[0] & ~control, by_kind[0] & control]
    if max(shape.positions) == 1:
        return by_kind
    positions = [
        counts.are(seen.start.position, position)
        for position in range(max(shape.positions))
    ]
    return [members & there for there in positions for members in by_kind]


def _of_pes(shape: Shape, seen: Seen, now: jax.Array) -> Rows:
    """`bool[COUNTERS, PEs]`: which of them happened."""
    before = seen.before
    issues = seen.issues
    issued = issues.issued
    threads = before.threads
    nothing = jnp.zeros(shape.pes, bool)
    later = threads.wake > now
    setting_up = (threads.on & later).any()
    waits = before.wake > now
    code = (seen.acts.code != NONE) | (waits & ~threads.on[0])
    starved = full = nothing
    if shape.colors:
        starved = issues.starved.any()
        full = issues.full.any()
    # Of what a PE's threads do at once, the first of these counts.
    states: list[PerPE] = []
    # A PE whose microthread issues while its main thread waits for words spends the cycle on the
    # datapath: busy with anything, it is not counted as waiting. So the states add up to all
    # cycles.
    free = ~nothing
    for happens in (issued.any(), setting_up, code, starved, full):
        states.append(free & happens)
        free = free & ~happens
    conflict = issued & is_second_issue(threads.completion, threads.left)
    overlapping = (conflict.any(), issues.lost.any())
    return Rows([*states, free, *overlapping])


def is_second_issue(completion: Rows, left: Rows) -> Rows:
    """Whether an issue is the one that a bank conflict costs its element: every second one.

    Such an operation has an even number of issues, so an odd number of them is left then.
    """
    conflicts = fields.CONFLICT.held(completion).same(1)
    return conflicts & (left & 1).same(1)


def settled(counting: Counting) -> Counting:
    """With all counts in the tallies' totals; due before their bits are full."""
    return jax.tree.map(
        tally.settled, counting, is_leaf=lambda leaf: isinstance(leaf, Tally)
    )


_settled = jax.jit(settled)


def on_host(shape: Shape, tables: Tables, counting: Counting) -> Counters:
    """What was counted, in NumPy arrays."""
    counting = _settled(counting)
    links = np.zeros((len(PORTS), shape.pes), np.int64)
    colors = np.zeros((shape.colors, len(PORTS)), np.int64)
    kinds = 2 if shape.control else 1
    for number, forwarded in enumerate(counting.forwarded):
        position, kind = divmod(number, kinds)
        left = np.asarray(forwarded.totals)
        for direction in PORTS:
            # A control wavelet is not sent into a ramp.
            if kind and direction == RAMP:
                continue
            send = np.asarray(tables.send[position][direction])
            crossed = left * sets.unpacked(send, shape.colors)
            links[direction] += crossed.sum(axis=0)
            colors[:, direction] += crossed.sum(axis=1)
    pes = np.asarray(counting.pes.totals)
    return Counters(pes=pes, links=links, colors=colors)


def by_color(shape: Shape, counters: Counters) -> dict[tuple[int, int], int]:
    """Wavelets that crossed links, over all PEs, by color index and direction."""
    return {
        (color, side): int(counters.colors[color, side])
        for color, sides in enumerate(shape.sides)
        for side in sides
    }


__all__ = [
    "COUNTERS",
    "Counters",
    "Counting",
    "OVERLAPPING",
    "STATES",
    "by_color",
    "count",
    "is_second_issue",
    "no_counts",
    "on_host",
    "settled",
]
