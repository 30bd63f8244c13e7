"""Where the wavelets of static colors go: whose they are at every router, and over how many hops.

A color is static if each router takes it from one direction and has one position: then every
router hears one sender at most, and walking downstream from all senders at once finds them all.
PEs are flat indices, `y * width + x`.

Five PEs in a row, where PE 0 sends to the east, PE 2 passes the stream on and takes it too, and PE
4 is its end:

    PE          0     1     2     3     4
    receives    ramp  west  west  west  west
    sends       east  east  both  east  ramp
    source      0     0     0     0     0
    hops        0     1     2     3     4
    tail        -     -     0     1     2      links since PE 2, where the ways part
"""

import dataclasses

import numpy as np

from emu.wse.fabric import ops
from emu.wse.fabric.arrays import PerPE, PEs
from emu.wse.fabric.directions import (
    DIRECTIONS,
    LINKS,
    OPPOSITE,
    RAMP,
    flat_steps,
    has,
    in_bits,
    several,
)
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
      hops: `int32[PEs]`, links from that PE's router to this one.
      tail: `int32[PEs]`, links since the last router that sends them more than one way, this one
        included; NONE if there is none.
      send: `uint8[PEs]`, directions in which the router sends, as bits; 0 where nothing passes.
      receivers: `int32[receivers]`, PEs into whose ramps it delivers, by source.
      first: `int64[PEs + 1]`, where each source's part of `receivers` begins.
    """

    name: str
    color: Color
    source: PerPE
    hops: PerPE
    tail: PerPE
    send: PerPE
    receivers: PEs
    first: np.ndarray

    def heard_by(self, senders: PEs) -> PEs:
        """PEs that receive from any of `senders`."""
        # Two senders whose receivers lie at places 0 to 1 and 3 to 5: begin 0 3, count 2 3, written
        # 0 2, skipped 0 0 1 1 1, and 0 1 2 3 4 plus that is 0 1 3 4 5.
        begin = self.first[senders]
        count = self.first[senders + 1] - begin
        # Receivers begin, begin + 1, ... of each sender, for all senders at once.
        written = np.cumsum(count) - count
        skipped = np.repeat(begin - written, count)
        return self.receivers[np.arange(len(skipped)) + skipped]


def static_routes(encoded: Encoded) -> dict[int, Routes]:
    """The routes of every static color that has any, by color index.

    Raises:
      FabricError: a route that turns in a circle.
    """
    routes = {}
    for name, color in encoded.program.colors.items():
        if is_static(color):
            routes[color.index] = _routes(encoded, name, color)
    return routes


def _routes(encoded: Encoded, name: str, color: Color) -> Routes:
    receive = color.receive[0].reshape(-1)
    send = color.send[0].reshape(-1)
    pes = len(receive)
    source = np.full(pes, NONE, np.int32)
    # A route may pass every PE of a wafer, 883,350 of them.
    hops = np.zeros(pes, np.int32)
    tail = np.full(pes, NONE, np.int32)
    # All senders of the color at once; their streams never meet, as each router hears one side.
    front = np.flatnonzero(has(receive, RAMP)).astype(np.int32)
    source[front] = front
    # A sender's own router may be where the ways part.
    tail[front[several(send[front])]] = 0
    step = flat_steps(encoded.program.width)
    # A router hears one side, so it is reached once at most: as many rounds as the longest route
    # has links, each over all senders.
    while len(front):
        front = _walk(front, send, step, source, hops, tail)
    _check_circles(encoded, name, receive, send, source)
    passed = source != NONE
    receivers = np.flatnonzero(has(send, RAMP) & passed).astype(np.int32)
    # By source, so that all who hear one sender are a slice.
    receivers = receivers[np.argsort(source[receivers], kind="stable")]
    first = np.zeros(pes + 1, np.int64)
    receivers_of = np.bincount(source[receivers], minlength=pes)
    np.cumsum(receivers_of, out=first[1:])
    return Routes(
        name=name,
        color=color,
        source=source,
        hops=hops,
        tail=tail,
        # Routes laid for senders that are not there must not look like receivers, or like forks.
        send=np.where(passed, send, 0).astype(np.uint8),
        receivers=receivers,
        first=first,
    )


def _walk(
    front: PEs,
    send: PerPE,
    step: tuple[int, ...],
    source: PerPE,
    hops: PerPE,
    tail: PerPE,
) -> PEs:
    """One link downstream from routers `front`; returns the routers reached."""
    reached: list[PEs] = []
    for side in LINKS:
        here = front[has(send[front], side)]
        there = here + np.int32(step[side])
        source[there] = source[here]
        hops[there] = hops[here] + 1
        counted = np.where(tail[here] == NONE, NONE, tail[here] + 1)
        tail[there] = np.where(several(send[there]), 0, counted)
        reached.append(there)
    return np.concatenate(reached)


def _check_circles(
    encoded: Encoded,
    name: str,
    receive: PerPE,
    send: PerPE,
    source: PerPE,
) -> None:
    """A router that no sender reaches is fed from nowhere, or from a circle.

    Routers that none of those in question feeds drop out, until all that are left feed each other.
    """
    step = flat_steps(encoded.program.width)
    left = np.flatnonzero((source == NONE) & (receive != 0))
    while len(left):
        fed = np.zeros(len(source), bool)
        for side in LINKS:
            sends = has(send[left], side)
            there = left[sends] + step[side]
            hears = has(receive[there], OPPOSITE[side])
            fed[there[hears]] = True
        kept = left[fed[left]]
        if len(kept) == len(left):
            at = encoded.program.coordinates(left[0])
            raise FabricError(
                f"color '{name}': its route turns in a circle through PE {at}; one of "
                "its routers must receive from ramp"
            )
        left = kept


# --- operations against routes ---


def check_operations(encoded: Encoded, routes: dict[int, Routes]) -> None:
    """Every operation's color must come from, or lead to, a ramp at each PE that runs it.

    Raises:
      FabricError: with the PE, the color and the task's line.
    """
    entries = np.unique(encoded.entry[encoded.entry != NONE]).tolist()
    ends = [*entries, len(encoded.instructions)][1:]
    for first, end in zip(entries, ends, strict=True):
        pes = np.flatnonzero((encoded.entry == first).any(axis=0))
        for instruction in encoded.instructions[first:end]:
            _check_widths(instruction)
            if instruction.outward in routes:
                _check_send(encoded, instruction, pes, routes[instruction.outward])
            if instruction.inward in routes:
                _check_receive(encoded, instruction, pes, routes[instruction.inward])


def _check_widths(instruction: Instruction) -> None:
    op = instruction.op
    if not isinstance(op, ops.Vector) or op.inward is None or op.outward is None:
        return
    taken = op.wavelets_of(op.inward)
    put = op.wavelets_of(op.outward)
    if taken != put:
        raise FabricError(
            f"an operation takes {taken} wavelets and sends {put}, must be as many; "
            "give both streams one dtype, or go through memory",
            instruction.where,
        )


def _check_send(
    encoded: Encoded,
    instruction: Instruction,
    pes: PEs,
    routes: Routes,
) -> None:
    mute = pes[routes.source[pes] != pes]
    if not len(mute):
        return
    pe = mute[0]
    receive = routes.color.receive[0].reshape(-1)
    sides = [DIRECTIONS[side] for side in in_bits(int(receive[pe]))]
    heard = sides[0] if sides else "nowhere"
    raise FabricError(
        f"color '{routes.name}': PE {encoded.program.coordinates(pe)} sends on it, but its "
        f"router receives from {heard}, must be from ramp",
        instruction.where,
    )


def _check_receive(
    encoded: Encoded,
    instruction: Instruction,
    pes: PEs,
    routes: Routes,
) -> None:
    deaf = pes[~has(routes.send[pes], RAMP)]
    if not len(deaf):
        return
    pe = deaf[0]
    why = "passes it on" if routes.send[pe] else "hears no sender"
    raise FabricError(
        f"color '{routes.name}': PE {encoded.program.coordinates(pe)} receives on it, but its "
        f"router {why}; it must send what a sender's route brings to ramp",
        instruction.where,
    )


__all__ = ["Routes", "check_operations", "static_routes"]
