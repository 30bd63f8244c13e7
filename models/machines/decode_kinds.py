"""A model's layers on the wafer: their forms and variants as decode's kernels take them."""

import numpy as np

from kernels.attention.layers import DecoderVariant
from kernels.moe.wafer import ExpertMlp
from kernels.wse.decode.activation import Activation
from kernels.wse.decode.demand import EndsForm, LayerKind
from kernels.wse.decode.form import DecodeForm
from models.attention_pattern import Attention, pattern_of
from models.config import ModelConfig
from models.family_attention import is_causal, variant_of
from models.layer_form import Experts, LayerForm, Temperature
from models.machines.latents import latent_heads


def kinds_of(
    config: ModelConfig, attention: Attention
) -> tuple[tuple[LayerKind, ...], tuple[int, ...]]:
    """The kinds of a model's layers, each once, and which of them each layer is.

    Layers of one kind are one program. SmolLM3's layers with RoPE are one, and those without it
    another; Gemma-3's with windows and without are two as well, with RoPEs of other angles.

    Args:
      config: of the model, whose forms the wafer computes.
      attention: a variant for all layers, or several as a pattern over them; None: causal.

    Raises:
      ModelError: `attention` is none of a model of so many layers.
    """
    layers = config.num_hidden_layers
    pattern = pattern_of(attention, layers)
    variants: list[DecoderVariant | None] = [None] * layers
    if pattern is not None:
        # Not `pattern.causal`: a cache holds no key behind its token, so nobody need look.
        distinct = [DecoderVariant(x.reading, x.scale) for x in pattern.distinct]
        variants = [distinct[number] for number in pattern.kinds(layers)]
    each = [
        LayerKind(decode_form(form), variant)
        for form, variant in zip(config.forms, variants, strict=True)
    ]
    kinds = tuple(dict.fromkeys(each))
    return kinds, tuple(kinds.index(kind) for kind in each)


def kind_of(config: ModelConfig, layer: int) -> LayerKind:
    """The kind of one layer, for its clock: its sinks, if it has any, are zeros.

    Args:
      config: of the model, whose forms the wafer computes.
      layer: which of its layers.
    """
    form, variant = config.forms[layer], None
    if not is_causal(form.attention, config, scales=True):
        sinks = np.zeros(config.num_attention_heads, np.float32)
        found = variant_of(form.attention, sinks)
        variant = DecoderVariant(found.reading, found.scale)
    return LayerKind(decode_form(form), variant)


def kinds_of_forms(
    config: ModelConfig,
) -> tuple[tuple[LayerKind, ...], tuple[int, ...]]:
    """As `kinds_of`, for clock and bytes alone: layers of one form are of one kind.

    gpt-oss's layers have sinks of their own, and so are as many kinds to a decoder as they are; how
    many bytes and cycles they take does not depend on what the sinks are.
    """
    distinct = list(dict.fromkeys(config.forms))
    kinds = tuple(kind_of(config, config.forms.index(form)) for form in distinct)
    return kinds, tuple(distinct.index(form) for form in config.forms)


def decode_form(form: LayerForm) -> DecodeForm:
    """A layer's form as decode's kernels take it, but for its mask and what else is a variant."""
    attention = form.attention
    rotary_dim = 0 if attention.rotation is None else attention.rotation.width
    if attention.latent is not None:
        # Its sizes say what turns.
        rotary_dim = None
    activation = Activation(form.activation)
    return DecodeForm(
        mlp=None if form.experts is None else expert_mlp(form.experts, activation),
        activation=activation,
        qkv_bias=attention.is_biased,
        out_bias=attention.output_is_biased,
        output_norms=form.has_output_norms,
        rotary_dim=rotary_dim,
        wide_qk_norm=attention.qk_norm == "width",
        unit_qk_norm=attention.qk_norm == "unit",
        has_temperature=attention.temperature is not None,
        score_scale=attention.scale,
        latent=latent_heads(attention.latent),
    )


def expert_mlp(experts: Experts, activation: Activation) -> ExpertMlp:
    """A mixture of experts, whose shared MLP is as many further experts as it is times as wide."""
    return ExpertMlp(
        experts.routing,
        ffn=experts.width,
        shared=experts.shared_width // experts.width,
        activation=activation,
        router_bias=experts.is_biased,
        bias=experts.is_biased,
    )


def ends_of(config: ModelConfig) -> EndsForm:
    """What a model's embedding and output head compute."""
    return EndsForm(config.embedding_scale, config.logit_soft_cap)


def temperature_at(temperature: Temperature, position: int) -> np.ndarray:
    """What queries at a position are multiplied by, float32 `[1]`."""
    steps = np.floor((position + 1) / temperature.floor)
    factor = 1 + temperature.slope * np.log1p(steps)
    return np.asarray([factor], np.float32)


__all__ = [
    "decode_form",
    "ends_of",
    "kind_of",
    "kinds_of",
    "kinds_of_forms",
    "temperature_at",
]
