"""Reference folders whose weights are quantised, and what they then stand for, in float64.

Each form is written down element by element, from its definition and not from the loaders' code.
"""

import dataclasses
import json
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import ml_dtypes
import numpy as np
import safetensors.numpy

from tests.models.loading.files import edit_config

Tensors = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Form:
    """A way to store weights.

    Attributes:
        config: `quantization_config`.
        store: Gives a weight's tensors, by the ending of their names, and its values in float64.
    """

    config: dict[str, Any]
    store: Callable[[np.ndarray], tuple[Tensors, np.ndarray]]


def fp8(values: np.ndarray, scale: np.ndarray, rows: int, columns: int) -> Any:
    """Elements of FP8 and their exact products with scales, each of `rows` by `columns`."""
    products = np.empty(values.shape)
    elements = np.empty(values.shape, ml_dtypes.float8_e4m3fn)
    for row, column in np.ndindex(*values.shape):
        its = scale[row // rows, column // columns]
        elements[row, column] = values[row, column] / its
        products[row, column] = np.float64(elements[row, column]) * np.float64(its)
    return elements, products


def scales_for(values: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """A scale for each block, by which its largest value is 448, the largest of FP8."""
    shape = -(-values.shape[0] // rows), -(-values.shape[1] // columns)
    scale = np.empty(shape, np.float32)
    for row, column in np.ndindex(*shape):
        block = values[row * rows :, column * columns :][:rows, :columns]
        scale[row, column] = np.abs(block).max() / 448
    return scale


def by_block(values: np.ndarray, suffix: str) -> tuple[Tensors, np.ndarray]:
    """Blocks of 8 outputs by 12 inputs, of which no matrix of 32 by 32 has whole ones."""
    scale = scales_for(values, 8, 12)
    elements, products = fp8(values, scale, 8, 12)
    return {"weight": elements, suffix: scale}, products


def by_tensor(values: np.ndarray, suffix: str) -> tuple[Tensors, np.ndarray]:
    scale = scales_for(values, *values.shape)
    elements, products = fp8(values, scale, *values.shape)
    return {"weight": elements, suffix: scale.reshape(1)}, products


def by_output(values: np.ndarray, suffix: str) -> tuple[Tensors, np.ndarray]:
    """Scales in bfloat16, as published folders have them."""
    scale = scales_for(values, 1, values.shape[1]).astype(ml_dtypes.bfloat16)
    elements, products = fp8(values, scale, 1, values.shape[1])
    return {"weight": elements, suffix: scale}, products


def four_bits(values: np.ndarray) -> tuple[Tensors, np.ndarray]:
    """Groups of 4 inputs, eight elements in an int32, the first lowest."""
    outputs, inputs = values.shape
    scale = np.empty((outputs, inputs // 4), ml_dtypes.bfloat16)
    packed = np.zeros((outputs, -(-inputs // 8)), np.int64)
    products = np.empty(values.shape)
    for row, column in np.ndindex(*values.shape):
        if column % 4 == 0:
            scale[row, column // 4] = np.abs(values[row, column : column + 4]).max() / 7
        its = float(scale[row, column // 4])
        element = max(-8, min(7, round(float(values[row, column]) / its)))
        packed[row, column // 8] |= (element + 8) << (4 * (column % 8))
        products[row, column] = element * its
    tensors = {
        "weight_packed": packed.astype(np.uint32).view(np.int32),
        "weight_scale": scale,
        "weight_shape": np.array(values.shape, np.int64),
    }
    return tensors, products


def compressed(form: str, **weights: Any) -> dict[str, Any]:
    """As compressed-tensors writes it."""
    stated = {"symmetric": True, "dynamic": False, "observer": "minmax"} | weights
    activations = {"num_bits": 8, "type": "float", "dynamic": True}
    group = {
        "weights": stated,
        "input_activations": activations if form == "float-quantized" else None,
        "output_activations": None,
        "targets": ["Linear"],
    }
    return {
        "quant_method": "compressed-tensors",
        "format": form,
        "config_groups": {"group_0": group},
        "ignore": ["lm_head"],
        "quantization_status": "compressed",
        "kv_cache_scheme": None,
    }


FP8 = {"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic"}
OF_FLOATS: dict[str, Any] = {"num_bits": 8, "type": "float"}
OF_INTS: dict[str, Any] = {"num_bits": 4, "type": "int"}
FORMS: dict[str, Form] = {
    "fp8 by block": Form(
        FP8 | {"weight_block_size": [8, 12], "scale_fmt": "ue8m0"},
        lambda values: by_block(values, "weight_scale_inv"),
    ),
    "fp8 by tensor": Form(
        FP8 | {"weight_block_size": None},
        lambda values: by_tensor(values, "weight_scale_inv"),
    ),
    "compressed by tensor": Form(
        compressed("float-quantized", strategy="tensor", **OF_FLOATS),
        lambda values: by_tensor(values, "weight_scale"),
    ),
    "compressed by output": Form(
        compressed("float-quantized", strategy="channel", **OF_FLOATS),
        lambda values: by_output(values, "weight_scale"),
    ),
    "compressed by block": Form(
        compressed(
            "float-quantized", strategy="block", block_structure=[8, 12], **OF_FLOATS
        ),
        lambda values: by_block(values, "weight_scale"),
    ),
    "compressed integers": Form(
        compressed("pack-quantized", strategy="group", group_size=4, **OF_INTS),
        four_bits,
    ),
}


def write_both(
    source: pathlib.Path,
    form: Form,
    quantised: pathlib.Path,
    plain: pathlib.Path,
    change: Callable[[Tensors], Any] | None = None,
) -> None:
    """A folder whose projections are stored in a form, and one with what they stand for.

    Norms, the embedding, the head and routers stay, as in published folders. `change` may do
    something to the first one's tensors.
    """
    stored: Tensors = {}
    meant: Tensors = {}
    tensors = safetensors.numpy.load_file(source / "model.safetensors")
    for name, values in tensors.items():
        if not name.endswith("_proj.weight"):
            stored[name] = meant[name] = values
            continue
        parts, products = form.store(values)
        stem = name.removesuffix("weight")
        stored |= {stem + ending: part for ending, part in parts.items()}
        # The nearest float32 to the exact value.
        meant[name] = products.astype(np.float32)
    if change is not None:
        change(stored)
    write(source, quantised, stored, {"quantization_config": form.config})
    write(source, plain, meant, {})


def write(
    source: pathlib.Path,
    folder: pathlib.Path,
    tensors: Tensors,
    change: Mapping[str, Any],
) -> None:
    """A folder with these tensors, and a reference folder's config but for some fields."""
    folder.mkdir()
    values = json.loads((source / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(values))
    edit_config(folder, **change)
    safetensors.numpy.save_file(tensors, folder / "model.safetensors")


# --- MXFP4 of gpt-oss ---

MXFP4 = {
    "quant_method": "mxfp4",
    "modules_to_not_convert": ["model.layers.*.self_attn", "lm_head"],
}
EXPERTS, HIDDEN, WIDTH = 4, 32, 64


def fp4(code: int) -> float:
    """E2M1: a sign, two bits of exponent with a bias of 1, one of mantissa."""
    exponent, mantissa = code >> 1 & 3, code & 1
    size = 2.0 ** (exponent - 1) * (1 + mantissa / 2) if exponent else mantissa / 2
    return -size if code & 8 else size


def mxfp4(blocks: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """The values of blocks, outputs before inputs, in float64."""
    values = np.empty((*scales.shape, 32))
    for place in np.ndindex(*blocks.shape):
        byte, scale = int(blocks[place]), 2.0 ** (int(scales[place[:-1]]) - 127)
        values[(*place[:-1], 2 * place[-1])] = fp4(byte & 15) * scale
        values[(*place[:-1], 2 * place[-1] + 1)] = fp4(byte >> 4) * scale
    return values.reshape(*scales.shape[:-1], -1)


def gpt_oss_in_mxfp4(source: pathlib.Path) -> tuple[Tensors, Tensors]:
    """Tensors of gpt-oss with experts of random bits, and what they stand for."""
    generator = np.random.default_rng(0)
    stored: Tensors = {}
    meant: Tensors = {}
    outputs = {"gate_up_proj": (2 * WIDTH, HIDDEN), "down_proj": (HIDDEN, WIDTH)}
    tensors = safetensors.numpy.load_file(source / "model.safetensors")
    for name, values in tensors.items():
        part = name.rsplit(".", 1)[-1]
        if part in outputs:
            rows, inputs = outputs[part]
            shape = EXPERTS, rows, inputs // 32
            blocks = generator.integers(0, 256, (*shape, 16), np.uint8)
            scales = generator.integers(120, 126, shape, np.uint8)
            stored |= {f"{name}_blocks": blocks, f"{name}_scales": scales}
            exact = mxfp4(blocks, scales).swapaxes(-1, -2)
            meant[name] = np.ascontiguousarray(exact, np.float32)
        elif part == "gate_up_proj_bias":
            drawn = generator.standard_normal((EXPERTS, 2 * WIDTH), np.float32)
            stored[name] = meant[name] = drawn
        else:
            stored[name] = meant[name] = values
    return stored, meant
