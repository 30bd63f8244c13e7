"""What is handed over, and how: a prompt's cache on its chips, and the choices of a way."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from emu.trainium.datasheets import TRN3, NeuronCoreSheet
from kernels.formats.formats import Format
from models.machines.handoff.conversion import ORDERS
from models.machines.handoff.pages import Paging

STREAMS = ("layer", "bulk")


@dataclasses.dataclass(frozen=True)
class Way:
    """How a cache is handed over.

    Attributes:
      stream: `"layer"` or `"bulk"`.
      mode: `"push"`, chips write, or `"pull"`, they are read.
      is_cold: whether NICs have yet to set up their connections.
      links: of each wafer in use; None: all.
      spread: `"striped"` over a wafer's links, or through the `"nearest"`.
      order: which end brings words into the wafer's order, one of `ORDERS`.
      paging: how a chip's part of a layer is cut.
    """

    stream: str = "layer"
    mode: str = "push"
    is_cold: bool = False
    links: int | None = None
    spread: str = "striped"
    order: str = "chip"
    paging: Paging = Paging()

    def __post_init__(self) -> None:
        for name, value, among in (
            ("stream", self.stream, STREAMS),
            ("order", self.order, ORDERS),
        ):
            if value not in among:
                raise ValueError(
                    f"{name} is {value!r}, must be one of {', '.join(among)}"
                )


@dataclasses.dataclass(frozen=True, eq=False)
class Source:
    """A prompt's cache on the chips that prefilled it.

    Attributes:
      positions: int `[places, slots]`, the prompt's position of each slot of a place, which is one
        chip or several; those from `tokens` on are padding.
      tokens: of the prompt.
      stored: the format in which prefill leaves it; see `as_format`.
      layer_done_s: when each layer's keys and values are complete.
      prefill_s: when the prefill ends, its logits included.
      cores: of each chip, which share its heads.
      reused: tokens at the prompt's beginning whose cache the wafers have.
      first_chips: of each layer, the number of its ring's first chip; none: all layers are on one.
      tensor: chips of each place, which share its heads; of latents each has all.
      chip: datasheet of a chip's core.
    """

    positions: np.ndarray
    tokens: int
    stored: Format
    layer_done_s: Sequence[float]
    prefill_s: float
    cores: int = 1
    reused: int = 0
    first_chips: Sequence[int] = ()
    chip: NeuronCoreSheet = TRN3
    tensor: int = 1

    def __post_init__(self) -> None:
        if self.first_chips and len(self.first_chips) != len(self.layer_done_s):
            raise ValueError(
                f"first chips of {len(self.first_chips)} layers, must be of "
                f"{len(self.layer_done_s)} or none"
            )
        if not 0 <= self.reused <= self.tokens:
            raise ValueError(
                f"{self.reused} tokens are reused, must be 0 to {self.tokens}"
            )

    def first_chip(self, layer: int) -> int:
        """The number of the first chip that has a layer."""
        return self.first_chips[layer] if self.first_chips else 0

    def rows(self, count: int, copies: int = 1) -> np.ndarray:
        """How many of each sender's tokens each of so many rows takes, int `[senders, rows]`.

        Args:
          count: of rows.
          copies: chips of a place that have the same numbers, of which each sends every
            `copies`-th slot.
        """
        place, slot = np.nonzero(
            (self.positions >= self.reused) & (self.positions < self.tokens)
        )
        sender, senders = place * copies + slot % copies, len(self.positions) * copies
        row = self.positions[place, slot] % count
        flat = np.bincount(sender * count + row, minlength=senders * count)
        return flat.reshape(senders, count)


def evenly(prefill_s: float, layers: int) -> list[float]:
    """When layers are done of a prefill of which only the end is known, each as long as any."""
    return [prefill_s * (layer + 1) / layers for layer in range(layers)]


__all__ = ["STREAMS", "Source", "Way", "evenly"]
