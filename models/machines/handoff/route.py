"""Where a layer's cache enters a wafer, and how long the fabric takes to bring it to its PEs.

A wafer has up to twelve links, taken to stand at equal distances along its western edge; each
enters the fabric on a few rows of routers (`emu.wse.ingest`). Rows of a region are dealt to links
in order, from the north, and a link's rows to its own rows of routers. Of a region of 6 rows and
three links, each of which enters on two rows:

    link 0    region's rows 0 | 1
    link 1                  2 | 3
    link 2                  4 | 5

Striped like that, all links take part in every layer. Or all of a layer goes through the link
nearest to its region, which is fewer hops and a twelfth of the rate. Streams pass the routers of
other regions on a color of their own and are not held up there.

Rows of a turned region stand side by side from west to east. A stream runs to the first of its rows
on a line of its own through the region, and its words leave that line to the north and the south:

    stream 0   > 0 1
    stream 1   > > > 2 3
    stream 2   > > > > > 4 5
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import NamedTuple

import numpy as np

from emu.datasheet import Device
from emu.interconnect import Entry
from emu.wse.collectives.multicast_2d.arrival import multicast_2d
from emu.wse.ingest import Ingested, ingest
from emu.wse.placement.regions import Rect
from emu.wse.timeline.wires import wires
from emu.wse.wavelets import WORD_BYTES
from kernels.formats.formats import Format
from kernels.wse.decode.mapping import LayerMap
from kernels.wse.decode.plan import WaferPlan
from models.machines.handoff.fields import column_bytes, token_bytes

SPREADS = ("striped", "nearest")


@dataclasses.dataclass(frozen=True)
class Landing:
    """A layer's region.

    Attributes:
      wafer: which one.
      region: the rectangle on it.
      map: what each PE holds.
      turned: whether its rows lie side by side from west to east.
    """

    wafer: int
    region: Rect
    map: LayerMap
    turned: bool = False


def landings(plan: WaferPlan) -> list[Landing]:
    """Where each layer of a plan lies."""
    each = zip(plan.of_wafers, plan.layers, plan.regions, strict=True)
    return [
        Landing(wafer, region, kind.map, plan.turned) for wafer, kind, region in each
    ]


class Entering(NamedTuple):
    """How a message enters a wafer: `Message.entries` and `.tail_s`."""

    entries: tuple[Entry, ...]
    tail_s: Fraction


@dataclasses.dataclass(frozen=True)
class Edge:
    """A wafer's links.

    Attributes:
      wafer: its datasheet under one band.
      links: how many are in use.
      spread: one of `SPREADS`.
    """

    wafer: Device
    links: int
    spread: str = "striped"

    def __post_init__(self) -> None:
        most = int(self.wafer.io_links)
        if not 1 <= self.links <= most:
            raise ValueError(f"{self.links} links of a wafer, must be 1 to {most}")
        if self.spread not in SPREADS:
            raise ValueError(
                f"spread is {self.spread!r}, must be one of {', '.join(SPREADS)}"
            )

    @property
    def link_bytes_per_s(self) -> Fraction:
        """Of one link."""
        return Fraction(self.wafer.io_bytes_per_s) / int(self.wafer.io_links)

    def row(self, link: int) -> int:
        """The wafer's row at which a link stands: of two a quarter and three quarters down."""
        return (2 * link + 1) * int(self.wafer.grid_height) // (2 * self.links)

    def nearest(self, region: Rect) -> int:
        """The link nearest to a region's middle."""
        middle = region.y + region.height // 2
        return min(range(self.links), key=lambda link: abs(self.row(link) - middle))

    def by_rows(
        self,
        layer: LayerMap,
        tokens_by_row: np.ndarray,
        sent: Format,
        *,
        groups: int = 1,
    ) -> "Streams":
        """Words that were brought into order before they were sent: each row's go to it alone.

        Args:
          layer: a region's mapping.
          tokens_by_row: int `[messages, rows]`, how many tokens of each message each row takes.
          sent: the format.
          groups: of heads, of which a message has one, in a part of the columns; all are alike.
        """
        links = 1 if self.spread == "nearest" else min(self.links, layer.rows)
        link, place = dealt(layer.rows, links, int(self.wafer.link_rows))
        words = row_words(layer, tokens_by_row, sent, groups)
        found = ingest(
            np.where(place >= 0, words[:, place], 0),
            wires(self.wafer),
            columns=layer.cols,
            edge_cycles=float(self.wafer.edge_cycles),
        )
        starts = np.searchsorted(link, np.arange(links))
        tokens = np.add.reduceat(tokens_by_row, starts, axis=1)
        nbytes = tokens * (token_bytes(layer, sent) // groups)
        return Streams(self, nbytes, np.maximum(place[:, :, 0], 0), found)

    def to_all(self, landing: Landing, nbytes: int) -> Entering:
        """Words in the order in which chips store them: one stream that every PE sees."""
        region, link = landing.region, self.nearest(landing.region)
        words = -(-nbytes // WORD_BYTES)
        w = wires(self.wafer)
        done = multicast_2d(np.zeros((region.height, region.width), int), words, w)
        hops = abs(self.row(link) - region.y) + region.x
        slower = float(self.wafer.edge_cycles)
        busy = int(np.ceil(done[0, 0] * slower))
        tail = max(0, int(done.max() + w.hop_cycles * hops - done[0, 0]))
        streams = {0: self.seconds(busy)}
        entry = Entry((landing.wafer, link), nbytes, self.line_s(nbytes), streams)
        return Entering((entry,), self.seconds(tail))

    def used(self, landing: Landing) -> list[int]:
        """The links that a layer's words take, of those of a region or the nearest one."""
        if self.spread == "nearest":
            return [self.nearest(landing.region)]
        return list(range(min(self.links, landing.map.rows)))

    def line_s(self, nbytes: int) -> Fraction:
        """What bytes take on a link."""
        return nbytes / self.link_bytes_per_s

    def seconds(self, cycles: int) -> Fraction:
        """Of the wafer's cycles."""
        return Fraction(cycles, int(self.wafer.clock_hz))


class Streams:
    """Messages' words behind links, which are the same for every region of one form.

    Where a region lies says which links they are and how far it is from each.

    Attributes:
      edge: that they enter by.
      nbytes: int `[messages, links]`.
      top: int `[links, streams]`, the first of a stream's rows.
      taken: `[messages, links, streams]`, from an edge at the region's own first routers.
    """

    def __init__(
        self, edge: Edge, nbytes: np.ndarray, top: np.ndarray, taken: Ingested
    ) -> None:
        self.edge = edge
        self.nbytes = nbytes
        self.top = top
        self.taken = taken
        self._entries: dict[tuple[int, ...], list[tuple[Entry, ...]]] = {}

    def into(self, landing: Landing) -> list[Entering]:
        """How each message enters the wafer of a region."""
        edge = self.edge
        used = edge.used(landing)
        at = np.array([edge.row(link) for link in used])
        hops = approach_hops(landing, at, self.top)
        done = self.taken.further(hops, wires(edge.wafer)).done
        tails = np.maximum(done - self.taken.busy, 0).max(axis=(1, 2))
        by_cycles = {cycles: edge.seconds(cycles) for cycles in set(tails.tolist())}
        # Layers on one wafer, by the same links, share their entries.
        key = (landing.wafer, *used)
        if key not in self._entries:
            self._entries[key] = self._of_links(landing.wafer, used)
        pairs = zip(self._entries[key], tails.tolist(), strict=True)
        return [Entering(entries, by_cycles[cycles]) for entries, cycles in pairs]

    def _of_links(self, wafer: int, used: Sequence[int]) -> list[tuple[Entry, ...]]:
        return [
            tuple(
                Entry((wafer, link), nbytes, line_s, streams)
                for link, (nbytes, line_s, streams) in zip(used, parts, strict=True)
                if nbytes
            )
            for parts in self._parts
        ]

    @functools.cached_property
    def _parts(self) -> list[list[tuple[int, Fraction, Mapping[int, Fraction]]]]:
        """Of each message and link its bytes, what they take there, and on the streams behind."""
        seconds = functools.cache(self.edge.seconds)
        line_s = functools.cache(self.edge.line_s)
        found = []
        for nbytes, busy in zip(
            self.nbytes.tolist(), self.taken.busy.tolist(), strict=True
        ):
            streams = [
                {
                    stream: seconds(cycles)
                    for stream, cycles in enumerate(each)
                    if cycles
                }
                for each in busy
            ]
            found.append(list(zip(nbytes, map(line_s, nbytes), streams, strict=True)))
        return found


def approach_hops(landing: Landing, at: np.ndarray, first: np.ndarray) -> np.ndarray:
    """Hops of streams from the edge to the router before the first of their rows.

    Args:
      landing: the layer's region.
      at: int `[links]`, rows of the wafer at which the links stand.
      first: int `[links, streams]`, the first row of the region that each stream has.
    """
    region = landing.region
    if not landing.turned:
        return np.abs(region.y + first - at[:, None]) + region.x
    # The words of a stream come to the farther end of a column later than from its first PE by no
    # more than the column is long, wherever its line is.
    line = region.y + np.arange(first.size).reshape(first.shape) % region.height
    return np.abs(line - at[:, None]) + region.x + first


def dealt(rows: int, links: int, streams: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows of a region over links, in order, and each link's over its streams.

    Returns:
      Int `[rows]`, the link of each row; and int `[links, streams, most]`, the rows of each stream,
      -1 behind its last.
    """
    row = np.arange(rows)
    # Twice as many links have halves of each one's rows.
    link = row * links // rows
    starts = np.searchsorted(link, np.arange(links))
    counts = np.diff([*starts, rows])
    deep = -(-counts // streams)
    within = row - starts[link]
    place = np.full((links, streams, int(deep.max())), -1)
    place[link, within // deep[link], within % deep[link]] = row
    return link, place


def row_words(
    layer: LayerMap, tokens: np.ndarray, sent: Format, groups: int = 1
) -> np.ndarray:
    """Wavelets of rows that take so many tokens each: a column's own begin with a whole one.

    Of several groups of heads those of one: heads stand in as many columns each, one behind the
    other.
    """
    each = column_bytes(layer, sent)[: layer.cols // groups]
    counts, which = np.unique(tokens, return_inverse=True)
    words = [int((-(-count * each // WORD_BYTES)).sum()) for count in counts.tolist()]
    return np.array(words)[which].reshape(tokens.shape)


__all__ = [
    "SPREADS",
    "Edge",
    "Entering",
    "Landing",
    "Streams",
    "approach_hops",
    "dealt",
    "landings",
    "row_words",
]
