"""The sizes of one transformer, under their Hugging Face names."""

import dataclasses
import functools
import math
from typing import Any

from models.errors import ModelError, shown
from models.families import by_model_type
from models.family import Family
from models.layer_form import (
    AttentionForm,
    Experts,
    Latent,
    LayerForm,
    QueryKeyNorm,
    Rotation,
    Temperature,
)
from models.rope_scaling import check_positive, check_rope_scaling
from models.tensors import Tensor, outer_tensors, tensors_of

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
FULL, WINDOW, CHUNK = "full_attention", "sliding_attention", "chunked_attention"
LAYER_TYPES = (FULL, WINDOW, CHUNK)


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Sizes and constants of a decoder; counts are plain integers.

    What is given per layer has an entry for each of `num_hidden_layers`, or none at all.

    Attributes:
        name: What reports call the model.
        model_type: Its family, a key of `models.family.FAMILIES`.
        hidden_size: Width of the residual stream.
        intermediate_size: Width of the gated MLP of layers without experts.
        num_hidden_layers: Number of layers.
        num_attention_heads: Query heads.
        num_key_value_heads: Key and value heads; divides `num_attention_heads`.
        head_dim: Width of one head; even, because RoPE rotates pairs. Of a latent, of its turned
            features.
        vocab_size: Number of token ids.
        max_position_embeddings: Longest context, in tokens.
        rope_theta: Base of the RoPE frequencies.
        rope_scaling: None, or one of `models.rope_scaling.SCALING_FORMS`. Llama 3's has `rope_type`
            `"llama3"`, `factor`, `low_freq_factor`, `high_freq_factor` and
            `original_max_position_embeddings`.
        rms_norm_eps: Added to the mean square in every RMSNorm.
        tie_word_embeddings: Whether the embedding is also the output head.
        source: Where these numbers come from.
        rotary_dim: How many features of a head RoPE turns, even; None: all.
        rope_local_theta: Base in layers with a window, whose RoPE is then not scaled; None: as in
            all others.
        layer_types: What each layer attends to, of `LAYER_TYPES`; none: all that is before.
        sliding_window: How many keys a query sees in layers of `sliding_attention`.
        attention_chunk_size: Tokens of a chunk in layers of `chunked_attention`.
        rope_layers: Whether each layer has RoPE; none: all have.
        temperature: Of queries in layers without RoPE; None: there is none.
        attention_scale: Of scores; None: `head_dim ** -0.5`, of a latent that of its whole key.
        attention_soft_cap: Of scores; None: they have none.
        logit_soft_cap: Of logits; None: they have none.
        attention_bias: Whether queries, keys and values have a bias, if not in all of its family.
        attention_output_bias: Whether attention's output projection has a bias.
        query_key_norm: How queries and keys are normalised; None: as in all of its family.
        latent: Sizes of latent attention; None: keys and values are projected.
        experts: Of layers that have them; None: no layer has.
        expert_layers: Whether each layer has experts; none: all have, if there are any.
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
    rotary_dim: int | None = None
    rope_local_theta: float | None = None
    layer_types: tuple[str, ...] = ()
    sliding_window: int | None = None
    attention_chunk_size: int | None = None
    rope_layers: tuple[bool, ...] = ()
    temperature: Temperature | None = None
    attention_scale: float | None = None
    attention_soft_cap: float | None = None
    logit_soft_cap: float | None = None
    attention_bias: bool = False
    attention_output_bias: bool = False
    query_key_norm: QueryKeyNorm | None = None
    latent: Latent | None = None
    experts: Experts | None = None
    expert_layers: tuple[bool, ...] = ()

    def __post_init__(self) -> None:
        by_model_type(self.model_type, self.name)
        for field in SIZE_FIELDS:
            check_size(self.name, field, getattr(self, field))
        if self.num_attention_heads % self.num_key_value_heads:
            raise ModelError(
                f"{self.name}: num_attention_heads must be a multiple of num_key_value_heads, got "
                f"{self.num_attention_heads} and {self.num_key_value_heads}; correct the config"
            )
        for field in ("head_dim", "rotary_dim"):
            if (getattr(self, field) or 0) % 2:
                raise ModelError(
                    f"{self.name}: {field} must be even (RoPE rotates pairs), got "
                    f"{getattr(self, field)}; correct the config"
                )
        check_positive(self.name, "rope_theta", self.rope_theta)
        check_positive(self.name, "rms_norm_eps", self.rms_norm_eps)
        if self.rope_theta == 1:
            raise ModelError(
                f"{self.name}: rope_theta must not be 1, by which every pair would turn alike; "
                "correct the config"
            )
        if self.rope_scaling is not None:
            check_rope_scaling(self.name, self.rope_scaling, self.rotated_width)
        self._check_optional()
        self._check_layers()

    def _check_optional(self) -> None:
        """Sizes that a config may leave out."""
        for field in ("sliding_window", "attention_chunk_size", "rotary_dim"):
            if getattr(self, field) is not None:
                check_size(self.name, field, getattr(self, field))
        for field in ("attention_scale", "attention_soft_cap", "logit_soft_cap"):
            if getattr(self, field) is not None:
                check_positive(self.name, field, getattr(self, field))
        if self.rotated_width > self.head_dim:
            raise ModelError(
                f"{self.name}: rotary_dim must be at most head_dim, got {self.rotary_dim} and "
                f"{self.head_dim}; correct the config"
            )
        for part in ("latent", "experts"):
            sizes = getattr(self, part)
            for field, value in vars(sizes).items() if sizes is not None else ():
                # A width of 0 says of shared experts that there are none.
                if type(value) is int and value != 0:
                    check_size(self.name, f"{part}.{field}", value)
        if self.experts is not None:
            try:
                self.experts.routing  # noqa: B018
            except ValueError as error:
                raise ModelError(f"{self.name}: {error}; correct the config") from None

    def _check_layers(self) -> None:
        """What is given per layer."""
        layers = self.num_hidden_layers
        for field in ("layer_types", "rope_layers", "expert_layers"):
            given = len(getattr(self, field))
            if given not in (0, layers):
                raise ModelError(
                    f"{self.name}: {field} must have an entry for each of {layers} layers, got "
                    f"{given}; correct the config"
                )
        needed = {WINDOW: "sliding_window", CHUNK: "attention_chunk_size"}
        for kind in self.layer_types:
            if kind not in LAYER_TYPES:
                raise ModelError(
                    f"{self.name}: layer_types must be of {LAYER_TYPES}, got {shown(kind)}"
                )
            if kind in needed and getattr(self, needed[kind]) is None:
                raise ModelError(
                    f"{self.name}: layers of {kind} need {needed[kind]}, got none; complete the "
                    "config"
                )

    # --- what layers compute ---

    @property
    def family(self) -> Family:
        """Its family's facts: tensors, files, forms of arithmetic."""
        return by_model_type(self.model_type, self.name)

    @functools.cached_property
    def forms(self) -> tuple[LayerForm, ...]:
        """What each layer computes."""
        return tuple(self._form(layer) for layer in range(self.num_hidden_layers))

    @functools.cached_property
    def runs(self) -> tuple[range, ...]:
        """Layers one behind the other that have the same weights, as far as they go.

        DeepSeek-V3, whose first 3 of 61 layers have an MLP and the others experts: 0 to 2, 3 to 60.
        """
        runs: list[range] = []
        for layer, form in enumerate(self.forms):
            if runs and tensors_of(form) == tensors_of(self.forms[runs[-1].start]):
                runs[-1] = range(runs[-1].start, layer + 1)
            else:
                runs.append(range(layer, layer + 1))
        return tuple(runs)

    def _form(self, layer: int) -> LayerForm:
        kind = self.layer_types[layer] if self.layer_types else FULL
        turns = self.rope_layers[layer] if self.rope_layers else True
        has_experts = self.expert_layers[layer] if self.expert_layers else True
        attention = AttentionForm(
            scale=self._scale,
            rotation=self._rotation(kind) if turns else None,
            window=self.sliding_window if kind == WINDOW else None,
            chunk=self.attention_chunk_size if kind == CHUNK else None,
            # Llama 4 leaves out the norm where it leaves out RoPE.
            qk_norm=self._norm_of(turns),
            is_biased=self.attention_bias or self.family.has_biases,
            output_is_biased=self.attention_output_bias,
            has_sinks=self.family.has_sinks,
            soft_cap=self.attention_soft_cap,
            temperature=None if turns else self.temperature,
            latent=self.latent,
        )
        return LayerForm(
            attention,
            experts=self.experts if has_experts else None,
            activation=self.family.activation,
            has_output_norms=self.family.has_output_norms,
        )

    def _norm_of(self, turns: bool) -> QueryKeyNorm | None:
        stated = self.query_key_norm or self.family.query_key_norm
        # Llama 4 leaves out the norm where it leaves out RoPE.
        return None if stated == "unit" and not turns else stated

    def _rotation(self, kind: str) -> Rotation:
        if kind == WINDOW and self.rope_local_theta is not None:
            return Rotation(self.rotated_width, self.rope_local_theta, is_scaled=False)
        return Rotation(self.rotated_width, self.rope_theta)

    @property
    def _scale(self) -> float:
        if self.attention_scale is not None:
            return self.attention_scale
        return self.key_dim**-0.5

    @property
    def rotations(self) -> tuple[Rotation, ...]:
        """Every RoPE of its layers, each once."""
        found = (form.attention.rotation for form in self.forms)
        return tuple(dict.fromkeys(each for each in found if each is not None))

    @property
    def embedding_scale(self) -> float:
        """What the embedding is multiplied by before the first layer."""
        return math.sqrt(self.hidden_size) if self.family.scales_embedding else 1.0

    # --- widths ---

    @property
    def qk_norm(self) -> bool:
        """Whether q and k are RMS-normalised per head before RoPE; the kernels ask for it."""
        return (self.query_key_norm or self.family.query_key_norm) == "head"

    @property
    def rotated_width(self) -> int:
        """How many features of a head RoPE turns."""
        return self.head_dim if self.rotary_dim is None else self.rotary_dim

    @property
    def key_dim(self) -> int:
        """Features of a head's query and key."""
        return self.head_dim if self.latent is None else self.latent.key_width

    @property
    def value_dim(self) -> int:
        """Features of a head's value."""
        return self.head_dim if self.latent is None else self.latent.value_dim

    @property
    def query_width(self) -> int:
        """Width of all query heads together."""
        return self.num_attention_heads * self.head_dim

    @property
    def key_value_width(self) -> int:
        """Width of all keys of a token in one layer, and of all its values."""
        return self.num_key_value_heads * self.head_dim

    @property
    def query_rank(self) -> int:
        """Width of the queries' latent."""
        return self._latent.query_rank or 0

    @property
    def latent_rank(self) -> int:
        """Width of the latent of keys and values."""
        return self._latent.rank

    @property
    def latent_width(self) -> int:
        """Width of what a token leaves in the cache."""
        return self._latent.cached_width

    @property
    def latent_query_width(self) -> int:
        """Width of all queries that meet keys made of a latent."""
        return self.num_attention_heads * self._latent.key_width

    @property
    def latent_pair_width(self) -> int:
        """Width of all heads' plain keys and values, which the latent is made into."""
        each = self._latent.plain + self._latent.value_dim
        return self.num_attention_heads * each

    @property
    def latent_output_width(self) -> int:
        """Width of all heads' values."""
        return self.num_attention_heads * self._latent.value_dim

    @property
    def expert_width(self) -> int:
        """Width of one expert's MLP."""
        return self._experts.width

    @property
    def shared_width(self) -> int:
        """Width of the MLP that every token goes through beside its experts."""
        return self._experts.shared_width

    @property
    def _latent(self) -> Latent:
        assert self.latent is not None
        return self.latent

    @property
    def _experts(self) -> Experts:
        assert self.experts is not None
        return self.experts

    # --- weights ---

    @functools.cached_property
    def layers_with(self) -> dict[str, tuple[int, ...]]:
        """Which layers have each of the layers' weights, by its name.

        DeepSeek-V3: `w_gate` in layers 0 to 2, `expert_gate` in 3 to 60, `attn_norm` in all.
        """
        found: dict[str, list[int]] = {}
        for layer, form in enumerate(self.forms):
            for tensor in tensors_of(form):
                found.setdefault(tensor.name, []).append(layer)
        return {name: tuple(layers) for name, layers in found.items()}

    @property
    def layer_tensors(self) -> tuple[Tensor, ...]:
        """The weights of layers, each once."""
        first_of_runs = (self.forms[run.start] for run in self.runs)
        found = (tensor for form in first_of_runs for tensor in tensors_of(form))
        return tuple(dict.fromkeys(found))

    @property
    def outer_tensors(self) -> tuple[Tensor, ...]:
        """The weights outside the layers."""
        return outer_tensors(self.tie_word_embeddings)

    def shape_of(self, tensor: Tensor) -> tuple[int, ...]:
        """The lengths of a tensor's axes; of one layer's, where it is a layer's.

        `w_down` of Llama 3.1 8B, `("intermediate_size", "hidden_size")`, is `(14336, 4096)`.
        """
        return tuple(self.length_of(dimension) for dimension in tensor.shape)

    def length_of(self, dimension: str) -> int:
        """The length of an axis."""
        if dimension == "experts":
            return self._experts.count
        return getattr(self, dimension)

    @property
    def parameters(self) -> int:
        """Number of weights; a tied embedding counts once."""
        outside = sum(self._weights_in(tensor) for tensor in self.outer_tensors)
        inside = 0
        for tensor in self.layer_tensors:
            inside += len(self.layers_with[tensor.name]) * self._weights_in(tensor)
        return outside + inside

    @property
    def active_parameters(self) -> int:
        """Number of weights that a token meets: of the experts those that are chosen."""
        idle = 0
        for tensor in self.layer_tensors:
            if tensor.shape[0] == "experts" and self.experts is not None:
                share = self.experts.count - self.experts.chosen
                each = self._weights_in(tensor) // self.experts.count
                # What the router compares experts by, it compares all of them by.
                if tensor.name.startswith("expert_"):
                    idle += share * each * len(self.layers_with[tensor.name])
        return self.parameters - idle

    def _weights_in(self, tensor: Tensor) -> int:
        return math.prod(self.shape_of(tensor))


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
