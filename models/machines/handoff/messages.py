"""Messages: what one chip has of one layer, when it may be sent and which way it goes.

A layer's message is sent as soon as its keys and values are complete (`stream="layer"`), or after
the prefill (`stream="bulk"`). Padding is not sent, nor are tokens whose cache the wafers have from
before.

Chips of one place have different heads of its tokens, and what several have alike they share out.
Of four chips with 8 KV heads each sends two of all tokens. With 2 KV heads two chips have the same,
with latents all four, and each sends half or a fourth of the tokens:

    KV heads   groups of heads   copies
    8          4                 1
    2          2                 2
    latents    1                 4
"""

import dataclasses
import functools
import math
from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import NamedTuple

import numpy as np

from emu.datasheet import Device
from emu.interconnect import Message
from kernels.formats.formats import Format
from kernels.wse.decode.mapping import LayerMap
from models.machines.handoff.asked import Source, Way
from models.machines.handoff.conversion import gather_s, keeping_s, picking_s, pieces
from models.machines.handoff.fields import token_bytes
from models.machines.handoff.route import Edge, Entering, Landing, Streams


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
      heads: which group of its heads, whose PEs keep it.
      message: that it is sent by.
      keeping_s: what each PE takes for it when it has arrived.
    """

    layer: int
    heads: int
    message: Message
    keeping_s: Fraction


def pieces_of(ends: Ends, landings: Sequence[Landing]) -> Iterator[Piece]:
    """What each chip has of each layer, layer by layer."""
    kinds: dict[LayerMap, _Kind] = {}
    for number, landing in enumerate(landings):
        kind = kinds.get(landing.map)
        if kind is None:
            kind = kinds[landing.map] = _Kind(ends, landing.map)
        ready_s = ends.ready_s(number, len(landings))
        first = ends.source.first_chip(number)
        entering = kind.entering(landing)
        for sender, which in enumerate(kind.part_of):
            part, way = kind.parts[which], entering[which]
            if way is None:
                continue
            for heads, chip in enumerate(kind.chips(first, sender)):
                message = Message(
                    ready_s,
                    chip,
                    part.nbytes,
                    part.operations,
                    way.entries,
                    part.gathering_s,
                    way.tail_s,
                )
                yield Piece(number, heads, message, part.keeping_s)


class _Part(NamedTuple):
    """What chips send of a layer of which they have equally many tokens for each row.

    Attributes:
      nbytes, operations: of the message.
      gathering_s, keeping_s: what it takes the chip and each PE.
    """

    nbytes: int
    operations: int
    gathering_s: Fraction
    keeping_s: Fraction


class _Kind:
    """What layers of one mapping have in common, wherever their regions lie.

    Attributes:
      ends, map: see `Ends` and `Landing`.
      groups, copies: of the chips of a place, see above; what is said of a sender is of one chip of
        every group.
      part_of: of each sender, which of the parts it sends.
      rows: int `[parts, rows]`, the tokens of each row.
      parts: of chips that differ in them.
    """

    def __init__(self, ends: Ends, layer: LayerMap) -> None:
        self.ends = ends
        self.map = layer
        heads = 1 if layer.form.latent is not None else layer.kv_heads
        self.groups = math.gcd(ends.source.tensor, heads)
        self.copies = ends.source.tensor // self.groups
        of_senders = ends.source.rows(layer.rows, self.copies)
        self.rows, part_of = np.unique(of_senders, axis=0, return_inverse=True)
        self.part_of: list[int] = part_of.reshape(-1).tolist()
        self.parts = [self._part(of_rows) for of_rows in self.rows]

    def chips(self, first: int, sender: int) -> range:
        """The chips of a sender, one of each group; `first` is the ring's first chip."""
        place, copy = divmod(sender, self.copies)
        tensor = self.ends.source.tensor
        begin = first + place * tensor
        return range(begin + copy, begin + tensor, self.copies)

    def entering(self, landing: Landing) -> list[Entering | None]:
        """How each part enters a region; None of one without tokens."""
        edge = self.ends.edge
        if self.ends.way.order == "wafer":
            to_all = functools.cache(functools.partial(edge.to_all, landing))
            return [to_all(part.nbytes) if part.nbytes else None for part in self.parts]
        found = self._streams.into(landing)
        pairs = zip(self.parts, found, strict=True)
        return [way if part.nbytes else None for part, way in pairs]

    @functools.cached_property
    def _streams(self) -> Streams:
        return self.ends.edge.by_rows(
            self.map, self.rows, self.ends.sent, groups=self.groups
        )

    def _part(self, of_rows: np.ndarray) -> _Part:
        ends, layer, tokens = self.ends, self.map, int(of_rows.sum())
        each_bytes = token_bytes(layer, ends.sent) // self.groups
        wafer = ends.edge.wafer
        nbytes = tokens * each_bytes
        if not nbytes:
            return _Part(0, 0, Fraction(0), Fraction(0))
        operations = ends.way.paging.operations(tokens, each_bytes, ends.link)
        keeping = keeping_s(layer, wafer, ends.sent, int(of_rows.max()))
        if ends.way.order == "wafer":
            picking = picking_s(layer, wafer, nbytes)
            return _Part(nbytes, operations, Fraction(0), keeping + picking)
        of_all = pieces(layer, ends.sent, tokens, ends.source.stored.is_coded)
        count = math.ceil(of_all / self.groups)
        gathering_s = gather_s(ends.chip, count, nbytes, ends.source.cores)
        return _Part(nbytes, operations, gathering_s, keeping)


__all__ = ["Ends", "Piece", "pieces_of"]
