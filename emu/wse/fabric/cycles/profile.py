"""What every PE did in each cycle, and what every link carried: counters of the cycle stepper.

A cycle of a PE is one of `STATES`, so these add up to all cycles. `OVERLAPPING` counts what happens
within them, under the names that the vendor's traces give stalls.
"""

import dataclasses
from typing import Generic

import jax
import jax.numpy as jnp
import numpy as np

from emu.wse.fabric.cycles import fields, router
from emu.wse.fabric.cycles.cycle import Seen
from emu.wse.fabric.cycles.machine import Matrix, Vector
from emu.wse.fabric.cycles.rows import PerPE, Rows, zeros
from emu.wse.fabric.cycles.shape import Shape
from emu.wse.fabric.directions import PORTS, has

STATES = ("datapath", "set-up", "code", "waiting for wavelets", "queue full", "idle")
OVERLAPPING = ("bank conflict", "datapath busy")
COUNTERS = STATES + OVERLAPPING
LOW_BITS = 20  # of the counts over all PEs, which outgrow 32 bits; a wafer has fewer PEs than that


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Counters(Generic[Vector, Matrix]):
    """Counts of all cycles so far.

    Attributes:
      pes: `int32[COUNTERS, PEs]`, cycles of each kind.
      links: `int32[5, PEs]`, wavelets that left each router in each direction.
      low, high: `int32[colors' directions]`, the same over all PEs, by color and direction: the
        lowest `LOW_BITS` bits and what is above them.
    """

    pes: Matrix
    links: Matrix
    low: Vector
    high: Vector


def no_counts(shape: Shape) -> Counters[PerPE, Rows]:
    """All zero."""
    ways = len(_ways(shape))
    return Counters(
        pes=zeros(len(COUNTERS), shape.pes, jnp.int32),
        links=zeros(len(PORTS), shape.pes, jnp.int32),
        low=jnp.zeros(ways, jnp.int32),
        high=jnp.zeros(ways, jnp.int32),
    )


def count(
    shape: Shape,
    counters: Counters[PerPE, Rows],
    seen: Seen,
    now: jax.Array,
) -> Counters[PerPE, Rows]:
    """The counters after one more cycle."""
    happened = _of_pes(shape, seen, now)
    pes = counters.pes + happened.astype(jnp.int32)
    if seen.heads is None or seen.moves is None:
        return dataclasses.replace(counters, pes=pes)
    links = counters.links + router.crossed(seen.heads, seen.moves.forwarded)
    low = counters.low
    high = counters.high
    # Per link 32 bits do: a link carries one wavelet a cycle. Over all PEs they would overflow
    # after 2,400 cycles in which a wafer's 883,350 routers each forward a word, hence two halves.
    if crossed := _crossed(shape, seen):
        # 880,000 PEs a cycle fill 20 bits at most, so the sum fits 32; the carry goes to `high`.
        sums = low + jnp.stack(crossed)
        low = sums & ((1 << LOW_BITS) - 1)
        high = high + (sums >> LOW_BITS)
    return Counters(pes=pes, links=links, low=low, high=high)


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
    code = seen.due | (waits & ~threads.on[0])
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


def _crossed(shape: Shape, seen: Seen) -> list[PerPE]:
    """Wavelets that crossed links in a cycle, of each color and direction in which it sends."""
    assert seen.heads is not None and seen.moves is not None
    send = seen.heads.send
    forwarded = seen.moves.forwarded
    sums: list[PerPE] = []
    for color, direction in _ways(shape):
        crosses = forwarded[color] & has(send[color], direction)
        sums.append(crosses.sum(dtype=jnp.int32))
    return sums


def _ways(shape: Shape) -> list[tuple[int, int]]:
    """Colors and directions in which they are sent, in the order of `Counters.low`."""
    ways = []
    for color, sides in enumerate(shape.sides):
        ways += [(color, side) for side in sides]
    return ways


def by_color(
    shape: Shape, counters: Counters[np.ndarray, np.ndarray]
) -> dict[tuple[int, int], int]:
    """Wavelets that crossed links, over all PEs, by color index and direction."""
    # NumPy has 64 bits where JAX, by default, has 32.
    high = counters.high.astype(np.int64) << LOW_BITS
    total = counters.low.astype(np.int64) + high
    return dict(zip(_ways(shape), total.tolist(), strict=True))


def on_host(counters: Counters[PerPE, Rows]) -> Counters[np.ndarray, np.ndarray]:
    """The same as NumPy arrays."""
    return Counters(
        pes=np.stack([np.asarray(row) for row in counters.pes]),
        links=np.stack([np.asarray(row) for row in counters.links]),
        low=np.asarray(counters.low),
        high=np.asarray(counters.high),
    )


__all__ = [
    "COUNTERS",
    "Counters",
    "OVERLAPPING",
    "STATES",
    "by_color",
    "count",
    "is_second_issue",
    "no_counts",
    "on_host",
]
