"""Messages: what one chip has of one layer, when it may be sent and which way it goes.

A layer's message is sent as soon as its keys and values are complete (`stream="layer"`), or after
the prefill (`stream="bulk"`). Padding is not sent, nor are tokens whose cache the wafers have from
before.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from fractions import Fraction

import numpy as np

from emu.datasheet import Device
from emu.interconnect import Message
from kernels.formats.formats import Format
from models.machines.handoff.asked import Source, Way
from models.machines.handoff.conversion import gather_s, keeping_s, picking_s, pieces
from models.machines.handoff.fields import token_bytes
from models.machines.handoff.route import Edge, Entering, Landing


@dataclasses.dataclass(frozen=True)
class Ends:
    """Both ends of a hand-off under one band, and the link between.

    Attributes:
      source: the cache on its chips.
      sent: the format in which it is sent.
      way: how.
      link, chip: datasheets.
      edge: of the wafers.
      coding_s: what codes of one layer take the chips.
    """

    source: Source
    sent: Format
    way: Way
    link: Device
    chip: Device
    edge: Edge
    coding_s: Fraction

    def ready_s(self, layer: int, layers: int) -> Fraction:
        """When a layer may be sent: chips make its codes before they go on to the next."""
        if self.way.stream == "bulk":
            return Fraction(self.source.prefill_s) + self.coding_s * layers
        return Fraction(self.source.layer_done_s[layer]) + self.coding_s * (layer + 1)


@dataclasses.dataclass(frozen=True)
class Piece:
    """What one chip has of one layer.

    Attributes:
      layer: which one.
      message: that it is sent by.
      keeping_s: what each PE takes for it when it has arrived.
    """

    layer: int
    message: Message
    keeping_s: Fraction


def pieces_of(ends: Ends, landings: Sequence[Landing]) -> Iterator[Piece]:
    """What each chip has of each layer, layer by layer."""
    by_rows: dict[int, np.ndarray] = {}
    for number, landing in enumerate(landings):
        rows = landing.map.rows
        if rows not in by_rows:
            by_rows[rows] = ends.source.rows(rows)
        layer = _LayerWay(ends, landing)
        ready_s = ends.ready_s(number, len(landings))
        first = ends.source.first_chip(number)
        for chip, of_rows in enumerate(by_rows[rows], first):
            if of_rows.any():
                yield layer.piece(number, ready_s, chip, of_rows)


class _LayerWay:
    """The way of one layer's cache; many chips' parts of it are alike.

    Attributes:
      known: of tokens of rows, how a message enters, and what gathering and keeping it take.
    """

    def __init__(self, ends: Ends, landing: Landing) -> None:
        self.ends = ends
        self.landing = landing
        self.token_bytes = token_bytes(landing.map, ends.sent)
        self.known: dict[bytes, tuple[Entering, Fraction, Fraction]] = {}

    def piece(
        self, layer: int, ready_s: Fraction, chip: int, of_rows: np.ndarray
    ) -> Piece:
        key = of_rows.tobytes()
        if key not in self.known:
            self.known[key] = self._found(of_rows)
        entering, gathering_s, keeping = self.known[key]
        tokens, ends = int(of_rows.sum()), self.ends
        operations = ends.way.paging.operations(tokens, self.token_bytes, ends.link)
        message = Message(
            ready_s,
            chip,
            tokens * self.token_bytes,
            operations,
            entering.entries,
            gathering_s,
            entering.tail_s,
        )
        return Piece(layer, message, keeping)

    def _found(self, of_rows: np.ndarray) -> tuple[Entering, Fraction, Fraction]:
        ends, layer, tokens = self.ends, self.landing.map, int(of_rows.sum())
        nbytes, wafer = tokens * self.token_bytes, ends.edge.wafer
        keeping = keeping_s(layer, wafer, ends.sent, int(of_rows.max()))
        if ends.way.order == "wafer":
            entering = ends.edge.to_all(self.landing, nbytes)
            return entering, Fraction(0), keeping + picking_s(layer, wafer, nbytes)
        count = pieces(layer, ends.sent, tokens, ends.source.stored.is_coded)
        gathering_s = gather_s(ends.chip, count, nbytes, ends.source.cores)
        return ends.edge.by_rows(self.landing, of_rows, ends.sent), gathering_s, keeping


__all__ = ["Ends", "Piece", "pieces_of"]
