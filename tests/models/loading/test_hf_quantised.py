"""Quantised Hugging Face folders: the nearest float32 to each exact value, and bad ones refused."""

import copy
import pathlib
from collections.abc import Callable
from typing import Any

import gguf
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from models.loading.load import load
from tests.models.loading import conversion
from tests.models.loading.files import REFERENCE, assert_same, refused
from tests.models.loading.quantising import (
    FORMS,
    FP8,
    MXFP4,
    WIDTH,
    Tensors,
    compressed,
    gpt_oss_in_mxfp4,
    write,
    write_both,
)

SOURCE = REFERENCE / "deepseek_v3"
Change = Callable[[Tensors], Any]


@pytest.mark.parametrize("name", FORMS)
def test_weights_are_what_the_form_stands_for(
    name: str, tmp_path: pathlib.Path
) -> None:
    write_both(SOURCE, FORMS[name], tmp_path / "quantised", tmp_path / "plain")
    assert_same(load(tmp_path / "quantised").weights, load(tmp_path / "plain").weights)


def test_a_folder_may_leave_any_weight_plain(tmp_path: pathlib.Path) -> None:
    write(
        SOURCE,
        tmp_path / "plain",
        safetensors.numpy.load_file(SOURCE / "model.safetensors"),
        {"quantization_config": FORMS["fp8 by block"].config},
    )
    assert_same(load(tmp_path / "plain").weights, load(SOURCE).weights)


def test_mxfp4_is_what_its_blocks_stand_for_in_both_formats(
    tmp_path: pathlib.Path,
) -> None:
    source = REFERENCE / "gpt_oss"
    stored, meant = gpt_oss_in_mxfp4(source)
    sizes = {"intermediate_size": WIDTH}
    write(source, tmp_path / "plain", meant, sizes)
    write(source, tmp_path / "mxfp4", stored, sizes | {"quantization_config": MXFP4})
    plain = load(tmp_path / "plain").weights
    assert_same(load(tmp_path / "mxfp4").weights, plain)
    # GGUF has a byte of scale before 16 of elements, of which the first half are the low bits.
    path = conversion.write(
        tmp_path / "plain",
        tmp_path / "model.gguf",
        kind=gguf.GGMLQuantizationType.MXFP4,
    )
    file = gguf.GGUFReader(path)
    assert {tensor.tensor_type.name for tensor in file.tensors} == {"F32", "MXFP4"}
    assert_same(load(path).weights, plain)


# --- faults ---


def edited(ending: str, change: Callable[[np.ndarray], Any]) -> Change:
    """Changes one of the tensors of a projection of layer 1."""

    def edit(tensors: Tensors) -> None:
        name = f"model.layers.1.self_attn.o_proj.{ending}"
        tensors[name] = np.ascontiguousarray(change(tensors[name]))

    return edit


def removed(ending: str) -> Change:
    return lambda tensors: tensors.pop(f"model.layers.1.self_attn.o_proj.{ending}")


def not_finite(scale: np.ndarray) -> np.ndarray:
    scale.flat[0] = np.inf
    return scale


def no_number(elements: np.ndarray) -> np.ndarray:
    elements.flat[0] = np.nan
    return elements


