"""A decoder's weights out of Hugging Face's tensors, which may hold several of them in one."""

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from models.config import ModelConfig
from models.errors import ModelError
from models.family import Stored
from models.loading.rope_rows import in_halves
from models.plain.weights import Weights
from models.tensors import LAYER_PREFIX, Tensor

Values = NDArray[np.float32]
Read = Callable[[str], Values]
"""From a tensor's name to its values."""

EXPERT = "{expert}"


def names_of(config: ModelConfig) -> set[str]:
    """Every tensor that a model's files must hold."""
    found = {
        config.family.in_hugging_face(tensor).name for tensor in config.outer_tensors
    }
    for tensor in config.layer_tensors:
        for layer in config.layers_with[tensor.name]:
            found.update(_names(config, config.family.in_hugging_face(tensor), layer))
    return found


def _names(config: ModelConfig, stored: Stored, layer: int) -> Iterator[str]:
    name = LAYER_PREFIX["hugging_face"].format(layer=layer) + stored.name
    if EXPERT not in name:
        yield name
        return
    for expert in range(config.length_of("experts")):
        yield name.replace(EXPERT, str(expert))


def weights_of(config: ModelConfig, read: Read) -> Weights:
    """The canonical pytree.

    Args:
        config: Whose weights.
        read: Gives a tensor as it is stored.

    Raises:
        ModelError: A tensor has another shape than the config says.
    """
    weights: Weights = {}
    for tensor in config.outer_tensors:
        stored = config.family.in_hugging_face(tensor)
        values = _ours(config, tensor, stored, read(stored.name), stored.name)
        weights[tensor.name] = np.ascontiguousarray(values)
    weights["layers"] = {}
    for tensor in config.layer_tensors:
        layers = config.layers_with[tensor.name]
        # Filled layer by layer, so that one layer is held twice, not all of them.
        stack = np.empty((len(layers), *config.shape_of(tensor)), np.float32)
        for place, layer in enumerate(layers):
            stack[place] = _of_layer(config, tensor, layer, read)
        weights["layers"][tensor.name] = stack
    return weights


def _of_layer(config: ModelConfig, tensor: Tensor, layer: int, read: Read) -> Values:
    stored = config.family.in_hugging_face(tensor)
    names = list(_names(config, stored, layer))
    if EXPERT not in stored.name:
        return _ours(config, tensor, stored, read(names[0]), names[0])
    each = [_ours(config, tensor, stored, read(name), name) for name in names]
    return np.stack(each)


def _ours(
    config: ModelConfig, tensor: Tensor, stored: Stored, values: Values, name: str
) -> Values:
    """A stored tensor as we hold it; of one expert, where each has a tensor of its own."""
    if stored.transposed and values.ndim > 1:
        values = values.swapaxes(-1, -2)
    expected = config.shape_of(tensor)
    if EXPERT in stored.name:
        expected = expected[1:]
    if stored.parts:
        values = _part(config, tensor, stored, values, name)
    if values.shape != expected:
        raise ModelError(
            f"{name} must hold {tensor.name} of {list(expected)}, got {list(values.shape)}; "
            "config.json and weights must belong together"
        )
    if "hugging_face" in config.family.interleaves_rope:
        values = in_halves(values, config, tensor)
    if tensor.is_norm and config.family.norms_from_zero:
        values = values + np.float32(1)
    return values


def _part(
    config: ModelConfig, tensor: Tensor, stored: Stored, values: Values, name: str
) -> Values:
    """The outputs of one of the weights that a tensor holds together.

    Phi-3's `qkv_proj` of 4 heads of 8 and 2 KV heads has 64 outputs: `wq` 0 to 31, `wk` 32 to 47,
    `wv` 48 to 63. gpt-oss' `gate_up_proj` is woven: the gate has outputs 0, 2, 4, ….
    """
    by_name = {each.name: each for each in config.layer_tensors}
    widths = [config.shape_of(by_name[part])[-1] for part in stored.parts]
    place = stored.parts.index(tensor.name)
    if values.shape[-1] != sum(widths):
        raise ModelError(
            f"{name} must hold {list(stored.parts)} of {widths} outputs, got "
            f"{values.shape[-1]}; config.json and weights must belong together"
        )
    if stored.is_woven:
        return values[..., place :: len(widths)]
    first = sum(widths[:place])
    return values[..., first : first + widths[place]]


__all__ = ["names_of", "weights_of"]
