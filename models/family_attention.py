"""A layer's own attention as a variant: what goes through the same door as a researcher's."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from kernels import masks
from kernels.attention.decorator import attention
from kernels.attention.variant import Variant
from kernels.masks import Mask
from kernels.variants.learned_sink import learned_sink
from kernels.variants.soft_cap import soft_cap
from models.config import ModelConfig
from models.errors import ModelError
from models.layer_form import AttentionForm


def own_attention(
    config: ModelConfig, weights: Mapping[str, Any], scales: bool = False
) -> list[Variant] | None:
    """The variants of a model's layers; None where all are causal softmax attention.

    Args:
        config: Of the model.
        weights: Its canonical pytree, from which sinks are taken; of shapes alone they are 0, which
            cost what others do.
        scales: Whether the machine scales scores as a layer's form says, so that a scale of its own
            makes no variant.
    """
    forms = [layer.attention for layer in config.forms]
    if all(is_causal(form, config, scales) for form in forms):
        return None
    sinks = weights["layers"].get("sinks")
    if isinstance(sinks, jax.ShapeDtypeStruct):
        sinks = np.zeros(sinks.shape, np.float32)
    # Layers of one form share a variant, so that kernels are traced once for all of them.
    shared = {form: variant_of(form) for form in forms if not form.has_sinks}
    return [
        variant_of(form, sinks[layer]) if form.has_sinks else shared[form]
        for layer, form in enumerate(forms)
    ]


def is_causal(form: AttentionForm, config: ModelConfig, scales: bool = False) -> bool:
    """Whether it is plain causal softmax attention, at the usual scale unless any will do."""
    sees_all = form.window is None and form.chunk is None
    usual = scales or form.scale == config.key_dim**-0.5
    return sees_all and usual and form.soft_cap is None and not form.has_sinks


def variant_of(
    form: AttentionForm, sinks: np.ndarray | jax.Array | None = None
) -> Variant:
    """The variant of a layer.

    Args:
        form: Of its attention.
        sinks: `[heads]`, where it has them.

    Raises:
        ModelError: Sinks and a soft-cap at once, which no known model has.
    """
    mask = mask_of(form)
    if form.has_sinks and form.soft_cap is not None:
        raise ModelError("attention with sinks and a soft-cap at once is not supported")
    if form.has_sinks:
        assert sinks is not None
        variant = learned_sink(sinks, mask)
    elif form.soft_cap is not None:
        variant = soft_cap(form.soft_cap, mask)
    else:
        variant = attention(mask)
    return with_scale(variant, form.scale)


def mask_of(form: AttentionForm) -> Mask:
    """Which keys a query of the layer sees."""
    if form.window is not None:
        return masks.window(form.window)
    if form.chunk is not None:
        return masks.chunked(form.chunk)
    return masks.causal


def with_scale(variant: Variant, scale: float) -> Variant:
    """A variant whose scores are scaled so, if it does not say otherwise itself."""
    if variant.scale is not None:
        return variant
    return dataclasses.replace(variant, scale=scale)


__all__ = ["is_causal", "mask_of", "own_attention", "variant_of", "with_scale"]
