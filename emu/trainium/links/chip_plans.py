"""Which steps a collective between chips is made of, by the runtime's published algorithms.

A buffer counts `N` chunks of `C` bytes for `N` ranks. With one rank a chip the runtime uses the
plain ring (SDK, intra-node collectives guide): all-gather and reduce-scatter take N - 1 steps,
all-reduce both; a rank sends (N - 1) C, or 2 (N - 1) C. Under 1 MB its mesh algorithm reaches all
peers in one step, and an all-reduce sends whole buffers where that is faster, (N - 1) N C. Nothing
is published of all-to-all, taken as N - 1 exchanges with the ranks 1, 2, ... further on, nor of
broadcasts, taken as a chain of N pieces around the ring. A ring's step reads and writes a chunk; to
add up it reads two.

Every function gives the legs for one group of `group.number` ranks and raises `LimitExceeded` for
shapes that do not fit.
"""

import dataclasses
import math

from emu.datasheet import Device
from emu.errors import LimitExceeded
from emu.instruction import Operand
from emu.trainium.links.chip_steps import Group, Leg, steps
from emu.trainium.links.collectives import gather, longer, scatter


def _mesh_leg(ranks: int, nbytes: float, read: float, written: float) -> Leg:
    """Everybody's `nbytes` to every peer in one step."""
    return Leg("once", tuple(range(1, ranks)), nbytes, read, written)


def _gather_leg(device: Device, ranks: int, nbytes: float, chunk: float) -> Leg:
    if nbytes < device.mesh_limit_bytes:
        once = gather(device, ranks, nbytes)
        return _mesh_leg(ranks, chunk, once.reads * chunk, once.writes * chunk)
    moved = (ranks - 1) * chunk
    return Leg("turn", (1,) * (ranks - 1), chunk, moved, moved)


def gather_legs(
    device: Device, group: Group, dst: Operand, src: Operand, root: int
) -> list[Leg]:
    longer(
        "trn.chip_all_gather",
        "destination",
        dst.shape,
        "source",
        src.shape,
        group.number,
    )
    return [_gather_leg(device, group.number, dst.nbytes, src.nbytes)]


def _scatter_leg(device: Device, ranks: int, nbytes: float, chunk: float) -> Leg:
    if nbytes < device.mesh_limit_bytes:
        once = scatter(device, ranks, nbytes)
        return _mesh_leg(ranks, chunk, once.reads * chunk, once.writes * chunk)
    moved = (ranks - 1) * chunk
    # To add up, a step reads the chunk that came and its own.
    return Leg("turn", (1,) * (ranks - 1), chunk, 2 * (ranks - 1) * chunk, moved)


def scatter_legs(
    device: Device, group: Group, dst: Operand, src: Operand, root: int
) -> list[Leg]:
    longer(
        "trn.chip_reduce_scatter",
        "source",
        src.shape,
        "destination",
        dst.shape,
        group.number,
    )
    return [_scatter_leg(device, group.number, src.nbytes, dst.nbytes)]


def reduce_legs(
    device: Device, group: Group, dst: Operand, src: Operand, root: int
) -> list[Leg]:
    ranks = group.number
    # In whole elements: 10 float32 for 4 ranks are chunks of 3, 12 bytes, the last padded.
    chunk = math.ceil(src.size / ranks) * src.dtype.itemsize
    both = [
        _scatter_leg(device, ranks, src.nbytes, chunk),
        _gather_leg(device, ranks, src.nbytes, chunk),
    ]
    if ranks == 1 or src.nbytes >= device.mesh_limit_bytes:
        return both
    # As between cores: whole buffers to every peer, then N of them read and one written.
    sent = (ranks - 1) * src.nbytes
    read = sent + ranks * src.nbytes
    written = sent + src.nbytes
    once = [_mesh_leg(ranks, src.nbytes, read, written)]

    def ticks(legs: list[Leg]) -> int:
        return sum(steps(device, group, leg).alone.max() for leg in legs)

    # For 4 chips of a Trn2 torus, one core each: 16 KiB take 6.1 us in two legs of a hop each, and
    # 3.3 us at once; 512 KiB 10.1 us, and 13.0 us at once, as every link carries whole buffers.
    return min(both, once, key=ticks)


def exchange_legs(
    device: Device,
    group: Group,
    dst: Operand,
    src: Operand,
    root: int,
    *,
    split: int,
    join: int,
) -> list[Leg]:
    ranks = group.number
    if not src.shape or src.shape[split] % ranks:
        raise LimitExceeded(
            f"trn.chip_all_to_all: source is {list(src.shape)}, its dimension {split} must be a "
            f"multiple of {ranks}"
        )
    shape = list(src.shape)
    shape[split] //= ranks
    shape[join] *= ranks
    if list(dst.shape) != shape:
        raise LimitExceeded(
            f"trn.chip_all_to_all: destination is {list(dst.shape)}, must be {shape}"
        )
    # The rank's own part stays where it is.
    sent = (ranks - 1) * src.nbytes // ranks
    return [Leg("turn", tuple(range(1, ranks)), src.nbytes / ranks, sent, sent)]


def broadcast_legs(
    device: Device, group: Group, dst: Operand, src: Operand, root: int
) -> list[Leg]:
    ranks = group.number
    _alike("trn.chip_broadcast", dst, src)
    if not 0 <= root < ranks:
        raise LimitExceeded(
            f"trn.chip_broadcast: root is {root}, must be 0 to {ranks - 1}"
        )
    if src.nbytes < device.mesh_limit_bytes:
        sent = (ranks - 1) * src.nbytes
        once = _mesh_leg(ranks, src.nbytes, sent, sent)
        # Only the root sends, so nothing else loads its links.
        return [dataclasses.replace(once, sends=group.index == root)]
    # The chain is open: around the ring from the root, whose neighbour below passes nothing on.
    last = (root - 1) % ranks
    chain = Leg(
        "chain",
        shifts=(1,),
        nbytes=src.nbytes / ranks,
        read_bytes=src.nbytes,
        written_bytes=src.nbytes,
        pieces=ranks,
        sends=group.index != last,
    )
    return [chain]


def _alike(name: str, dst: Operand, src: Operand) -> None:
    if dst.shape != src.shape:
        raise LimitExceeded(
            f"{name}: source is {list(src.shape)}, must be the destination's {list(dst.shape)}"
        )


__all__ = [
    "broadcast_legs",
    "exchange_legs",
    "gather_legs",
    "reduce_legs",
    "scatter_legs",
]
