"""A decoder's weights out of a file's tensors, which may hold several of them in one.

What files of either format hold otherwise than most, a family says (`Family.stored`,
`Family.stored_in_gguf`); what a tensor's bytes mean, the format's own reader.
"""

import dataclasses
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from models.config import ModelConfig
from models.errors import ModelError
from models.family import Stored
from models.loading.rope_rows import in_halves
from models.plain.weights import Weights
from models.tensors import LAYER_PREFIX, FileFormat, Tensor

Values = NDArray[np.float32]
Read = Callable[[str], Values]
"""From a tensor's name to its values."""

EXPERT = "{expert}"


def has_tensors_by_expert(config: ModelConfig) -> bool:
    """Whether Hugging Face's files of a model have a tensor for each expert."""
    held = (
        config.family.held(tensor, "hugging_face") for tensor in config.layer_tensors
    )
    return any(EXPERT in stored.name for stored in held)


def names_of(config: ModelConfig, file_format: FileFormat) -> set[str]:
    """Every tensor that a model's files must hold."""
    family = config.family
    found = {family.held(tensor, file_format).name for tensor in config.outer_tensors}
    for tensor in config.layer_tensors:
        stored = family.held(tensor, file_format)
        for layer in config.layers_with[tensor.name]:
            found.update(_names(config, stored, file_format, layer))
    return found


def _names(
    config: ModelConfig, stored: Stored, file_format: FileFormat, layer: int
) -> Iterator[str]:
    name = LAYER_PREFIX[file_format].format(layer=layer) + stored.name
    if EXPERT not in name:
        yield name
        return
    for expert in range(config.length_of("experts")):
        yield name.replace(EXPERT, str(expert))


def weights_of(
    config: ModelConfig, read: Read, file_format: FileFormat, source: str
) -> Weights:
    """The canonical pytree.

    Args:
        config: Whose weights.
        read: Gives a tensor as it is stored.
        file_format: Says what names and row orders are the files'.
        source: What errors call the files.

    Raises:
        ModelError: A tensor has another shape than the config says.
    """
    files = _Files(config, read, file_format, source)
    weights: Weights = {}
    for tensor in config.outer_tensors:
        name = config.family.held(tensor, file_format).name
        weights[tensor.name] = np.ascontiguousarray(files.ours(tensor, name))
    weights["layers"] = {}
    for tensor in config.layer_tensors:
        layers = config.layers_with[tensor.name]
        # The first layer is read, and its shape checked, before there is room for all: a size that
        # a file only claims may be of terabytes.
        first = files.of_layer(tensor, layers[0])
        # Filled layer by layer, so that one layer is held twice, not all of them.
        stack = np.empty((len(layers), *first.shape), np.float32)
        stack[0] = first
        for place, layer in enumerate(layers[1:], start=1):
            stack[place] = files.of_layer(tensor, layer)
        weights["layers"][tensor.name] = stack
    return weights


@dataclasses.dataclass(frozen=True)
class _Files:
    """The files of one model, and how to read them; see `weights_of`."""

    config: ModelConfig
    read: Read
    file_format: FileFormat
    source: str

    def of_layer(self, tensor: Tensor, layer: int) -> Values:
        """One layer's weight."""
        stored = self.config.family.held(tensor, self.file_format)
        names = list(_names(self.config, stored, self.file_format, layer))
        if EXPERT not in stored.name:
            return self.ours(tensor, names[0])
        return np.stack([self.ours(tensor, name) for name in names])

    def ours(self, tensor: Tensor, name: str) -> Values:
        """A stored tensor as we hold it; of one expert, where each has a tensor of its own."""
        family = self.config.family
        stored = family.held(tensor, self.file_format)
        values = self.read(name)
        if stored.transposed and values.ndim > 1:
            values = values.swapaxes(-1, -2)
        expected = self.config.shape_of(tensor)
        if EXPERT in stored.name:
            expected = expected[1:]
        where = f"{self.source}: tensor {name}"
        if stored.parts:
            values = _part(self.config, tensor, stored, values, where)
        if values.shape != expected:
            raise ModelError(
                f"{where} must hold {tensor.name} of {list(expected)}, got {list(values.shape)}; "
                "config and weights must belong together"
            )
        if self.file_format in family.interleaves_rope:
            values = in_halves(values, self.config, tensor)
        # GGUF's converters have added the 1.
        from_zero = self.file_format == "hugging_face" and family.norms_from_zero
        if tensor.is_norm and from_zero:
            values = values + np.float32(1)
        return values


def _part(
    config: ModelConfig, tensor: Tensor, stored: Stored, values: Values, where: str
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
            f"{where} must hold {list(stored.parts)} of {widths} outputs, got "
            f"{values.shape[-1]}; config.json and weights must belong together"
        )
    if stored.is_woven:
        return values[..., place :: len(widths)]
    first = sum(widths[:place])
    return values[..., first : first + widths[place]]


__all__ = ["has_tensors_by_expert", "names_of", "weights_of"]
