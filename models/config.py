"""The sizes of one transformer, under their Hugging Face names."""

import dataclasses
import math
from typing import Any

from models.errors import ModelError, shown
from models.family import Family, Tensor, by_model_type
from models.rope_scaling import check_positive, check_rope_scaling

SIZE_FIELDS = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "vocab_size",
    "max_position_embeddings",
)
# A size beyond this is a corrupt file; the largest published models stay under it by far.
LARGEST_SIZE = 1 << 24


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Sizes and constants of a Llama-style decoder; counts are plain integers.

    Attributes:
        name: What reports call the model.
        model_type: Its family, a key of `models.family.FAMILIES`.
        hidden_size: Width of the residual stream.
        intermediate_size: Width of the gated MLP.
        num_hidden_layers: Number of layers.
        num_attention_heads: Query heads.
        num_key_value_heads: Key and value heads; divides `num_attention_heads`.
        head_dim: Width of one head; even, because RoPE rotates pairs.
        vocab_size: Number of token ids.
        max_position_embeddings: Longest context, in tokens.
        rope_theta: Base of the RoPE frequencies.
        rope_scaling: None, or one of `models.rope_scaling.SCALING_FORMS`. Llama 3's has `rope_type`
            `"llama3"`, `factor`, `low_freq_factor`, `high_freq_factor` and
            `original_max_position_embeddings`.
        rms_norm_eps: Added to the mean square in every RMSNorm.
        tie_word_embeddings: Whether the embedding is also the output head.
        source: Where these numbers come from.
    """

    name: str
    model_type: str
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    vocab_size: int
    max_position_embeddings: int
    rope_theta: float
    # A dict has no hash; leaving it out of the hash keeps the config usable as a static argument.
    rope_scaling: dict[str, Any] | None = dataclasses.field(hash=False)
    rms_norm_eps: float
    tie_word_embeddings: bool
    source: str

    def __post_init__(self) -> None:
        by_model_type(self.model_type, self.name)
        for field in SIZE_FIELDS:
            check_size(self.name, field, getattr(self, field))
        if self.num_attention_heads % self.num_key_value_heads:
            raise ModelError(
                f"{self.name}: num_attention_heads must be a multiple of num_key_value_heads, got "
                f"{self.num_attention_heads} and {self.num_key_value_heads}; correct the config"
            )
        if self.head_dim % 2:
            raise ModelError(
                f"{self.name}: head_dim must be even (RoPE rotates pairs), got {self.head_dim}; "
                "correct the config"
            )
        check_positive(self.name, "rope_theta", self.rope_theta)
        check_positive(self.name, "rms_norm_eps", self.rms_norm_eps)
        if self.rope_theta == 1:
            raise ModelError(
                f"{self.name}: rope_theta must not be 1, by which every pair would turn alike; "
                "correct the config"
            )
        if self.rope_scaling is not None:
            check_rope_scaling(self.name, self.rope_scaling, self.head_dim)

    @property
    def family(self) -> Family:
        """Its family's facts: tensors, files, forms of arithmetic."""
        return by_model_type(self.model_type, self.name)

    @property
    def qk_norm(self) -> bool:
        """Whether q and k are RMS-normalised per head before RoPE; the kernels ask for it."""
        return self.family.qk_norm

    @property
    def query_width(self) -> int:
        """Width of all query heads together."""
        return self.num_attention_heads * self.head_dim

    @property
    def key_value_width(self) -> int:
        """Width of all keys of a token in one layer, and of all its values."""
        return self.num_key_value_heads * self.head_dim

    def shape_of(self, tensor: Tensor) -> tuple[int, ...]:
        """The lengths of a tensor's axes; of one layer's, where it is a layer's.

        `w_down` of Llama 3.1 8B, `("intermediate_size", "hidden_size")`, is `(14336, 4096)`.
        """
        return tuple(getattr(self, dimension) for dimension in tensor.shape)

    @property
    def parameters(self) -> int:
        """Number of weights; a tied embedding counts once."""
        outer = self.family.outer(self.tie_word_embeddings)
        one_layer = self._weights_in(self.family.layer_tensors)
        return self._weights_in(outer) + self.num_hidden_layers * one_layer

    def _weights_in(self, tensors: tuple[Tensor, ...]) -> int:
        return sum(math.prod(self.shape_of(tensor)) for tensor in tensors)


def check_size(name: str, field: str, value: Any) -> None:
    """Raises ModelError unless `value` is an integer between 1 and `LARGEST_SIZE`."""
    if (
        isinstance(value, bool)
        or not isinstance(value, int)
        or not 1 <= value <= LARGEST_SIZE
    ):
        raise ModelError(
            f"{name}: {field} must be a whole number from 1 to {LARGEST_SIZE}, got "
            f"{shown(value)}; correct the config"
        )
