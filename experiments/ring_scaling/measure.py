"""Reads one program's clock, and once more with links that take no time."""

import dataclasses
import math
from typing import Any

import jax.numpy as jnp
import numpy as np

from emu import Reading
from emu.datasheet import BANDS, Quantity
from emu.trainium.datasheets import NeuronCoreSheet
from experiments.ring_scaling.cases import HEAD_DIM, MACHINES, Point
from kernels.trainium.context.attention import ContextAttention
from kernels.trainium.context.hops import Hops

DTYPE = jnp.bfloat16


@dataclasses.dataclass(frozen=True)
class Row:
    """A point and what its readings told; times in seconds, of the slowest core.

    Attributes:
      point: what was read.
      placed: the placement in use.
      auto: the one that `auto` chooses.
      time_s: nominal.
      low_s, high_s: the shortest and the longest; None where they were not read.
      free_s: of the same program over links that take no time.
      balance: mean over busiest core of the Tensor Engine's work.
      mfu: FLOPs of allowed pairs, over what all cores' peaks make in `time_s`.
      issued: FLOPs of live tiles, over those of allowed pairs.
      reached_flops_per_s: issued FLOPs of one core by `free_s`.
      link_bytes: of the whole mesh, each byte once a transfer.
      hops: sources that a rank meets, its own included; None for a scheme without a ring.
      replicated: key tiles that all ranks are sent ahead of the ring.
    """

    point: Point
    placed: str
    auto: str
    time_s: float
    low_s: float | None
    high_s: float | None
    free_s: float
    balance: float
    mfu: float
    issued: float
    reached_flops_per_s: float
    link_bytes: int
    hops: int | None
    replicated: int

    @property
    def exposed_s(self) -> float:
        """Communication that no computation hides: `time_s` less `free_s`."""
        return self.time_s - self.free_s


# --- what is read ---


def attention(point: Point) -> ContextAttention:
    """The program of a point."""
    return ContextAttention(
        mask=point.pattern.mask,
        tokens=point.tokens,
        ranks=point.ranks,
        heads=point.heads * point.cores,
        kv_heads=point.kv_heads * point.cores,
        head_dim=HEAD_DIM,
        queries=point.queries,
        scheme=point.scheme,
        inner=point.inner,
        placement=point.placement,
        dtype=DTYPE,
        cores=point.cores,
        static_program=point.static,
        **MACHINES[point.machine].needs,
    )


def links(
    sheet: NeuronCoreSheet, times: float, hop_times: float = 1.0
) -> NeuronCoreSheet:
    """The same machine with links `times` as fast, and hops that take `hop_times` as long."""
    system = sheet.system
    assert system is not None
    # The system's links count where there is a system, the sheet's elsewhere: both, so that no
    # reading finds the old ones.
    rates = tuple(_scaled(rate, times) for rate in system.link_bytes_per_s)
    return dataclasses.replace(
        sheet,
        link_hop_s=_scaled(sheet.link_hop_s, hop_times),
        link_bytes_per_s=_scaled(sheet.link_bytes_per_s, times),
        system=dataclasses.replace(system, link_bytes_per_s=rates),
    )


def free_links(sheet: NeuronCoreSheet) -> NeuronCoreSheet:
    """The same machine with links that take no time; a transfer's use of HBM stays."""
    return links(sheet, math.inf, 0.0)


def _scaled(quantity: Quantity, times: float) -> Quantity:
    low, high = (
        None if end is None else end * times for end in (quantity.low, quantity.high)
    )
    return Quantity(
        quantity.value * times,
        quantity.kind,
        f"{quantity.source}; times {times:g}",
        low,
        high,
    )


# --- reading ---


def measure(point: Point, sheet: NeuronCoreSheet | None = None) -> Row:
    """Reads a point, on its machine or on another sheet of it."""
    sheet = sheet or MACHINES[point.machine].sheet
    context = attention(point)
    reading = context.read(sheet.at())
    sent = reading.tally.by("other").get("link_bytes", 0)
    free_s = reading.seconds
    # A second reading costs as much as the first, and could only give the same where nothing
    # waited.
    if sent and may_be_late(context, reading):
        free_s = context.read(free_links(sheet).at()).seconds
    ends = {
        band: context.read(sheet.at(band)).seconds
        for band in BANDS
        if point.bands and band != "nominal"
    }
    flops = reading.tally.by("flops")["trn.nc_matmul"]
    useful = useful_flops(point)
    tables = context.built.tables
    ring = tables if isinstance(tables, Hops) else None
    peak = reading.cores * sheet.bf16_flops_per_s.value
    return Row(
        point,
        context.placed,
        context.choice.name,
        reading.seconds,
        ends.get("low"),
        ends.get("high"),
        free_s,
        balance(reading),
        useful / (peak * reading.seconds),
        flops / useful,
        flops / reading.cores / free_s,
        sent,
        len(ring) if ring else None,
        len(ring.roots) if ring else 0,
    )


def may_be_late(context: ContextAttention, reading: Reading) -> bool:
    """Whether links may have made anything late; if not, free links would change no start.

    What arrives around a ring is first used by a load, and both queues of loads have loaded queries
    before: had one been late, that load would have waited for a link, or for the buffer it sends.
    Replicated tiles and other schemes begin with transfers, so their waits are not told apart.
    """
    if context.scheme != "ring" or context.hops.roots:
        return True
    return any(
        engine != "neuronlink"
        and what.startswith("wait:")
        and "link" in what
        and np.any(ticks)
        for (engine, what), ticks in reading.spent.items()
    )


def balance(reading: Reading) -> float:
    """Mean over busiest core of the Tensor Engine's work."""
    # Of 3, 3, 2 and 4 tiles it is 3 / 4: the ring waits for the rank with 4.
    work = np.broadcast_to(reading.spent["tensor", "work"], reading.grid)
    return float(work.mean() / work.max())


def useful_flops(point: Point) -> int:
    """Scores and weighted values of the pairs that the mask allows, over all cores."""
    pairs = point.pattern.pairs
    if point.queries is not None:
        if point.mask not in ("causal", "full"):
            raise ValueError(f"{point.mask}: pairs of the last queries are not counted")
        before = point.tokens - point.queries
        # The last queries' rows of the square or, causal, of the triangle: of 6 tokens with 2
        # queries 21 - 10 = 11 pairs, the rows of 5 and 6 keys.
        pairs = point.tokens**2 - point.tokens * before
        if point.mask == "causal":
            pairs = (point.tokens * (point.tokens + 1) - before * (before + 1)) // 2
    # A pair is a multiply-add per feature for its score and one for its value, at 2 FLOPs each.
    return 4 * pairs * HEAD_DIM * point.heads * point.cores


def as_dict(row: Row) -> dict[str, Any]:
    """Every figure of a row, those of its point first."""
    figures = {
        field.name: getattr(row, field.name)
        for field in dataclasses.fields(row)
        if field.name != "point"
    }
    return (
        dataclasses.asdict(row.point)
        | {"tokens": row.point.tokens}
        | figures
        | {"exposed_s": row.exposed_s}
    )
