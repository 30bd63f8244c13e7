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

import math

from emu.datasheet import Device
from emu.errors import LimitExceeded
from emu.instruction import Operand
from emu.trainium.links.chip_steps import Group, Leg, steps
from emu.trainium.links.collectives import gather, longer, scatter


def _gather_leg(device: Device, n: int, nbytes: float, chunk: float) -> Leg:
    if nbytes < device.mesh_limit_bytes:
        once = gather(device, n, nbytes)
        return Leg(
            "once", tuple(range(1, n)), chunk, once.reads * chunk, once.writes * chunk
        )
    return Leg("turn", (1,) * (n - 1), chunk, (n - 1) * chunk, (n - 1) * chunk)


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


def _scatter_leg(device: Device, n: int, nbytes: float, chunk: float) -> Leg:
    if nbytes < device.mesh_limit_bytes:
        once = scatter(device, n, nbytes)
        return Leg(
            "once", tuple(range(1, n)), chunk, once.reads * chunk, once.writes * chunk
        )
    return Leg("turn", (1,) * (n - 1), chunk, 2 * (n - 1) * chunk, (n - 1) * chunk)


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
    n = group.number
    chunk = math.ceil(src.size / n) * src.dtype.itemsize
    both = [leg(device, n, src.nbytes, chunk) for leg in (_scatter_leg, _gather_leg)]
    if n == 1 or src.nbytes >= device.mesh_limit_bytes:
        return both
    # As between cores: whole buffers to every peer, then N of them read and one written.
    sent = (n - 1) * src.nbytes
    read = sent + n * src.nbytes
    written = sent + src.nbytes
    once = [Leg("once", tuple(range(1, n)), src.nbytes, read, written)]
    return min(
        both,
        once,
        key=lambda way: sum(steps(device, group, x).alone.max() for x in way),
    )


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
    n = group.number
    if not src.shape or src.shape[split] % n:
        raise LimitExceeded(
            f"trn.chip_all_to_all: source is {list(src.shape)}, its dimension {split} must be a "
            f"multiple of {n}"
        )
    shape = list(src.shape)
    shape[split] //= n
    shape[join] *= n
    if list(dst.shape) != shape:
        raise LimitExceeded(
            f"trn.chip_all_to_all: destination is {list(dst.shape)}, must be {shape}"
        )
    sent = (n - 1) * src.nbytes // n
    return [Leg("turn", tuple(range(1, n)), src.nbytes / n, sent, sent)]


def broadcast_legs(
    device: Device, group: Group, dst: Operand, src: Operand, root: int
) -> list[Leg]:
    n = group.number
    _alike("trn.chip_broadcast", dst, src)
    if not 0 <= root < n:
        raise LimitExceeded(f"trn.chip_broadcast: root is {root}, must be 0 to {n - 1}")
    if src.nbytes < device.mesh_limit_bytes:
        sent = (n - 1) * src.nbytes
        return [
            Leg(
                "once",
                tuple(range(1, n)),
                src.nbytes,
                sent,
                sent,
                1,
                group.index == root,
            )
        ]
    last = (root - 1) % n
    return [
        Leg(
            "chain",
            (1,),
            src.nbytes / n,
            src.nbytes,
            src.nbytes,
            n,
            group.index != last,
        )
    ]


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
