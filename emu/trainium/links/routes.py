"""How ranks lie on a system's chips, and which links their transfers share.

On a torus a transfer goes the shorter way around each dimension, first dimension first; where both
ways are equally long, from an even place upwards and from an odd one downwards, so that both
directions carry half. On a switched system it takes the port of its sender up to the switch and
that of its receiver down, of the first dimension in which the two differ: in Trainium3, the ports
to other servers, or those within the server.

Transfers that are on the way together share each link evenly, and each goes at the pace of the
link that it finds busiest. No routing is published: shortest ways are the assumption.
"""

import dataclasses
import functools
import math

import numpy as np

from emu.datasheet import Device
from emu.errors import LimitExceeded
from emu.trainium.datasheets import System


@dataclasses.dataclass(frozen=True, eq=False)
class Routed:
    """What each transfer of a set finds on its way; arrays of one shape.

    Attributes:
      hops: links it passes, 1 through switches, 0 to itself.
      seconds_per_byte: at its busiest link, shared with the set's other transfers.
    """

    hops: np.ndarray
    seconds_per_byte: np.ndarray


# --- links ---


def routed(
    system: System, band: str, source: np.ndarray, target: np.ndarray, load: np.ndarray
) -> Routed:
    """The ways of transfers that all run at once.

    Args:
      system: whose links.
      band: of their rates.
      source, target: chips, `int[n]`.
      load: how many equal transfers each stands for, such as one per core, `float[n]`; 0 is none.

    Returns:
      `hops: int[n]`, `seconds_per_byte: float[n]`.

    Example: around a ring of 4 chips whose links carry 128 B/ns, chip 0 sends to chip 2 and chip 1
    to chip 2. The first goes up over two links, the second up over the latter of them, so both
    take `2 / 128` ns a byte.
    """
    ways = _switches if system.switched else _torus
    uses = ways(system.dims, source, target)
    # Every link, as `_link` counts them: each dimension's twice, for both directions, on each chip.
    of_a_chip = np.repeat(system.rates(band), DIRECTIONS)
    bytes_per_s = np.tile(of_a_chip, system.chips)
    weights = load[uses.transfer]
    carried = np.bincount(uses.link, weights=weights, minlength=len(bytes_per_s))
    # Every transfer has as many bytes, so a link with the load of 3 takes 3 bytes' time to pass on
    # one byte of each.
    seconds_per_byte = carried / bytes_per_s
    busiest = np.zeros(len(source))
    # A transfer has several links; plain assignment to repeated places would keep the last.
    np.maximum.at(busiest, uses.transfer, seconds_per_byte[uses.link])
    return Routed(uses.hops, busiest)


DIRECTIONS = 2  # a chip has a link down and a link up each dimension
DOWN, UP = 0, 1


@dataclasses.dataclass(frozen=True, eq=False)
class Uses:
    """Which transfers pass which links.

    Attributes:
      transfer, link: of each use, `int[uses]`.
      hops: of each transfer, `int[transfers]`.
    """

    transfer: np.ndarray
    link: np.ndarray
    hops: np.ndarray


def _link(
    chip: np.ndarray, dims: int, dim: int | np.ndarray, way: int | np.ndarray
) -> np.ndarray:
    """The number of the link that leaves `chip` along dimension `dim` of `dims`, `UP` or `DOWN`."""
    return (chip * dims + dim) * DIRECTIONS + way


