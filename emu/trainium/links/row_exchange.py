"""Rows sent from each rank to each, as many as known integers say: dispatch and return of experts.

`chip_all_to_all_rows` goes over the links of a system, `all_to_all_rows` through the HBM that the
cores of a chip share. Both are for buffers whose size is a maximum: what is sent, and takes time,
are the rows that there are.

Nothing is published of either. Between chips all of a rank's transfers set out together, as each
goes to another rank and none waits for what another brings; transfers share links as
`emu.trainium.links.routes` has it, and all that pass a link are through together. Within a chip
every core writes its rows to all others in one step, as the runtime's mesh algorithm does.
"""

import dataclasses
import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from emu import given, numerics
from emu.annotations import KnownInt
from emu.datasheet import Device
from emu.errors import LimitExceeded
from emu.instruction import Cost, Crossing, Operand, instruction, limit
from emu.program import Known
from emu.tracing.mesh_axis import axis_size
from emu.trainium.datasheets.sheet import DMA_QUEUES
from emu.trainium.links.collectives import Pass
from emu.trainium.links.collectives import arrival as together
from emu.trainium.links.neuronlink import (
    of_running_cores,
    over,
    per_core,
    rank,
    whole_ticks,
)
from emu.trainium.links.routes import embedding, routed
from emu.trainium.spaces import Hbm


def _data_s(device: Device, moved_bytes: np.ndarray) -> np.ndarray:
    """Seconds in which each core reads and writes so many bytes by its DMA engines."""
    seconds = np.zeros(moved_bytes.shape)
    for nbytes in np.unique(moved_bytes):
        of_core, _ = Pass(0, reads=nbytes, writes=nbytes).seconds(device, 1)
        seconds[moved_bytes == nbytes] = of_core
    return seconds


# --- between chips ---


NAME = "trn.chip_all_to_all_rows"


def _row_bytes(buffer: Operand) -> int:
    return buffer.nbytes // buffer.shape[0]


def _check_rows(name: str, what: str, rows: np.ndarray, most: int) -> None:
    if (rows < 0).any() or (rows > most).any():
        raise LimitExceeded(
            f"{name}: {what} is {rows.min()} to {rows.max()} rows, must be 0 to {most}"
        )


@dataclasses.dataclass(frozen=True, eq=False)
class _Exchange:
    """What every pair of ranks exchanges, and how long that takes.

    Attributes:
      sent_bytes: from each core to each rank along the axis, int64 `[*mesh, ranks]`.
      is_own: whether that rank is the core's own, likewise.
      busy_s: of each of those transfers, 0 where nothing is sent.
      hops: links on the way of each, as `sent_bytes`.
    """

    sent_bytes: np.ndarray
    is_own: np.ndarray
    busy_s: np.ndarray
    hops: np.ndarray


def _exchange(
    device: Device,
    dst: Operand,
    src: Operand,
    rows: Operand,
    place: Operand,
    *,
    axis: str,
    chips: tuple[str, ...],
    sizes: tuple[int, ...],
) -> _Exchange:
    """The exchange of known `rows`; see `chip_all_to_all_rows` for the arguments.

    Raises:
      LimitExceeded: shapes that do not fit, or more rows than there are.
    """
    at = chips.index(axis)
    ranks = sizes[at]
    _check_shapes(dst, src, rows, ranks)
    mesh = np.broadcast_shapes(rows.known.shape[:-1], place.known.shape)
    known = np.broadcast_to(rows.known, (*mesh, ranks)).astype(np.int64)
    _check_rows(NAME, "what a rank sends", known.sum(-1), src.shape[0])
    sent_bytes = known * _row_bytes(src)

    # Of all cores of a chip: they share its links.
    load = np.zeros((math.prod(sizes), ranks))
    of_chip = of_running_cores(device, sent_bytes, place.known)
    load[place.known.ravel()] = of_chip.reshape(-1, ranks)
    source, target = _peers(sizes, at)
    load = np.where(source == target, 0.0, load)
    busy, hops = _ways(device, sizes, source, target, load)

    here = np.broadcast_to(place.known, mesh)
    along = np.indices(sizes)[at].ravel()[here]
    sends = sent_bytes > 0
    return _Exchange(
        sent_bytes=sent_bytes,
        is_own=np.arange(ranks) == along[..., None],
        busy_s=busy[here] * sends,
        hops=hops[here] * sends,
    )


