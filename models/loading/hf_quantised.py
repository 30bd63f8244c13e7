"""`quantization_config` of a config.json: the forms whose weights are dequantised here.

Weights alone: what a config says of activations is how fast kernels compute, in eight bits, and
here all arithmetic is float32. A form that stores anything else is refused by name.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from models.errors import ModelError, shown
from models.loading.dequantised import of_int4, of_mxfp4, of_scales

Stored: TypeAlias = Callable[[str, tuple[str, ...]], NDArray[Any]]
"""From a tensor's name, and what it may be stored as, to its elements."""

FP8, SCALES = ("F8_E4M3",), ("F32", "BF16", "F16")
ANYTHING = "anything"
# What `quant_method: fp8` may say (transformers, FineGrainedFP8Config; DeepSeek-V3's config.json).
OF_FP8: dict[str, Any] = {
    "quant_method": ("fp8",),
    "activation_scheme": ("dynamic", None),
    "fmt": ("e4m3", "float8_e4m3fn", None),
    # That scales are powers of two.
    "scale_fmt": ("ue8m0", "float", None),
    "dequantize": (False, True, None),
    "weight_block_size": ANYTHING,
    "modules_to_not_convert": ANYTHING,
    "ignored_layers": ANYTHING,
}
OF_MXFP4: dict[str, Any] = {
    "quant_method": ("mxfp4",),
    "dequantize": (False, True, None),
    "modules_to_not_convert": ANYTHING,
}
# compressed-tensors, QuantizationConfig and QuantizationArgs.
OF_COMPRESSED: dict[str, Any] = {
    "quant_method": ("compressed-tensors",),
    "format": ("float-quantized", "pack-quantized"),
    "quantization_status": ("compressed", None),
    "kv_cache_scheme": (None,),
    "sparsity_config": (None, {}),
    "transform_config": (None, {}),
    "config_groups": ANYTHING,
    "global_compression_ratio": ANYTHING,
    "ignore": ANYTHING,
    "version": ANYTHING,
}
OF_GROUP: dict[str, Any] = {
    "output_activations": (None,),
    "format": ("float-quantized", "pack-quantized", None),
    "input_activations": ANYTHING,
    "weights": ANYTHING,
    "targets": ANYTHING,
}
OF_WEIGHTS: dict[str, Any] = {
    "symmetric": (True,),
    "dynamic": (False, None),
    "actorder": (None, "static", "weight"),
    "scale_dtype": (None,),
    "zp_dtype": (None,),
    "num_bits": ANYTHING,
    "type": ANYTHING,
    "strategy": ANYTHING,
    "group_size": ANYTHING,
    "block_structure": ANYTHING,
    "observer": ANYTHING,
    "observer_kwargs": ANYTHING,
}


@dataclasses.dataclass(frozen=True)
class Quantisation:
    """How a folder stores its quantised weights.

    Attributes:
        suffixes: What stands behind a weight's name, in place of `ending`, of each tensor that
            holds a part of it.
        ending: Of a weight's name.
        values: Its values on the axes of the plain tensor, from the reader, the tensors' names and
            what errors call it.
    """

    suffixes: tuple[str, ...]
    ending: str
    values: Callable[[Stored, tuple[str, ...], str], NDArray[np.float32]]

    def parts(self, name: str) -> tuple[str, ...]:
        """The tensors that hold a weight if it is quantised; none where it cannot be."""
        if not name.endswith(self.ending):
            return ()
        stem = name.removesuffix(self.ending)
        return tuple(stem + suffix for suffix in self.suffixes)


def quantisation_of(values: Mapping[str, Any], name: str) -> Quantisation | None:
    """What a config.json says of its weights; None where they are plain.

    Args:
        values: Its contents.
        name: What errors call the model.

    Raises:
        ModelError: It asks for what is not dequantised here.
    """
    stated = values.get("quantization_config")
    if stated is None:
        return None
    place = f"{name}: quantization_config"
    methods: dict[str, Callable[[Mapping[str, Any], str], Quantisation]] = {
        "fp8": _fp8,
        "mxfp4": _mxfp4,
        "compressed-tensors": _compressed,
    }
    method = stated.get("quant_method") if isinstance(stated, Mapping) else None
    if not isinstance(method, str) or method not in methods:
        raise ModelError(
            f"{place}={shown(stated)} is not supported; supported are the quant_methods "
            f"{sorted(methods)}"
        )
    return methods[method](stated, place)


def check_fields(
    stated: Any, accepted: Mapping[str, Any], place: str
) -> Mapping[str, Any]:
    """The object; ModelError where it is none, or a field says what is not accepted."""
    if not isinstance(stated, Mapping):
        raise ModelError(f"{place} must be an object, got {shown(stated)}")
    for field, value in stated.items():
        known = accepted.get(field, (None,))
        if known != ANYTHING and value not in known:
            raise ModelError(
                f"{place}.{field}={shown(value)} is not supported; supported is {known[0]!r}"
            )
    return stated


