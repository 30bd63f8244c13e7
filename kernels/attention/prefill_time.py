"""What a variant's prefill takes on a mesh of chips: time, work, and which tiles are live."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from emu.clock.reading import Reading as Clock
from emu.datasheet import BANDS
from emu.trainium import TRN3, with_cores
from emu.trainium.datasheets import NeuronCoreSheet
from kernels.attention.prefill import context_attention
from kernels.masks.tile_map import DEAD, FULL
from kernels.scores.form import Reading
from kernels.trainium.context.attention import ContextAttention
from kernels.trainium.context.hops import Hops


@dataclasses.dataclass(frozen=True)
class PrefillTime:
    """The clock of a variant's prefill.

    Attributes:
      machine: that it was read for.
      chips, cores: of the mesh, cores of each chip.
      placed: where tokens stand.
      hops: sources that a chip meets on the ring, its own included; None for other schemes.
      seconds: by band, of the slowest core.
      flops: of all cores, by the instructions that ran.
      hbm_bytes: read and written by all cores.
      link_bytes: sent between chips.
      tiles, live_tiles, full_tiles: pairs of a block of queries and a key tile, those that are
        worked on, and those of them that need no mask.
      busy: share of the nominal time that each engine is busy, on the core where it is most.
    """

    machine: str
    chips: int
    cores: int
    placed: str
    hops: int | None
    seconds: dict[str, float]
    flops: int
    hbm_bytes: int
    link_bytes: int
    tiles: int
    live_tiles: int
    full_tiles: int
    busy: dict[str, float]

    @property
    def bound(self) -> str:
        """The engine that is busy for the largest share of the time."""
        return max(self.busy, key=lambda engine: self.busy[engine])


def prefill_time(
    reading: Reading,
    *,
    q: tuple[int, ...],
    k: tuple[int, ...],
    sheet: NeuronCoreSheet = TRN3,
    chips: int = 1,
    cores: int = 1,
    **options: Any,
) -> PrefillTime:
    """Reads the clock of a variant's prefill, without data.

    Args:
      reading: the variant.
      q: sizes of the queries, `(batch, heads, queries, head_dim)`.
      k: sizes of the keys, `(batch, kv_heads, keys, head_dim)`; fewer heads than cores stand on
        several of them.
      sheet: of the machine.
      chips, cores: of the mesh, cores of each chip; they share its heads.
      options: as for `context_attention`.

    Raises:
      EmulationError: it does not fit the machine, or cannot be carried out.
    """
    batch, kv_heads, keys, head_dim = k
    of_cores = max(kv_heads, cores)
    attention = context_attention(
        reading,
        q=q,
        k=(batch, of_cores, keys, head_dim),
        chips=chips,
        cores=cores,
        **options,
    )
    # Cores that run share their chip's HBM and links.
    return time_of(attention, attention.read_bands(with_cores(sheet, cores)))


def time_of(attention: ContextAttention, readings: Mapping[str, Clock]) -> PrefillTime:
    """What readings of a prefill's program come to.

    Args:
      attention: that it does.
      readings: of the clock, by band.
    """
    nominal = readings["nominal"]
    moved = nominal.tally.by("bytes")
    ends = nominal.end_ticks
    status = attention.sides.map(attention.masks_of)
    return PrefillTime(
        machine=nominal.machine,
        chips=attention.ranks,
        cores=attention.cores,
        placed=attention.placed,
        hops=_hops(attention),
        seconds={band: readings[band].seconds for band in BANDS},
        flops=nominal.tally.flops,
        hbm_bytes=sum(n for name, n in moved.items() if name.startswith("hbm")),
        link_bytes=nominal.tally.by("other").get("link_bytes", 0),
        tiles=status.size,
        live_tiles=int(np.count_nonzero(status != DEAD)),
        full_tiles=int(np.count_nonzero(status == FULL)),
        busy={
            engine: ticks / max(1, ends)
            for engine, ticks in nominal.most_busy_ticks.items()
        },
    )


def _hops(attention: ContextAttention) -> int | None:
    tables = attention.built.tables
    return len(tables) if isinstance(tables, Hops) else None


__all__ = ["PrefillTime", "prefill_time", "time_of"]