def _check_shapes(dst: Operand, src: Operand, rows: Operand, ranks: int) -> None:
    if dst.shape[1:] != src.shape[1:] or dst.dtype != src.dtype:
        raise LimitExceeded(
            f"{NAME}: destination is {dst.dtype}{list(dst.shape)}, its rows must be the source's, "
            f"{src.dtype}{list(src.shape)}"
        )
    if rows.shape != (ranks,):
        raise LimitExceeded(
            f"{NAME}: rows is {list(rows.shape)}, must be [{ranks}], one number for each rank"
        )


def _peers(sizes: tuple[int, ...], at: int) -> tuple[np.ndarray, np.ndarray]:
    """Places of every rank and of its peers, which differ from its own along one axis only.

    Example: of 2 x 3 ranks, 0 1 2 and 3 4 5, the peers of rank 4 along the last axis are 3, 4, 5.

    Args:
      sizes: of the mesh axes over chips.
      at: which of them.

    Returns:
      int `[ranks, peers]` each.
    """
    places = np.arange(math.prod(sizes)).reshape(sizes)
    lines = np.moveaxis(places, at, -1)
    # Of every rank of a line the whole line.
    of_line = np.broadcast_to(lines[..., None, :], (*lines.shape, sizes[at]))
    target = np.moveaxis(of_line, -2, at).reshape(-1, sizes[at])
    source = np.broadcast_to(places.reshape(-1, 1), target.shape)
    return source, target


