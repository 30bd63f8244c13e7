"""What a decode layer computes beside the plainest one: biases, further norms, other MLPs."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Protocol

from emu.annotations import DType, Shape
from emu.datasheet import Device
from emu.wse.spaces import Sram
from kernels.latent_heads import LatentHeads
from kernels.refusal import refuse
from kernels.wse.decode import sizes
from kernels.wse.decode.activation import SILU, Activation
from kernels.wse.decode.region import Region


class LayerMlp(Protocol):
    """What stands in place of a layer's gated MLP, such as a mixture of experts; has a hash."""

    @property
    def shared(self) -> int:
        """Of its experts those that every token goes to, and that are held as the others are."""
        ...

    @property
    def ffn(self) -> int:
        """Width of one expert's hidden vector."""
        ...

    @property
    def tiles(self) -> int:
        """Experts of which a PE has a slice each."""
        ...

    def apply(
        self, region: Region, normed: Sram, weights: dict[str, Sram]
    ) -> tuple[Sram, Sram]:
        """Its output, float32 `[depth]` on every column, of a normalised `[depth]`; and which of
        its parts it chose, float32 numbers on every PE."""
        ...

    def weight_shapes(self, region: Region) -> dict[str, Shape]:
        """Shapes of its weights in one PE; the norm before it is the layer's."""
        ...

    def weight_specs(self, region: Region) -> dict[str, tuple[str, ...]]:
        """How each is split over the mesh."""
        ...

    def weight_dtypes(self, region: Region) -> dict[str, DType]:
        """Dtype of each."""
        ...

    def weight_tiles(self, layers: Mapping[str, Any], region: Region) -> dict[str, Any]:
        """Each as `[layers, *mesh axes, *shape]`, from a model's stacked weights."""
        ...

    def buffer_bytes(self, region: Region) -> int:
        """Bytes of a PE's buffers that are live at once for certain."""
        ...

    def cycles(self, region: Region, device: Device) -> float:
        """Rough cycles of a token."""
        ...


@dataclasses.dataclass(frozen=True)
class DecodeForm:
    """Of a layer, whatever its sizes.

    Attributes:
      mlp: in place of the gated MLP; None: that.
      activation: of the gated MLP.
      qkv_bias: whether projections to queries, keys and values have biases.
      out_bias: whether attention's output projection has one.
      output_norms: whether outputs of attention and MLP are normalised before they are added to the
        residual stream (Gemma's sandwich).
      rotary_dim: features of a head that turn, from the first on; the others pass. 0: none turns;
        None: all do.
      wide_qk_norm: whether all queries together are RMS-normalised before they turn, and all keys,
        each feature by a weight of its own (MiniMax-M2).
      unit_qk_norm: whether queries and keys are RMS-normalised per head after they have turned,
        without weights (Llama 4).
      has_temperature: whether queries are multiplied by a number that arrives with the token.
      score_scale: factor of scores; None: `head_dim ** -0.5`.
      residual_scale: factor of both outputs before they are added.
      latent: sizes of latent attention, in place of grouped queries; None: those.
    """

    mlp: LayerMlp | None = None
    activation: Activation = SILU
    qkv_bias: bool = False
    out_bias: bool = False
    output_norms: bool = False
    rotary_dim: int | None = None
    wide_qk_norm: bool = False
    unit_qk_norm: bool = False
    has_temperature: bool = False
    score_scale: float | None = None
    residual_scale: float = 1.0
    latent: LatentHeads | None = None

    def __post_init__(self) -> None:
        if self.rotary_dim is not None:
            sizes.within("rotary_dim", self.rotary_dim, 0, sizes.MOST)
            if self.rotary_dim % 2:
                refuse(f"rotary_dim is {self.rotary_dim}, must be even: pairs turn")


PLAIN = DecodeForm()

__all__ = ["PLAIN", "DecodeForm", "LayerMlp"]
