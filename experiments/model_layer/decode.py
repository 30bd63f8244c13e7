"""One decode step of a model's layers on wafers of their own, with caches of several lengths."""

import dataclasses
import pathlib
from collections.abc import Iterator, Sequence

from emu.wse.placement.regions import DoesNotFit
from models.config import ModelConfig
from models.machines.layer_decode import DecodeTime, LayerDecode
from models.precision import Precision


@dataclasses.dataclass(frozen=True)
class Decoded:
    """One layer with one length of its cache.

    Attributes:
      decode: the layer.
      time: what the clock says; None: it does not fit a wafer.
      refusal: why not; empty if it does.
    """

    decode: LayerDecode
    time: DecodeTime | None
    refusal: str = ""

    @property
    def layers(self) -> int:
        """How many layers of the model are of its form."""
        config = self.decode.config
        return config.forms.count(config.forms[self.decode.layer])

    @property
    def held(self) -> str:
        """The plan of what weights and cache are held in."""
        return self.decode.precision.name


def decoded(
    config: ModelConfig,
    layers: Sequence[int],
    contexts: Sequence[int],
    plan: Precision,
    most: int = 1,
    searches: pathlib.Path | None = None,
) -> Iterator[Decoded]:
    """Every layer with every context, timed or refused; see `LayerDecode`."""
    for layer in layers:
        for context in contexts:
            decode = LayerDecode(
                config, layer, context, plan, most=most, searches=searches
            )
            try:
                yield Decoded(decode, decode.time())
            except DoesNotFit as refused:
                yield Decoded(decode, None, str(refused))


__all__ = ["Decoded", "decoded"]