TENSORS: dict[str, tuple[str, Change, str]] = {
    "too few scales": (
        "fp8 by block",
        edited("weight_scale_inv", lambda scale: scale[1:]),
        r"o_proj.weight: its scales must be \[4, 4\], one for each block of \[8, 12\]",
    ),
    "scales of other axes": (
        "fp8 by block",
        edited("weight_scale_inv", lambda scale: scale.ravel()),
        r"its scales must be \[4, 4\]",
    ),
    "no scales": (
        "fp8 by block",
        removed("weight_scale_inv"),
        "o_proj.weight must be one of .*'F32'.*, got F8_E4M3",
    ),
    "scales alone": (
        "fp8 by block",
        removed("weight"),
        "lacks tensors .*o_proj.weight'",
    ),
    "elements that are not FP8": (
        "fp8 by block",
        edited("weight", lambda elements: elements.astype(np.float32)),
        r"o_proj.weight must be one of \('F8_E4M3',\), got F32",
    ),
    "scales that are integers": (
        "fp8 by block",
        edited("weight_scale_inv", lambda scale: scale.astype(np.int32)),
        "o_proj.weight_scale_inv must be one of .*, got I32",
    ),
    "infinite scales": (
        "fp8 by block",
        edited("weight_scale_inv", not_finite),
        "o_proj.weight: weights must be finite",
    ),
    "elements that are no numbers": (
        "fp8 by tensor",
        edited("weight", no_number),
        "o_proj.weight: weights must be finite",
    ),
    "several scales of one tensor": (
        "fp8 by tensor",
        edited("weight_scale_inv", lambda scale: np.repeat(scale, 2)),
        r"its scale must be one value, got \[2\]",
    ),
    "another shape": (
        "compressed integers",
        edited("weight_shape", lambda shape: shape + np.array([0, 8])),
        r"packed \[32, 5\] must hold its shape, which says \[32, 48\]",
    ),
    "a shape of three": (
        "compressed integers",
        edited("weight_shape", lambda shape: np.append(shape, 1)),
        r"must hold its shape, which says \[32, 40, 1\]",
    ),
    "packed without rows": (
        "compressed integers",
        edited("weight_packed", lambda packed: packed.ravel()),
        r"packed \[160\] must hold its shape",
    ),
    "groups that are missing": (
        "compressed integers",
        edited("weight_scale", lambda scale: scale[:, 1:]),
        "its scales must be .*one for each group of 4, got",
    ),
    "no shape": (
        "compressed integers",
        removed("weight_shape"),
        "lacks tensors .*weight_shape",
    ),
    "scales of activations": (
        "fp8 by block",
        lambda tensors: tensors.update(
            {"model.layers.1.self_attn.o_proj.input_scale": np.ones(1, np.float32)}
        ),
        "unsupported tensors .*input_scale",
    ),
}


@pytest.mark.parametrize("name", TENSORS)
def test_tensors_that_contradict_each_other_are_refused(
    name: str, tmp_path: pathlib.Path
) -> None:
    form, change, message = TENSORS[name]
    write_both(SOURCE, FORMS[form], tmp_path / "quantised", tmp_path / "plain", change)
    refused(tmp_path / "quantised", message)


def in_group(**fields: Any) -> dict[str, Any]:
    """A compressed config with other fields of its group."""
    config = copy.deepcopy(FORMS["compressed by output"].config)
    config["config_groups"]["group_0"] |= fields
    return config


