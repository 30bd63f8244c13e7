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
from typing import Any

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
    """
    which, link, hops = (_switches if system.switched else _torus)(
        system.dims, source, target
    )
    bytes_per_s = np.tile(np.repeat(system.rates(band), 2), system.chips)
    carried = np.bincount(link, weights=load[which], minlength=len(bytes_per_s))
    seconds = np.zeros(len(source))
    np.maximum.at(seconds, which, (carried / bytes_per_s)[link])
    return Routed(hops, seconds)


# Transfer and link of each use; hops by transfer.
Links = tuple[np.ndarray, np.ndarray, np.ndarray]


def _link(chip: Any, dims: int, dim: int, up: Any) -> np.ndarray:
    return (chip * dims + dim) * 2 + up


def _torus(dims: tuple[int, ...], source: np.ndarray, target: np.ndarray) -> Links:
    at = np.stack(np.unravel_index(source, dims))
    to = np.stack(np.unravel_index(target, dims))
    which = []
    links = []
    hops = np.zeros(len(source), np.int64)
    for d, size in enumerate(dims):
        ahead = (to[d] - at[d]) % size
        up = (2 * ahead < size) | ((2 * ahead == size) & (at[d] % 2 == 0))
        left = np.where(up, ahead, size - ahead)
        hops += left
        for step in range(size // 2):
            going = np.flatnonzero(left > step)
            chip = np.ravel_multi_index(tuple(at[:, going]), dims)
            which.append(going)
            links.append(_link(chip, len(dims), d, up[going]))
            at[d, going] = (at[d, going] + np.where(up[going], 1, -1)) % size
    return np.concatenate(which), np.concatenate(links), hops


def _switches(dims: tuple[int, ...], source: np.ndarray, target: np.ndarray) -> Links:
    differs = np.stack(np.unravel_index(source, dims)) != np.stack(
        np.unravel_index(target, dims)
    )
    moves = np.flatnonzero(differs.any(0))
    dim = differs[:, moves].argmax(0)
    ups = _link(source[moves], len(dims), 0, 1) + 2 * dim
    downs = _link(target[moves], len(dims), 0, 0) + 2 * dim
    return (
        np.tile(moves, 2),
        np.concatenate([ups, downs]),
        differs.any(0).astype(np.int64),
    )


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
        raise LimitExceeded(
            f"{system.name}: {' x '.join(map(str, sizes))} is {ranks} chips, at most {system.chips}"
        )
    parts = _matched(system.dims, sizes)
    if parts is None:
        chip = cycle(system.dims, system.switched)[:ranks].reshape(sizes)
    else:
        lines = [
            n * cycle(d, system.switched)[:k]
            for k, d, n in zip(sizes, *parts, strict=True)
        ]
        chip = functools.reduce(np.add.outer, lines)
    chip.flags.writeable = False
    return chip


def _matched(dims: tuple[int, ...], sizes: tuple[int, ...]) -> Any:
    """The dimensions that each axis takes, and chips between neighbours along the last of them."""
    taken, strides = [], []
    end = len(dims)
    for size in reversed(sizes[1:]):
        begin = end
        while begin and math.prod(dims[begin:end]) < size:
            begin -= 1
        if math.prod(dims[begin:end]) != size:
            return None
        taken.append(dims[begin:end])
        strides.append(math.prod(dims[end:]))
        end = begin
    if math.prod(dims[:end]) < sizes[0]:
        return None
    return [dims[:end], *reversed(taken)], [math.prod(dims[end:]), *reversed(strides)]


@functools.lru_cache(maxsize=256)
def cycle(dims: tuple[int, ...], switched: bool = False) -> np.ndarray:
    """Every chip once, each next to the one before, and the last to the first: `int[chips]`.

    On a torus a reflected Gray code whose first digit is an even dimension: every dimension is
    walked to its end, then back. It closes over one link; with odd dimensions only, which no
    system has, over one for each. Through switches all are neighbours, so chips count upwards.
    """
    chips = np.arange(math.prod(dims)).reshape(dims)
    if switched:
        return chips.ravel()
    first = next((d for d, size in enumerate(dims) if size % 2 == 0), 0)
    return _to_and_fro(np.moveaxis(chips, first, 0)) if dims else chips.ravel()


def _to_and_fro(chips: np.ndarray) -> np.ndarray:
    if chips.ndim == 1:
        return chips
    parts = [_to_and_fro(part) for part in chips]
    return np.concatenate([part[:: -1 if i % 2 else 1] for i, part in enumerate(parts)])


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
        each = len(shifts) * load / device.link_bytes_per_s
        return Routed(np.ones(shape, np.int64), np.broadcast_to(each, shape))
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
    source = np.tile(chip.ravel(), len(shifts))
    target = np.concatenate([np.roll(chip, -by, at).ravel() for by in shifts])
    loads = np.tile(np.frombuffer(load), len(shifts))
    going = np.flatnonzero(loads)
    found = routed(system, band, source[going], target[going], loads[going])
    hops = np.zeros(len(source), np.int64)
    seconds = np.zeros(len(source))
    hops[going], seconds[going] = found.hops, found.seconds_per_byte
    shape = len(shifts), chip.size
    return Routed(hops.reshape(shape), seconds.reshape(shape))


__all__ = ["Routed", "cycle", "embedding", "routed", "shifted"]
