"""Where the wavelets of static colors go: whose they are at every router, and over how many hops.

A color is static if each router takes it from one direction and has one position: then every
router hears one sender at most, and walking downstream from all senders at once finds them all.
PEs are flat indices, `n = y * width + x`.
"""

import dataclasses

import numpy as np

from emu.wse.fabric.directions import DIRECTIONS, OPPOSITE, RAMP
from emu.wse.fabric.encoding.encode import Encoded
from emu.wse.fabric.encoding.instructions import NONE, Instruction
from emu.wse.fabric.errors import FabricError
from emu.wse.fabric.program import Color, is_static


@dataclasses.dataclass(frozen=True)
class Routes:
    """One static color over all PEs.

    Attributes:
      name, color: whose routes.
      source: `int32[PEs]`, the PE whose wavelets pass this router, or NONE.
      hops: `int16[PEs]`, links from that PE's router to this one.
      tail: `int16[PEs]`, links since the last router that sends them more than one way, this one
        included; NONE if there is none.
      send: `uint8[PEs]`, directions in which the router sends, as bits; 0 where nothing passes.
      receivers: `int32[receivers]`, PEs into whose ramps it delivers, by source.
      first: `int64[PEs + 1]`, where each source's part of `receivers` begins.
    """

    name: str
    color: Color
    source: np.ndarray
    hops: np.ndarray
    tail: np.ndarray
    send: np.ndarray
    receivers: np.ndarray
    first: np.ndarray

    def heard_by(self, senders: np.ndarray) -> np.ndarray:
        """PEs that receive from any of `senders`."""
        begin = self.first[senders]
        count = self.first[senders + 1] - begin
        skipped = np.repeat(begin - (np.cumsum(count) - count), count)
        return self.receivers[np.arange(len(skipped)) + skipped]


def steps(width: int) -> tuple[int, int, int, int]:
    """What each direction adds to a flat index."""
    return -width, 1, width, -1


def place(encoded: Encoded, pe: int) -> str:
    """`PE (x=3, y=0)` of a flat index."""
    y, x = divmod(int(pe), encoded.program.width)
    return f"PE (x={x}, y={y})"


def static_routes(encoded: Encoded) -> dict[int, Routes]:
    """The routes of every static color that has any, by color index.

    Raises:
      FabricError: a route that turns in a circle.
    """
    colors = encoded.program.colors.items()
    return {c.index: _routes(encoded, name, c) for name, c in colors if is_static(c)}


def _routes(encoded: Encoded, name: str, color: Color) -> Routes:
    receive = color.receive[0].reshape(-1)
    send = color.send[0].reshape(-1)
    n = len(receive)
    source = np.full(n, NONE, np.int32)
    hops = np.zeros(n, np.int16)
    tail = np.full(n, NONE, np.int16)
    at = np.flatnonzero(receive >> RAMP & 1).astype(np.int32)
    source[at] = at
    tail[at[_branches(send[at])]] = 0
    while len(at):
        at = _walk(at, send, steps(encoded.program.width), source, hops, tail)
    _check_circles(encoded, name, receive, send, source)
    passed = source != NONE
    into = np.flatnonzero((send >> RAMP & 1).astype(bool) & passed).astype(np.int32)
    into = into[np.argsort(source[into], kind="stable")]
    first = np.zeros(n + 1, np.int64)
    np.cumsum(np.bincount(source[into], minlength=n), out=first[1:])
    return Routes(
        name,
        color,
        source,
        hops,
        tail,
        np.where(passed, send, 0).astype(np.uint8),
        into,
        first,
    )


def _branches(send: np.ndarray) -> np.ndarray:
    return (send & (send - 1)) != 0


def _walk(
    at: np.ndarray,
    send: np.ndarray,
    step: tuple[int, ...],
    source: np.ndarray,
    hops: np.ndarray,
    tail: np.ndarray,
) -> np.ndarray:
    """One link downstream from routers `at`; returns the routers reached."""
    reached = []
    for side in range(RAMP):
        here = at[(send[at] >> side & 1).astype(bool)]
        there = here + np.int32(step[side])
        source[there], hops[there] = source[here], hops[here] + 1
        counted = np.where(tail[here] == NONE, NONE, tail[here] + 1)
        tail[there] = np.where(_branches(send[there]), 0, counted)
        reached.append(there)
    return np.concatenate(reached)


def _check_circles(
    encoded: Encoded,
    name: str,
    receive: np.ndarray,
    send: np.ndarray,
    source: np.ndarray,
) -> None:
    """A router that no sender reaches is fed from nowhere, or from a circle."""
    step = steps(encoded.program.width)
    left = np.flatnonzero((source == NONE) & (receive != 0))
    while len(left):
        fed = np.zeros(len(source), bool)
        for side in range(RAMP):
            here = left[(send[left] >> side & 1).astype(bool)]
            there = here + step[side]
            fed[there[(receive[there] >> OPPOSITE[side] & 1).astype(bool)]] = True
        kept = left[fed[left]]
        if len(kept) == len(left):
            at = place(encoded, left[0])
            raise FabricError(
                f"color '{name}': its route turns in a circle through {at}; one of "
                "its routers must receive from ramp"
            )
        left = kept


# --- operations against routes ---


def check_operations(encoded: Encoded, routes: dict[int, Routes]) -> None:
    """Every operation's color must come from, or lead to, a ramp at each PE that runs it.

    Raises:
      FabricError: with the PE, the color and the task's line.
    """
    starts = [
        *np.unique(encoded.entry[encoded.entry != NONE]).tolist(),
        len(encoded.instructions),
    ]
    for first, stop in zip(starts, starts[1:], strict=False):
        pes = np.flatnonzero((encoded.entry == first).any(axis=0))
        for i in encoded.instructions[first:stop]:
            _check_widths(i)
            if i.outward in routes:
                _check_send(encoded, i, pes, routes[i.outward])
            if i.inward in routes:
                _check_receive(encoded, i, pes, routes[i.inward])


def _check_widths(i: Instruction) -> None:
    if NONE in (i.inward, i.outward):
        return
    op = i.op
    taken, put = op.words(op.inward), op.words(op.outward)  # type: ignore[union-attr]
    if taken != put:
        raise FabricError(
            f"an operation takes {taken} wavelets and sends {put}, must be as many; "
            "give both streams one dtype, or go through memory",
            i.where,
        )


def _check_send(encoded: Encoded, i: Instruction, pes: np.ndarray, r: Routes) -> None:
    mute = pes[r.source[pes] != pes]
    if len(mute):
        takes = int(r.color.receive[0].reshape(-1)[mute[0]])
        sides = [d for k, d in enumerate(DIRECTIONS) if takes >> k & 1]
        raise FabricError(
            f"color '{r.name}': {place(encoded, mute[0])} sends on it, but its router receives "
            f"from {sides[0] if sides else 'nowhere'}, must be from ramp",
            i.where,
        )


def _check_receive(
    encoded: Encoded, i: Instruction, pes: np.ndarray, r: Routes
) -> None:
    deaf = pes[(r.send[pes] >> RAMP & 1) == 0]
    if len(deaf):
        why = "passes it on" if r.send[deaf[0]] else "hears no sender"
        raise FabricError(
            f"color '{r.name}': {place(encoded, deaf[0])} receives on it, but its router {why}; "
            "it must send what a sender's route brings to ramp",
            i.where,
        )


__all__ = ["Routes", "check_operations", "place", "static_routes", "steps"]
