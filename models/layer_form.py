"""What one layer of a decoder computes, whatever family it is of.

A `LayerForm` is worked out from a config, once for every layer, and all that computes a layer asks
it: the oracle, the kernels of both machines, and the table of sizes. Layers of equal forms compute
the same on weights of their own.
"""

import dataclasses
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from kernels.moe.routing import Routing

Activation: TypeAlias = Literal["silu", "gelu_tanh", "clamped_swiglu"]
"""What a gated MLP makes of its gate `g` and its `u`.

    silu            u · g / (1 + e^-g)
    gelu_tanh       u · g / 2 · (1 + tanh(sqrt(2 / pi) · (g + 0.044715 g³)))
    clamped_swiglu  (u' + 1) · g' / (1 + e^(-1.702 g')), g' at most 7, u' from -7 to 7 (gpt-oss)
"""

QueryKeyNorm: TypeAlias = Literal["head", "width", "unit"]
"""How queries and keys are normalised: per head before RoPE, by weights that all heads share; all
heads together before RoPE, by weights of their own; or per head after RoPE, without weights."""

CLAMP_LIMIT = 7.0
CLAMP_SLOPE = 1.702
"""Of `clamped_swiglu`: `swiglu_limit` and `swiglu_alpha` of gpt-oss' configs."""


@dataclasses.dataclass(frozen=True)
class Rotation:
    """RoPE of a layer.

    Attributes:
        width: How many features of a head turn, from the first on; even.
        theta: Base of the frequencies.
        is_scaled: Whether the config's `rope_scaling` applies.
    """

    width: int
    theta: float
    is_scaled: bool = True


@dataclasses.dataclass(frozen=True)
class Latent:
    """Multi-head latent attention (DeepSeek-V2, arXiv:2405.04434, section 2.1).

    Attributes:
        query_rank: Width of the queries' latent; None: queries are projected at once.
        rank: Width of the latent that keys and values are made of.
        plain: Features of a head's query and key that do not turn.
        turned: Those that do; of a key, all heads share them.
        value_dim: Features of a head's value.
    """

    query_rank: int | None
    rank: int
    plain: int
    turned: int
    value_dim: int

    @property
    def key_width(self) -> int:
        """Features of a head's query and key."""
        return self.plain + self.turned

    @property
    def cached_width(self) -> int:
        """What a token leaves in the cache: its latent, and the turned features of its key."""
        return self.rank + self.turned


@dataclasses.dataclass(frozen=True)
class Temperature:
    """Queries are multiplied by `1 + slope · log(1 + floor((position + 1) / floor))` (Llama 4)."""

    floor: float
    slope: float


@dataclasses.dataclass(frozen=True)
class AttentionForm:
    """The attention of a layer.

    Attributes:
        scale: Of scores.
        rotation: RoPE; None: positions are not told.
        window: How many keys a query sees, itself the last; None: all before it.
        chunk: A query sees its own chunk of so many tokens, up to itself; None: there are none.
        qk_norm: How queries and keys are normalised; None: not at all.
        is_biased: Whether queries, keys and values have a bias.
        output_is_biased: Whether the output projection has.
        has_sinks: Whether each head has one more score that is learned and has no value.
        soft_cap: Scores become `soft_cap · tanh(score / soft_cap)`; None: they stay.
        temperature: Of queries; None: they stay.
        latent: Where keys and values are made of a latent; None: they are projected.
    """

    scale: float
    rotation: Rotation | None
    window: int | None = None
    chunk: int | None = None
    qk_norm: QueryKeyNorm | None = None
    is_biased: bool = False
    output_is_biased: bool = False
    has_sinks: bool = False
    soft_cap: float | None = None
    temperature: Temperature | None = None
    latent: Latent | None = None


@dataclasses.dataclass(frozen=True)
class Experts:
    """A mixture of experts in place of an MLP.

    Attributes:
        count: Experts.
        chosen: Experts of a token.
        width: Of an expert's MLP.
        shared_width: Of the gated MLP that every token goes through besides; 0: there is none.
        score: "softmax" or "sigmoid", see `kernels.moe.routing.Routing` for this and what follows.
        selection_bias: Whether experts are compared with a learned bias.
        groups: Of experts.
        chosen_groups: Groups of a token.
        normalised: Whether the chosen weights add up to `scale`.
        scale: Of the weights.
        on_input: Whether weights multiply an expert's input.
        is_biased: Whether the router's and the experts' projections have biases.
    """

    count: int
    chosen: int
    width: int
    shared_width: int = 0
    score: Literal["softmax", "sigmoid"] = "softmax"
    selection_bias: bool = False
    groups: int = 1
    chosen_groups: int = 1
    normalised: bool = True
    scale: float = 1.0
    on_input: bool = False
    is_biased: bool = False

    @property
    def routing(self) -> "Routing":
        """The router, as kernels take it; raises ValueError where it cannot choose so many."""
        # Sizes alone must not load JAX, which the kernels' package does.
        from kernels.moe.routing import Routing

        return Routing(
            experts=self.count,
            chosen=self.chosen,
            score=self.score,
            selection_bias=self.selection_bias,
            groups=self.groups,
            chosen_groups=self.chosen_groups,
            normalised=self.normalised,
            scale=self.scale,
            on_input=self.on_input,
        )


@dataclasses.dataclass(frozen=True)
class LayerForm:
    """A layer.

    Attributes:
        attention: Its attention.
        experts: Its mixture of experts; None: it has a gated MLP.
        activation: Of the MLP, and of the experts.
        has_output_norms: Whether attention's and the MLP's outputs are normalised too, before they
            are added to the residual stream (Gemma).
    """

    attention: AttentionForm
    experts: Experts | None = None
    activation: Activation = "silu"
    has_output_norms: bool = False
