"""A prompt's hand-off in time: layer by layer or as a whole, and how long the user waits for it."""

import dataclasses
import functools
from collections.abc import Sequence
from fractions import Fraction

from emu.datasheet import Device
from emu.efa import EFA, LinkSheet
from emu.interconnect import Transfer, send
from emu.uncollected import uncollected
from emu.wse.datasheets.datasheet import WSE3
from emu.wse.datasheets.sheet import WaferSheet
from kernels.formats.formats import Format
from models.machines.handoff.asked import Source, Way
from models.machines.handoff.conversion import coding_s
from models.machines.handoff.fields import as_format
from models.machines.handoff.messages import Ends, Piece, pieces_of
from models.machines.handoff.route import Edge, Landing


@dataclasses.dataclass(frozen=True)
class Handoff:
    """One hand-off's bytes and times under one band.

    Attributes:
      transfer: from the link model; None: nothing had to be sent.
      exposed_s: how long after the end of prefill the last PE has its own: what the user waits for.
      finished_s: when that is.
      coding_s: by how much prefill is longer, for codes that chips make of what it left wide.
      keeping_s: what the busiest layer's PEs take for what arrives.
    """

    transfer: Transfer | None
    exposed_s: float
    finished_s: float
    coding_s: float
    keeping_s: float

    @property
    def time_s(self) -> float:
        """First byte out to last byte in its place."""
        if self.transfer is None:
            return 0.0
        return self.finished_s - float(self.transfer.started_s)

    @property
    def nbytes(self) -> int:
        return 0 if self.transfer is None else self.transfer.nbytes

    @property
    def operations(self) -> int:
        return 0 if self.transfer is None else self.transfer.operations

    @property
    def bound(self) -> str:
        """What takes longest by itself."""
        if self.transfer is None:
            return "nothing"
        longest = self.transfer.alone_s[self.transfer.bound]
        return "wafer's PEs" if self.keeping_s > longest else self.transfer.bound


# Thousands of messages are made, of many objects each and without a cycle.
@uncollected()
def handoff(
    source: Source,
    landings: Sequence[Landing],
    *,
    sent: Format | None = None,
    way: Way = Way(),
    band: str = "nominal",
    link: LinkSheet = EFA,
    wafer: WaferSheet = WSE3,
) -> Handoff:
    """Moves the cache of one prompt to its regions.

    Args:
      source: the cache.
      landings: each layer's region.
      sent: the format in which it is sent; None: as it is stored. Codes of what is stored wide are
        made by the chips, of what is sent wide by the PEs, if the wafer's cache is in codes.
      way: how it is sent.
      band: of all datasheets.
      link, wafer: the datasheets.

    Raises:
      ValueError: not one time a layer, or a choice that there is not.
    """
    if len(source.layer_done_s) != len(landings):
        raise ValueError(
            f"{len(source.layer_done_s)} layers' times, the wafers have {len(landings)} layers"
        )
    given = source.stored if sent is None else as_format(sent)
    end = Fraction(source.prefill_s)
    coding = _coding(source, landings[0], given, band)
    ends = Ends(
        source,
        given,
        way,
        link.at(band),
        source.chip.at(band),
        _edge(wafer.at(band), way),
        coding,
    )
    each = list(pieces_of(ends, landings))
    late_s = coding * len(landings)
    if not each:
        return Handoff(None, float(late_s), float(end + late_s), float(late_s), 0.0)
    transfer = send(
        ends.link,
        [piece.message for piece in each],
        mode=way.mode,
        is_cold=way.is_cold,
        is_coalesced=way.paging.is_coalesced,
    )
    finished_s, keeping_s = _kept(transfer, each)
    # After the last layer prefill still computes the logits: a fast link is done before, and then
    # nothing is exposed but what chips took for codes.
    exposed_s = max(late_s, finished_s - end)
    return Handoff(
        transfer,
        float(exposed_s),
        float(finished_s),
        float(late_s),
        float(keeping_s),
    )


def _kept(transfer: Transfer, each: Sequence[Piece]) -> tuple[Fraction, Fraction]:
    """When the last PEs have all of a layer as they keep it, and what that takes the busiest."""
    kept: dict[tuple[int, int], Fraction] = {}
    keeping: dict[tuple[int, int], Fraction] = {}
    arrivals = zip(transfer.arrived_s, each, strict=True)
    for arrived_s, piece in sorted(arrivals, key=lambda one: one[0]):
        # The PEs of a layer's heads take one message after another.
        own = piece.layer, piece.heads
        before_s = kept.get(own, Fraction(0))
        kept[own] = max(arrived_s, before_s) + piece.keeping_s
        keeping[own] = keeping.get(own, Fraction(0)) + piece.keeping_s
    return max(kept.values()), max(keeping.values())


def _edge(wafer: Device, way: Way) -> Edge:
    links = int(wafer.io_links) if way.links is None else way.links
    return Edge(wafer, links, way.spread)


def _coding(source: Source, landing: Landing, sent: Format, band: str) -> Fraction:
    """What a layer's codes take the busiest chip, if chips make any."""
    if not sent.is_coded or source.stored.is_coded:
        return Fraction(0)
    layer = landing.map
    most = int(source.rows(1).max())
    tiles = Fraction(most, 128)
    timed = functools.partial(
        coding_s, source.chip, band, held=sent, wide=source.stored.element
    )
    if layer.form.latent is not None:
        latent = layer.form.latent
        # Cores share the tokens, as each has all of them.
        both = timed(1, latent.rank) + timed(1, latent.turned)
        return both * tiles / (source.cores * source.tensor)
    heads = -(-layer.kv_heads // (source.cores * source.tensor))
    return 2 * timed(heads, layer.head_dim) * tiles


__all__ = ["Handoff", "handoff"]
