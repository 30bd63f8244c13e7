"""Weights that GGUF files of other years, or of other converters, hold in other tensors.

attn_kv_b      since April 2025 attn_k_b and attn_v_b: what makes keys of a latent, and values
ffn_gate_exps  before April 2024 ffn_gate.0, ffn_gate.1, …: an expert each; likewise up and down
ffn_gate_exps  with ffn_up_exps in one, ffn_gate_up_exps, where the converter was told to
"""

import dataclasses
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from models.config import ModelConfig
from models.errors import ModelError
from models.loading.gguf_file import GgufFile
from models.tensors import LATENT_PAIR, LAYER_PREFIX

Values = NDArray[np.float32]


@dataclasses.dataclass(frozen=True)
class Variant:
    """How a file holds one weight.

    Attributes:
        parts: The tensors that hold it.
        values: Its values on the axes of the usual tensor.
    """

    parts: tuple[str, ...]
    values: Callable[[], Values]


def variants(file: GgufFile, config: ModelConfig) -> dict[str, Variant]:
    """The weights that a file holds otherwise, by the name of the usual tensor.

    What it holds twice is not among them, so that the second stays unknown and is refused.

    Args:
        file: The header.
        config: What the metadata says.
    """
    found: dict[str, Variant] = {}
    for layer in range(config.num_hidden_layers):
        prefix = LAYER_PREFIX["gguf"].format(layer=layer)
        if config.latent is not None:
            found |= _of_latent(file, config, prefix)
        if config.experts is not None:
            found |= _of_experts(file, config, prefix)
    twice = {
        part
        for name, each in found.items()
        if name in file.tensors
        for part in each.parts
    }
    return {name: each for name, each in found.items() if not twice & set(each.parts)}


def _of_latent(file: GgufFile, config: ModelConfig, prefix: str) -> dict[str, Variant]:
    keys, values = f"{prefix}attn_k_b.weight", f"{prefix}attn_v_b.weight"
    if not {keys, values} <= file.tensors.keys():
        return {}
    joined = Variant((keys, values), lambda: _pair(file, config, keys, values))
    return {prefix + LATENT_PAIR.gguf: joined}


def _pair(file: GgufFile, config: ModelConfig, keys: str, values: str) -> Values:
    """Of each head first what makes keys and then what makes values.

    Returns:
        `[heads · (plain + value), rank]`, of `[heads, rank, plain]` and `[heads, value, rank]`.
    """
    latent, heads = config.latent, config.num_attention_heads
    assert latent is not None
    check_shape(file, keys, (heads, latent.rank, latent.plain))
    check_shape(file, values, (heads, latent.value_dim, latent.rank))
    both = [file.read(keys).swapaxes(1, 2), file.read(values)]
    return np.concatenate(both, axis=1).reshape(-1, latent.rank)


def _of_experts(file: GgufFile, config: ModelConfig, prefix: str) -> dict[str, Variant]:
    found = {}
    both = f"{prefix}ffn_gate_up_exps.weight"
    count = config.length_of("experts")
    for place, part in enumerate(("gate", "up", "down")):
        usual = f"{prefix}ffn_{part}_exps.weight"
        if part != "down" and both in file.tensors:
            found[usual] = Variant((both,), _half(file, config, both, place))
        # Of a million experts the names alone would fill the memory.
        one_by_one = f"{prefix}ffn_{part}.0.weight" in file.tensors
        if one_by_one and count <= len(file.tensors):
            each = tuple(
                f"{prefix}ffn_{part}.{expert}.weight" for expert in range(count)
            )
            found[usual] = Variant(each, _stacked(file, each))
    return found


def _half(
    file: GgufFile, config: ModelConfig, name: str, place: int
) -> Callable[[], Values]:
    """The outputs of the gate, which come first, or those of `up`."""
    width = config.expert_width
    shape = config.length_of("experts"), 2 * width, config.hidden_size

    def values() -> Values:
        check_shape(file, name, shape)
        return file.read(name)[:, place * width : (place + 1) * width]

    return values


def _stacked(file: GgufFile, names: tuple[str, ...]) -> Callable[[], Values]:
    """Experts of which each has a tensor."""

    def values() -> Values:
        first = file.tensors[names[0]].shape
        for name in names:
            check_shape(file, name, first)
        return np.stack([file.read(name) for name in names])

    return values


def check_shape(file: GgufFile, name: str, shape: tuple[int, ...]) -> None:
    """Raises ModelError unless a tensor has this shape."""
    if file.tensors[name].shape != shape:
        raise ModelError(
            f"{file.path}: tensor {name} must be {list(shape)}, got "
            f"{list(file.tensors[name].shape)}; metadata and tensors must belong together"
        )


__all__ = ["Variant", "variants"]