INTS: dict[str, Any] = {"num_bits": 4, "type": "int", "strategy": "group"}
CONFIGS: list[tuple[Any, str]] = [
    ({"bits": 4}, "quantization_config=.* is not supported; supported are the quant_"),
    ("fp8", "quantization_config='fp8' is not supported"),
    (
        {"quant_method": "awq"},
        r"supported are the quant_methods \['compressed-tensors'",
    ),
    ({"quant_method": ["fp8"]}, "quantization_config=.* is not supported"),
    (FP8 | {"activation_scheme": "static"}, "activation_scheme='static' is not supp"),
    (FP8 | {"fmt": "e5m2"}, "fmt='e5m2' is not supported; supported is 'e4m3'"),
    (FP8 | {"nobody_knows_this": 1}, "nobody_knows_this=1 is not supported"),
    (FP8 | {"weight_block_size": [128]}, "weight_block_size must be two whole numbers"),
    (
        FP8 | {"weight_block_size": [0, 8]},
        "weight_block_size must be two whole numbers",
    ),
    (FP8 | {"weight_block_size": 128}, "weight_block_size must be two whole numbers"),
    (MXFP4 | {"group_size": 16}, "group_size=16 is not supported"),
    (compressed("nvfp4-pack-quantized"), "format='nvfp4-pack-quantized' is not"),
    (compressed("int-quantized"), "format='int-quantized' is not supported"),
    (
        compressed("pack-quantized", num_bits=8, type="int", strategy="channel"),
        "format, type and num_bits .*8.* are not supported",
    ),
    (
        compressed("pack-quantized", group_size=0, **INTS),
        "group_size 0 is not supported",
    ),
    (
        compressed("pack-quantized", group_size=4, symmetric=False, **INTS),
        "symmetric=False is not supported; supported is True",
    ),
    (
        compressed("pack-quantized", group_size=4, actorder="group", **INTS),
        "actorder='group' is not supported",
    ),
    (
        compressed("float-quantized", num_bits=8, type="float", strategy="token"),
        "strategy='token' is not supported",
    ),
    (
        compressed("float-quantized", num_bits=8, type="float", strategy="block"),
        "block_structure must be two whole numbers",
    ),
    (
        in_group(input_activations={"dynamic": False}),
        "input_activations=.* is not supp",
    ),
    (in_group(output_activations={"num_bits": 8}), "output_activations=.* is not supp"),
    (in_group(weights=None), "weights must be an object, got None"),
    (
        compressed("float-quantized") | {"config_groups": {}},
        "config_groups must be an object of one group",
    ),
    (
        compressed("float-quantized") | {"kv_cache_scheme": {"num_bits": 8}},
        "kv_cache_scheme=.* is not supported",
    ),
    (
        compressed("float-quantized") | {"sparsity_config": {"format": "sparse-24"}},
        "sparsity_config=.* is not supported",
    ),
]


@pytest.mark.parametrize(
    ("config", "message"), CONFIGS, ids=lambda value: str(value)[:60]
)
def test_forms_that_are_not_dequantised_are_refused_by_name(
    config: Any, message: str, tmp_path: pathlib.Path
) -> None:
    tensors = safetensors.numpy.load_file(SOURCE / "model.safetensors")
    write(SOURCE, tmp_path / "folder", tensors, {"quantization_config": config})
    refused(tmp_path / "folder", message)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda blocks, scales: (blocks, scales[..., :0]), "blocks must be"),
        (lambda blocks, scales: (blocks[..., :8], scales), r"blocks must be .*, 16\]"),
        (lambda blocks, scales: (blocks, scales | 255), "scales must be below 255"),
        (
            lambda blocks, scales: (blocks.astype(np.float32), scales),
            r"gate_up_proj_blocks must be one of \('U8',\), got F32",
        ),
        (lambda blocks, scales: (blocks[:, 2:], scales[:, 2:]), "must hold"),
    ],
    ids=["no scales", "half a block", "no number", "floats", "rows that are missing"],
)
def test_blocks_that_are_none_are_refused(
    change: Any, message: str, tmp_path: pathlib.Path
) -> None:
    source = REFERENCE / "gpt_oss"
    stored, _ = gpt_oss_in_mxfp4(source)
    name = "model.layers.1.mlp.experts.gate_up_proj"
    pair = change(stored[f"{name}_blocks"], stored[f"{name}_scales"])
    for ending, tensor in zip(("blocks", "scales"), pair, strict=True):
        stored[f"{name}_{ending}"] = np.ascontiguousarray(tensor)
    sizes = {"intermediate_size": WIDTH, "quantization_config": MXFP4}
    write(source, tmp_path / "folder", stored, sizes)
    refused(tmp_path / "folder", message)


def test_fp8_that_no_config_announces_is_refused(tmp_path: pathlib.Path) -> None:
    tensors = safetensors.numpy.load_file(SOURCE / "model.safetensors")
    name = "model.norm.weight"
    tensors[name] = tensors[name].astype(ml_dtypes.float8_e4m3fn)
    write(SOURCE, tmp_path / "folder", tensors, {})
    refused(tmp_path / "folder", "norm.weight must be one of .*, got F8_E4M3")