# --- methods ---


def _fp8(stated: Mapping[str, Any], place: str) -> Quantisation:
    check_fields(stated, OF_FP8, place)
    size = stated.get("weight_block_size")
    block = None if size is None else _block(size, f"{place}.weight_block_size")
    return _with_scales("weight_scale_inv", lambda shape: block)


def _mxfp4(stated: Mapping[str, Any], place: str) -> Quantisation:
    check_fields(stated, OF_MXFP4, place)

    def values(
        stored: Stored, parts: tuple[str, ...], where: str
    ) -> NDArray[np.float32]:
        blocks, scales = (stored(part, ("U8",)) for part in parts)
        # Blocks lie along inputs, and gpt-oss' plain tensors have outputs last.
        return of_mxfp4(blocks, scales, where).swapaxes(-1, -2)

    return Quantisation(("_proj_blocks", "_proj_scales"), "_proj", values)


def _compressed(stated: Mapping[str, Any], place: str) -> Quantisation:
    check_fields(stated, OF_COMPRESSED, place)
    groups = stated.get("config_groups")
    if not isinstance(groups, Mapping) or len(groups) != 1:
        raise ModelError(
            f"{place}.config_groups must be an object of one group, got {shown(groups)}; others "
            "are not supported"
        )
    ((group_name, group),) = groups.items()
    place = f"{place}.config_groups.{group_name}"
    check_fields(group, OF_GROUP, place)
    inputs = group.get("input_activations")
    # Scales of activations that are worked out beforehand would be stored.
    if inputs is not None and (
        not isinstance(inputs, Mapping) or inputs.get("dynamic") is not True
    ):
        raise ModelError(
            f"{place}.input_activations={shown(inputs)} is not supported; supported are none, and "
            "those with dynamic true"
        )
    place = f"{place}.weights"
    weights = check_fields(group.get("weights"), OF_WEIGHTS, place)
    if weights.get("symmetric") is not True:
        raise ModelError(f"{place}.symmetric must be true; zero points are not read")
    kind = stated.get("format"), weights.get("type"), weights.get("num_bits")
    if kind == ("float-quantized", "float", 8):
        return _with_scales("weight_scale", _blocks_of(weights, place))
    if kind == ("pack-quantized", "int", 4):
        return _packed(_group_of(weights, place))
    raise ModelError(
        f"{place}: format, type and num_bits {shown(list(kind))} are not supported; supported are "
        "float-quantized floats of 8 bits and pack-quantized ints of 4"
    )


# --- stored forms ---

Blocks: TypeAlias = Callable[[tuple[int, ...]], tuple[int, int] | None]
"""From a matrix's shape to what shares a scale, see `of_scales`."""


def _with_scales(suffix: str, blocks: Blocks) -> Quantisation:
    """FP8 with a tensor of scales beside it."""

    def values(
        stored: Stored, parts: tuple[str, ...], where: str
    ) -> NDArray[np.float32]:
        elements, scale = stored(parts[0], FP8), stored(parts[1], SCALES)
        return of_scales(elements, scale, blocks(elements.shape), where)

    return Quantisation(("weight", suffix), "weight", values)


def _packed(group: int | None) -> Quantisation:
    """Integers of four bits."""

    def values(
        stored: Stored, parts: tuple[str, ...], where: str
    ) -> NDArray[np.float32]:
        packed, scale = stored(parts[0], ("I32",)), stored(parts[1], SCALES)
        return of_int4(packed, scale, stored(parts[2], ("I64", "I32")), group, where)

    suffixes = ("weight_packed", "weight_scale", "weight_shape")
    return Quantisation(suffixes, "weight", values)


def _blocks_of(weights: Mapping[str, Any], place: str) -> Blocks:
    strategy = weights.get("strategy")
    if strategy == "tensor":
        return lambda shape: None
    if strategy == "channel":
        return lambda shape: (1, shape[-1])
    if strategy == "block":
        block = _block(weights.get("block_structure"), f"{place}.block_structure")
        return lambda shape: block
    raise ModelError(
        f"{place}.strategy={shown(strategy)} is not supported; supported are tensor, channel, block"
    )


def _group_of(weights: Mapping[str, Any], place: str) -> int | None:
    strategy, group = weights.get("strategy"), weights.get("group_size")
    if strategy == "channel":
        return None
    if strategy != "group" or type(group) is not int or group < 1:
        raise ModelError(
            f"{place}: strategy {shown(strategy)} with group_size {shown(group)} is not supported; "
            "supported are channel, and group with a whole number from 1"
        )
    return group


def _block(size: Any, place: str) -> tuple[int, int]:
    whole = isinstance(size, list) and all(type(x) is int and x >= 1 for x in size)
    if not whole or len(size) != 2:
        raise ModelError(
            f"{place} must be two whole numbers from 1, got {shown(size)}; correct the config"
        )
    return size[0], size[1]


__all__ = ["Quantisation", "quantisation_of"]