def _torus(dims: tuple[int, ...], source: np.ndarray, target: np.ndarray) -> Uses:
    """Dimension by dimension, the shorter way around each.

    Example: from place 3 to place 0 of a ring of 4 it is 1 up, (0 - 3) mod 4, over the wrap-around;
    from place 0 to place 3 it is 3 up or 1 down, so 1 down; from 1 to 3 both are 2: place 1 is odd,
    so down, by 0.
    """
    at = np.stack(np.unravel_index(source, dims))
    to = np.stack(np.unravel_index(target, dims))
    transfers = []
    links = []
    hops = np.zeros(len(source), np.int64)
    for dim, size in enumerate(dims):
        upwards = (to[dim] - at[dim]) % size
        shorter = 2 * upwards < size
        tie = 2 * upwards == size
        even = at[dim] % 2 == 0
        up = shorter | (tie & even)
        way = np.where(up, UP, DOWN)
        onward = np.where(up, 1, -1)
        distance = np.where(up, upwards, size - upwards)
        hops += distance
        # Link by link, those of the transfers that are not there yet.
        # The shorter way around is never longer than half the ring.
        for step in range(size // 2):
            going = np.flatnonzero(distance > step)
            chip = np.asarray(np.ravel_multi_index(tuple(at[:, going]), dims))
            transfers.append(going)
            links.append(_link(chip, len(dims), dim, way[going]))
            # Where a transfer stands now: the next dimension starts from there, so its links are
            # those of the chip at the turn.
            at[dim, going] = (at[dim, going] + onward[going]) % size
    return Uses(np.concatenate(transfers), np.concatenate(links), hops)


def _switches(dims: tuple[int, ...], source: np.ndarray, target: np.ndarray) -> Uses:
    """Up from the sender to the switch and down to the receiver, of one dimension."""
    at = np.stack(np.unravel_index(source, dims))
    to = np.stack(np.unravel_index(target, dims))
    differs = at != to
    moves = differs.any(0)
    moving = np.flatnonzero(moves)
    # In a Trainium3 Gen2, 36 servers of 4 chips, a chip of another server is reached by the ports
    # between servers alone, whatever its place there.
    dim = differs[:, moving].argmax(0)  # the first in which they differ
    ups = _link(source[moving], len(dims), dim, UP)
    downs = _link(target[moving], len(dims), dim, DOWN)
    links = np.concatenate([ups, downs])
    return Uses(np.tile(moving, 2), links, moves.astype(np.int64))


# --- where ranks are ---


@functools.lru_cache(maxsize=256)
def embedding(system: System, sizes: tuple[int, ...]) -> np.ndarray:
    """The chip of each rank of a mesh over chips.

    The inner axes take the last dimensions whose products they are and the outermost axis the
    others, each in the order of `cycle`, so that on a torus neighbours on an axis are neighbours
    over one link, wrap-around included, where the axis takes all of its dimensions. Axes that are
    no such products share one `cycle` over all dimensions, the innermost changing first. Smaller
    meshes take the first chips of these orders.

    Args:
      system: which has the chips.
      sizes: of the mesh axes over chips, outermost first.

    Returns:
      `int[*sizes]`.

    Raises:
      LimitExceeded: more ranks than chips.
    """
    ranks = math.prod(sizes)
    if ranks > system.chips:
        mesh = " x ".join(map(str, sizes))
        raise LimitExceeded(
            f"{system.name}: {mesh} is {ranks} chips, at most {system.chips}"
        )
    takes = _matched(system.dims, sizes)
    if takes is None:
        chip = cycle(system.dims, system.switched)[:ranks].reshape(sizes)
    else:
        # A rank's chip is the sum of what its place on each axis contributes.
        lines: list[np.ndarray] = []
        for size, taken in zip(sizes, takes, strict=True):
            order = cycle(taken.dims, system.switched)
            lines.append(taken.stride * order[:size])
        chip = functools.reduce(np.add.outer, lines)
    # Kept for all that ask again: who wrote to it would move everybody's ranks.
    chip.flags.writeable = False
    return chip


@dataclasses.dataclass(frozen=True)
class Taken:
    """Dimensions that a mesh axis takes, and chips between neighbours along the last of them."""

    dims: tuple[int, ...]
    stride: int


def _matched(dims: tuple[int, ...], sizes: tuple[int, ...]) -> list[Taken] | None:
    """What each axis takes; None where the sizes are no products of neighbouring dimensions.

    Example: axes of 4 and 16 on chips `(4, 4, 4)`: the inner one takes the last two dimensions,
    whose product is 16, with neighbours 1 chip apart, the outer one the first, 16 chips apart.
    """

    def taken(begin: int, end: int) -> Taken:
        return Taken(dims[begin:end], stride=math.prod(dims[end:]))

    outermost, *inner = sizes
    inner_first: list[Taken] = []
    end = len(dims)
    for size in reversed(inner):
        begin = end
        while begin and math.prod(dims[begin:end]) < size:
            begin -= 1
        if math.prod(dims[begin:end]) != size:
            return None
        inner_first.append(taken(begin, end))
        end = begin
    if math.prod(dims[:end]) < outermost:
        return None
    return [taken(0, end), *reversed(inner_first)]


@functools.lru_cache(maxsize=256)
def cycle(dims: tuple[int, ...], switched: bool = False) -> np.ndarray:
    """Every chip once, each next to the one before, and the last to the first: `int[chips]`.

    On a torus a reflected Gray code whose first digit is an even dimension: every dimension is
    walked to its end, then back. It closes over one link; with odd dimensions only, which no
    system has, over one for each. Through switches all are neighbours, so chips count upwards.
    """
    chips = np.arange(math.prod(dims)).reshape(dims)
    if switched or not dims:
        return chips.ravel()
    even = [dim for dim, size in enumerate(dims) if size % 2 == 0]
    first = even[0] if even else 0
    # With an even number of lines the last one is walked backwards and ends in the first column,
    # one link around from the start: of 2 x 4 chips 0 1 2 3 7 6 5 4, and 4 is next to 0.
    return _to_and_fro(np.moveaxis(chips, first, 0))


def _to_and_fro(chips: np.ndarray) -> np.ndarray:
    """Line after line, every other one backwards: of 3 x 4 chips 0 1 2 3 7 6 5 4 8 9 10 11."""
    if chips.ndim == 1:
        return chips
    lines = [_to_and_fro(line) for line in chips]
    for number in range(1, len(lines), 2):
        lines[number] = lines[number][::-1]
    return np.concatenate(lines)


# --- transfers along a mesh axis ---


def shifted(
    device: Device,
    sizes: tuple[int, ...],
    at: int,
    shifts: tuple[int, ...],
    load: np.ndarray,
) -> Routed:
    """The ways of every rank's transfers to the ranks `shifts` further along one axis, at once.

    Without a system every such way is one hop over a link that only the sender's transfers share.

    Args:
      device: whose system.
      sizes: of the mesh axes over chips, outermost first.
      at: which of them.
      shifts: one transfer of each rank for each.
      load: transfers that each rank's stands for, `float[ranks]`; 0 is none.

    Returns:
      Arrays `[shifts, ranks]`.

    Raises:
      LimitExceeded: more ranks than the system has chips.
    """
    if device.system is None:
        shape = len(shifts), len(load)
        hops = np.ones(shape, np.int64)
        # All transfers of a rank share its one link.
        seconds_per_byte = len(shifts) * load / device.link_bytes_per_s
        return Routed(hops, np.broadcast_to(seconds_per_byte, shape))
    # As bytes, since arrays cannot be keys of a cache.
    return _shifted(device.system, device.band, sizes, at, shifts, load.tobytes())


@functools.lru_cache(maxsize=4096)
def _shifted(
    system: System,
    band: str,
    sizes: tuple[int, ...],
    at: int,
    shifts: tuple[int, ...],
    load: bytes,
) -> Routed:
    chip = embedding(system, sizes)
    receivers = [np.roll(chip, -shift, at).ravel() for shift in shifts]
    source = np.tile(chip.ravel(), len(shifts))
    target = np.concatenate(receivers)
    loads = np.tile(np.frombuffer(load), len(shifts))
    # What does not send must not count on a link, nor have a way.
    going = np.flatnonzero(loads)
    found = routed(system, band, source[going], target[going], loads[going])
    hops = np.zeros(len(source), np.int64)
    hops[going] = found.hops
    seconds_per_byte = np.zeros(len(source))
    seconds_per_byte[going] = found.seconds_per_byte
    shape = len(shifts), chip.size
    return Routed(hops.reshape(shape), seconds_per_byte.reshape(shape))


__all__ = ["Routed", "cycle", "embedding", "routed", "shifted"]
