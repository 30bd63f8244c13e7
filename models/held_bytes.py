"""Bytes of a model's weights and of its cache under a precision plan."""

import math

from kernels.formats.formats import FORMATS, Format, of_activations
from models.config import ModelConfig
from models.precision import Precision
from models.tensors import EXPERTS, ROUTER, Tensor

OF_EXPERTS = frozenset(tensor.name for tensor in EXPERTS)


def is_coded(tensor: Tensor) -> bool:
    """Whether a plan may hold a layer's weight in codes: that of any product but the router's."""
    return not (tensor.is_norm or tensor.is_added or tensor.name == ROUTER.name)


def held_as(tensor: Tensor, plan: Precision) -> Format:
    """What a layer's weight is held in."""
    if not is_coded(tensor):
        return FORMATS[plan.wide]
    return plan.experts if tensor.name in OF_EXPERTS else plan.weights


def weight_bytes(config: ModelConfig, plan: Precision) -> int:
    """Of all weights; those that are in no codes are in the plan's wide dtype.

    SmolLM2-135M has 269 MB in bfloat16 and 165 in MXFP8: its embedding, 57 MB, stays as it is.
    """
    wide = FORMATS[plan.wide]
    total = 0
    for tensor in config.outer_tensors:
        total += wide.held_bytes(1, math.prod(config.shape_of(tensor)))
    for tensor in config.layer_tensors:
        shape, held = config.shape_of(tensor), held_as(tensor, plan)
        if held.is_coded:
            *others, rows, columns = shape
            each = math.prod(others) * held.held_bytes(rows, columns)
        else:
            each = held.held_bytes(1, math.prod(shape))
        total += len(config.layers_with[tensor.name]) * each
    return total


def cache_bytes_a_token(config: ModelConfig, plan: Precision) -> int:
    """By which the cache of all layers grows with a token: keys and values, or latents."""
    held = of_activations(plan.cache)
    if config.latent is not None:
        latent = config.latent
        each = sum(held.held_bytes(n, 1) for n in (latent.rank, latent.turned))
        return config.num_hidden_layers * each
    of_head = held.held_bytes(config.head_dim, 1)
    return config.num_hidden_layers * 2 * config.num_key_value_heads * of_head


__all__ = ["cache_bytes_a_token", "held_as", "is_coded", "weight_bytes"]