def _ways(
    device: Device,
    sizes: tuple[int, ...],
    source: np.ndarray,
    target: np.ndarray,
    load: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Seconds and hops of every transfer, all at once; `load` are bytes, `[ranks, peers]`."""
    if device.system is None:
        seconds = load.sum(-1, keepdims=True) / device.link_bytes_per_s
        return np.where(load > 0, seconds, 0.0), (load > 0).astype(np.int64)
    chip = embedding(device.system, sizes).ravel()
    going = np.flatnonzero(load.ravel())
    seconds = np.zeros(load.size)
    hops = np.zeros(load.size, np.int64)
    if going.size:
        # With bytes as loads, what a link carries over its rate is its seconds.
        found = routed(
            device.system,
            device.band,
            chip[source.ravel()[going]],
            chip[target.ravel()[going]],
            load.ravel()[going],
        )
        seconds[going] = found.seconds_per_byte
        hops[going] = found.hops
    return seconds.reshape(load.shape), hops.reshape(load.shape)


def _chip_rows_cost(
    device: Device,
    dst: Operand,
    src: Operand,
    rows: Operand,
    after: Operand,
    place: Operand,
    *,
    axis: str,
    chips: tuple[str, ...],
    sizes: tuple[int, ...],
) -> Cost:
    what = _exchange(device, dst, src, rows, place, axis=axis, chips=chips, sizes=sizes)
    moved = what.sent_bytes.sum(-1)
    linked = np.where(what.is_own, 0, what.sent_bytes).sum(-1)
    # Reads and writes through DMA engines and HBM, those of a rank's own rows too.
    data_s = _data_s(device, moved)
    link_s = what.busy_s.max(-1)
    busy_s = np.maximum(link_s, data_s)
    latency_s = busy_s + what.hops.max(-1) * device.link_hop_s
    data = per_core(whole_ticks(device, data_s))
    return Cost(
        engine="collective",
        busy_cycles=per_core(whole_ticks(device, busy_s)),
        latency_cycles=per_core(whole_ticks(device, latency_s)),
        moved_bytes={"hbm_read": per_core(moved), "hbm_write": per_core(moved)},
        counts={"link_bytes": per_core(linked)},
        taken={
            **dict.fromkeys(DMA_QUEUES, data),
            "neuronlink": per_core(whole_ticks(device, link_s)),
        },
    )


def _chip_rows_arrival(
    device: Device,
    mesh: Mapping[str, int],
    crossing: Crossing,
    dst: Operand,
    src: Operand,
    rows: Operand,
    after: Operand,
    place: Operand,
    *,
    axis: str,
    chips: tuple[str, ...],
    sizes: tuple[int, ...],
) -> tuple[np.ndarray, np.ndarray]:
    """A rank has all that comes to it once the last of those that send to it is through.

    A transfer begins when its sender could start and its receiver's buffer is idle.
    """
    what = _exchange(device, dst, src, rows, place, axis=axis, chips=chips, sizes=sizes)
    at = list(mesh).index(axis)
    grid = crossing.start_ticks.shape
    # Senders' axis first, receivers' last: `[from, *others, to]`.
    sends = np.broadcast_to(what.sent_bytes > 0, (*grid, grid[at]))
    sends = np.moveaxis(sends, at, 0)
    arrive_s = what.busy_s + what.hops * device.link_hop_s
    takes = np.broadcast_to(whole_ticks(device, arrive_s), (*grid, grid[at]))
    takes = np.moveaxis(takes, at, 0)
    start = np.moveaxis(crossing.start_ticks, at, 0)
    idle = np.moveaxis(crossing.destination_idle_ticks, at, -1)
    begin = np.maximum(start[..., None], idle[None])
    begin = np.where(sends, begin, 0)
    arrived = np.where(sends, begin + takes, 0).max(0)
    arrived = np.moveaxis(arrived, -1, at)
    # What its own reads and writes take holds a rank as well.
    left = np.moveaxis(begin.max(-1), 0, at)
    left = np.maximum(left, crossing.start_ticks) + crossing.busy_ticks
    return np.maximum(arrived, left), left


@instruction(
    NAME,
    cost=_chip_rows_cost,
    reads=("hbm", "counts", "hbm", "count"),
    writes="hbm",
    partial=True,
    arrival=_chip_rows_arrival,
)
def _chip_all_to_all_rows(
    dst: Hbm,
    src: Hbm,
    rows: KnownInt | Known,
    after: Hbm,
    place: jax.Array,
    *,
    axis: str,
    chips: tuple[str, ...],
    sizes: tuple[int, ...],
) -> Hbm:
    exchange = _exchanged
    # Further axes of the mesh stand between the exchange's own and the payload.
    for _ in range(place.ndim - 1):
        exchange = jax.vmap(exchange, in_axes=1, out_axes=1)
    return exchange(dst, src, jnp.asarray(rows))


def _exchanged(dst: jax.Array, src: jax.Array, rows: jax.Array) -> jax.Array:
    """`[ranks, rows, ...]` of all ranks; `rows[i, j]` go from rank i to rank j."""
    number = len(src)
    begins = jnp.cumsum(rows, axis=1) - rows
    ends = jnp.cumsum(rows, axis=0)
    at = jnp.arange(dst.shape[1], dtype=rows.dtype)[:, None]

    def received(dst: jax.Array, to: jax.Array) -> jax.Array:
        # Row 5 of a rank that takes 3 rows of rank 0 and 4 of rank 1 is the third of rank 1's.
        come = jnp.sum(at >= ends[:, to][None], axis=1)
        sender = jnp.minimum(come, number - 1)
        first = ends[sender, to] - rows[sender, to]
        place = begins[sender, to] + at[:, 0] - first
        found = src[sender, jnp.clip(place, 0, src.shape[1] - 1)]
        exists = (come < number).reshape(-1, *(1,) * (dst.ndim - 1))
        return jnp.where(exists, numerics.cast(found, dst.dtype), dst)

    return jax.vmap(received)(dst, jnp.arange(number))


def chip_all_to_all_rows(
    dst: Hbm,
    src: Hbm,
    rows: KnownInt | Known,
    after: Hbm,
    *,
    axis: str,
    chips: tuple[str, ...] | None = None,
) -> Hbm:
    """Rows of `src`, the first `rows[0]` to rank 0, the next `rows[1]` to rank 1, and so on.

    `dst` holds what comes: rank 0's rows first, behind them rank 1's, and so on; the rest of it
    keeps what it held.

    Example: of two ranks, rank 0 sends `[2, 1]` and rank 1 `[0, 3]` rows. Rank 0 has its own two,
    rank 1 one of rank 0 and behind it three of its own.

    Args:
      dst: HBM `[most rows, ...]`.
      src: HBM `[most rows, ...]`, of the same dtype.
      rows: known integers `[ranks]` of this rank.
      after: HBM, any: what must be there before it begins, such as the numbers of rows by which a
        receiver knows where they go.
      axis: mesh axis over chips.
      chips: every mesh axis over chips, as for `neuronlink.send`.

    Raises:
      LimitExceeded: more rows than `src` has, rows of another shape, or ranks as for
        `neuronlink.send`.
    """
    names, sizes = over(axis, chips)
    place = rank(names)
    return _chip_all_to_all_rows(
        dst, src, rows, after, place, axis=axis, chips=names, sizes=sizes
    )


# --- between the cores of a chip ---


def _core_rows_cost(
    device: Device, dst: Operand, src: Operand, rows: Operand, *, axis: str, cores: int
) -> Cost:
    name = "trn.all_to_all_rows"
    limit(name, "number of cores", cores, device.cores_per_chip)
    groups, most, width = src.shape
    wanted = cores, groups, most, width // cores
    if width % cores or dst.shape != wanted:
        raise LimitExceeded(
            f"{name}: destination is {list(dst.shape)}, must be {list(wanted)} of the source's "
            f"{list(src.shape)}"
        )
    known = rows.known.astype(np.int64)
    _check_rows(name, "a group", known, most)
    part = known.sum(-1) * (width // cores) * src.dtype.itemsize
    sent = part * (cores - 1)
    data_s = _data_s(device, sent)
    hop_s = device.link_hop_s if cores > 1 else 0.0
    whole = per_core(whole_ticks(device, data_s + hop_s))
    return Cost(
        engine="collective",
        busy_cycles=whole,
        latency_cycles=whole,
        moved_bytes={"hbm_read": per_core(sent), "hbm_write": per_core(sent)},
        counts={"collective_bytes": per_core(sent)},
        taken=dict.fromkeys(DMA_QUEUES, per_core(whole_ticks(device, data_s))),
    )


@instruction(
    "trn.all_to_all_rows",
    cost=_core_rows_cost,
    reads=("hbm", "counts"),
    writes="hbm",
    partial=True,
    arrival=together,
)
def _all_to_all_rows(
    dst: Hbm, src: Hbm, rows: KnownInt | Known, *, axis: str, cores: int
) -> Hbm:
    numbers = jnp.asarray(rows)
    change = _changed
    for _ in range(numbers.ndim - 2):
        change = jax.vmap(change, in_axes=1, out_axes=1)
    return change(dst, src, numbers)


def _changed(dst: jax.Array, src: jax.Array, rows: jax.Array) -> jax.Array:
    """`[cores, groups, rows, width]` of all cores; `rows[i]` are the groups' of core i."""
    cores, groups, most, width = src.shape
    parts = src.reshape(cores, groups, most, cores, width // cores)
    sent = jnp.moveaxis(parts, 3, 0)  # [to, from, groups, rows, part]
    place = lax.broadcasted_iota(rows.dtype, sent.shape, 3)
    live = place < rows[None, :, :, None, None]
    return jnp.where(live, sent, dst)


def all_to_all_rows(dst: Hbm, src: Hbm, rows: KnownInt | Known, *, axis: str) -> Hbm:
    """Part i of every core's rows to core i: columns change hands, rows keep their places.

    Example: two cores, rows of 8 columns: core 0 gets columns 0-3 of its own rows and of core 1's,
    core 1 columns 4-7 of both.

    Args:
      dst: HBM `[cores, groups, most rows, width / cores]`: by sender.
      src: HBM `[groups, most rows, width]`, of the same dtype.
      rows: known integers `[groups]` of this core: how many of each group there are; others are
        not sent, and `dst` keeps what it held in their places.
      axis: mesh axis over cores of one chip.

    Raises:
      LimitExceeded: shapes that do not fit, or more rows than a group has.
    """
    given.name("trn.all_to_all_rows: axis", axis)
    cores = axis_size("trn.all_to_all_rows", axis)
    return _all_to_all_rows(dst, src, rows, axis=axis, cores=cores)


__all__ = ["all_to_all_rows", "chip_all_to_all_rows"]
