"""Hand-off of the KV cache: which bytes leave which chip when, and how long the wafer waits.

Prefill leaves tokens on the chips of a ring, per layer; the wafer keeps each layer in a region of
its own. So a message is one layer's keys and values of one chip, sent as soon as that
layer is done (`stream="layer"`) or after the whole prefill (`stream="bulk"`). Padding is not sent.
"""

import dataclasses
from collections.abc import Sequence
from fractions import Fraction

import jax.numpy as jnp

from emu import Device
from emu.annotations import DType
from emu.interconnect import Message, Transfer, send
from kernels.formats.formats import Format, of_activations
from models.config import ModelConfig

STREAMS = ("layer", "bulk")


@dataclasses.dataclass(frozen=True)
class Handoff:
    """One hand-off's bytes and times under one band.

    Attributes:
      transfer: from the link model.
      exposed_s: how long after the end of prefill the last byte arrives: what the user waits for.
    """

    transfer: Transfer
    exposed_s: float

    @property
    def time_s(self) -> float:
        """First byte out to last byte in."""
        return float(self.transfer.finished_s - self.transfer.started_s)


def token_bytes(config: ModelConfig, held: DType | Format) -> int:
    """Bytes of one token's keys and values in one layer, or of its latent and its turned key.

    Llama 3.1 8B in bfloat16: 2 (key and value) of 8 heads of 128 of 2 bytes, 4,096; in FP8, with a
    scale of 4 bytes for each, 2,112. DeepSeek-V3 in bfloat16: a latent of 512 features and a turned
    key of 64, 1,152.

    Args:
      config: sizes.
      held: the cache's dtype, or its format.
    """
    latent = config.latent
    if isinstance(held, Format) and latent is None:
        heads = 2 * config.num_key_value_heads
        return heads * of_activations(held).held_bytes(config.head_dim, 1)
    features = 2 * config.key_value_width if latent is None else latent.cached_width
    dtype = held.element if isinstance(held, Format) else held
    return features * jnp.dtype(dtype).itemsize


def handoff(
    config: ModelConfig,
    link: Device,
    *,
    held: Sequence[int],
    dtype: DType | Format,
    layer_done_s: list[float],
    prefill_s: float,
    stream: str = "layer",
) -> Handoff:
    """Moves the cache of one prompt over the link.

    Args:
      config: sizes.
      link: an `emu.interconnect.LinkSheet` under one band.
      held: tokens that each chip holds, without padding.
      dtype: of the cache, or its format; it arrives as it left.
      layer_done_s: when each layer's keys and values were complete.
      prefill_s: when the prefill ended.
      stream: `"layer"` or `"bulk"`.

    Raises:
      ValueError: another stream, or not one time a layer.
    """
    if stream not in STREAMS:
        raise ValueError(f"stream is {stream!r}, must be one of {', '.join(STREAMS)}")
    if len(layer_done_s) != config.num_hidden_layers:
        raise ValueError(
            f"{len(layer_done_s)} layers' times, the model has {config.num_hidden_layers}"
        )
    each = token_bytes(config, dtype)
    end = Fraction(prefill_s)
    # Llama 3.1 8B in bfloat16, 4,096 tokens on 4 chips: 32 layers of 4 messages of 4 MiB.
    messages = [
        Message(Fraction(done) if stream == "layer" else end, chip, tokens * each)
        for done in layer_done_s
        for chip, tokens in enumerate(held)
        if tokens
    ]
    transfer = send(link, messages)
    # After the last layer prefill still computes the logits: a fast link is done before, and then
    # nothing is exposed.
    return Handoff(transfer, float(max(Fraction(0), transfer.finished_s - end)))
