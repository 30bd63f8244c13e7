"""Converts reference folders to GGUF as llama.cpp does, by the gguf package's own table of names.

It shares nothing with the loaders but the files: what each family's converter changes is written
down here once more (llama.cpp, `conversion/`).
"""

import json
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import gguf
import numpy as np
import safetensors.numpy

Tensors = dict[str, np.ndarray]
Values = dict[str, Any]

ARCHITECTURES = {
    "llama": "llama",
    "mistral": "llama",
    "mixtral": "llama",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "qwen3_moe": "qwen3moe",
    "gemma2": "gemma2",
    "gemma3_text": "gemma3",
    "phi3": "phi3",
    "smollm3": "smollm3",
    "gpt_oss": "gpt-oss",
    "glm4_moe": "glm4moe",
    "deepseek_v3": "deepseek2",
    "llama4_text": "llama4",
    "minimax_m2": "minimax-m2",
}
PAIRS_SIDE_BY_SIDE = {"llama", "mistral", "mixtral", "smollm3"}
SIGMOID = 2


def byte_tokens() -> list[str]:
    """96 tokens: two controls, the byte alphabet's first 90, and four merged ones."""
    from models.loading.tokenizer import BYTES

    return ["<|end|>", "<|im_start|>", *list(BYTES)[:90], "he", "ll", "hell", "hello"]


# --- metadata ---


def add_common(writer: Any, values: Values) -> None:
    """What the converter writes of every model."""
    rope = rope_of(values)
    writer.add_context_length(values["max_position_embeddings"])
    writer.add_embedding_length(values["hidden_size"])
    writer.add_feed_forward_length(
        values.get("intermediate_size_mlp", values["intermediate_size"])
    )
    writer.add_head_count(values["num_attention_heads"])
    writer.add_rope_freq_base(rope["rope_theta"])
    writer.add_layer_norm_rms_eps(values["rms_norm_eps"])
    if rope["rope_type"] in ("linear", "yarn"):
        writer.add_rope_scaling_type(gguf.RopeScalingType(rope["rope_type"]))
        writer.add_rope_scaling_factor(rope["factor"])
    if rope["rope_type"] == "yarn":
        writer.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(byte_tokens())
    writer.add_token_types([3, 3] + [1] * 94)
    writer.add_token_merges(["h e", "l l", "he ll", "hell o"])
    writer.add_eos_token_id(0)
    writer.add_bool("tokenizer.ggml.add_bos_token", False)


def rope_of(values: Values) -> Values:
    """RoPE of layers that see all keys."""
    stated = values["rope_parameters"]
    return stated.get("full_attention", stated)


def add_heads(writer: Any, values: Values) -> None:
    """Widths of heads, and how much of one turns."""
    width = head_dim(values)
    writer.add_head_count_kv(values["num_key_value_heads"])
    writer.add_key_length(width)
    writer.add_value_length(width)
    share = rope_of(values).get("partial_rotary_factor", 1)
    writer.add_rope_dimension_count(int(width * share))


def head_dim(values: Values) -> int:
    """Width of a head."""
    return (
        values.get("head_dim") or values["hidden_size"] // values["num_attention_heads"]
    )


def add_experts(writer: Any, values: Values) -> None:
    """Sizes of a mixture."""
    count = values.get("num_local_experts") or values["n_routed_experts"]
    writer.add_expert_count(count)
    writer.add_expert_used_count(values["num_experts_per_tok"])
    width = values.get("moe_intermediate_size", values["intermediate_size"])
    if values["model_type"] != "mixtral":
        writer.add_expert_feed_forward_length(width)


def add_sigmoid_experts(writer: Any, values: Values) -> None:
    """DeepSeek-V3's mixture."""
    add_experts(writer, values)
    writer.add_leading_dense_block_count(values["first_k_dense_replace"])
    writer.add_expert_shared_count(values["n_shared_experts"])
    writer.add_expert_weights_scale(values["routed_scaling_factor"])
    writer.add_expert_weights_norm(values["norm_topk_prob"])
    writer.add_expert_gating_func(gguf.ExpertGatingFuncType(SIGMOID))
    writer.add_expert_group_count(values["n_group"])
    writer.add_expert_group_used_count(values["topk_group"])


def add_latent(writer: Any, values: Values, splits_pair: bool) -> None:
    """Widths of latent attention; before April 2025 a head's own, with keys and values joined."""
    rank, turned = values["kv_lora_rank"], values["qk_rope_head_dim"]
    key, value = values["qk_nope_head_dim"] + turned, values["v_head_dim"]
    writer.add_q_lora_rank(values["q_lora_rank"])
    writer.add_kv_lora_rank(rank)
    writer.add_rope_dimension_count(turned)
    if splits_pair:
        writer.add_head_count_kv(1)
        writer.add_key_length(rank + turned)
        writer.add_value_length(rank)
        writer.add_key_length_mla(key)
        writer.add_value_length_mla(value)
    else:
        writer.add_head_count_kv(values["num_attention_heads"])
        writer.add_key_length(key)
        writer.add_value_length(value)
    multiplier = values["rope_parameters"].get("mscale_all_dim", 0)
    writer.add_rope_scaling_yarn_log_mul(0.1 * multiplier)


def add_metadata(writer: Any, values: Values, splits_pair: bool) -> None:
    """All of it."""
    family = values["model_type"]
    add_common(writer, values)
    if family == "deepseek_v3":
        add_latent(writer, values, splits_pair)
    else:
        add_heads(writer, values)
    if family in ("qwen3_moe", "gpt_oss", "minimax_m2", "llama4_text", "mixtral"):
        add_experts(writer, values)
    if family in ("glm4_moe", "deepseek_v3"):
        add_sigmoid_experts(writer, values)
    if family == "minimax_m2":
        writer.add_expert_gating_func(gguf.ExpertGatingFuncType(SIGMOID))
    if family in ("gemma2", "gemma3_text", "phi3", "gpt_oss"):
        writer.add_sliding_window(values["sliding_window"])
    if family == "gemma2":
        writer.add_attn_logit_softcapping(values["attn_logit_softcapping"])
        writer.add_final_logit_softcapping(values["final_logit_softcapping"])
    if family == "gemma3_text":
        writer.add_sliding_window_pattern(3)
    if family == "llama4_text":
        writer.add_interleave_moe_layer_step(values["interleave_moe_layer_step"])
    if family == "glm4_moe":
        writer.add_nextn_predict_layers(1)


# --- tensors ---


def side_by_side(rows: np.ndarray, heads: int) -> np.ndarray:
    """llama.cpp's conversion of q and k rows: each RoPE pair side by side."""
    width = rows.shape[0] // heads
    order = [half * width // 2 + pair for pair in range(width // 2) for half in (0, 1)]
    return rows.reshape(heads, width, -1)[:, order].reshape(rows.shape)


def stacked(tensors: Tensors) -> Tensors:
    """Experts of which each has a tensor, as one tensor of them all."""
    found: dict[str, dict[int, np.ndarray]] = {}
    merged: Tensors = {}
    for name, values in tensors.items():
        before, middle, after = name.partition(".experts.")
        number, _, rest = after.partition(".")
        if middle and number.isdigit():
            found.setdefault(f"{before}.experts.{rest}", {})[int(number)] = values
        else:
            merged[name] = values
    for name, each in found.items():
        merged[name] = np.stack([each[number] for number in sorted(each)])
    return merged


def converted(
    name: str, tensor: np.ndarray, values: Values, splits_pair: bool
) -> Iterator[tuple[str, np.ndarray]]:
    """A tensor as its family's converter writes it, still under a name of Hugging Face's kind."""
    family = values["model_type"]
    heads = {
        "q_proj": values["num_attention_heads"],
        "k_proj": values["num_key_value_heads"],
    }
    part = name.split(".")[-2] if name.count(".") > 1 else ""
    if family in PAIRS_SIDE_BY_SIDE and part in heads:
        tensor = side_by_side(tensor, heads[part])
    if family.startswith("gemma") and name.endswith("norm.weight"):
        tensor = tensor + np.float32(1)
    if name.endswith("sinks"):
        name += ".weight"
    if name.endswith("e_score_correction_bias"):
        name = name.replace("e_score_correction_bias", "e_score_correction.bias")
    if "experts.gate_up_proj" in name:
        yield from gate_and_up(name, tensor, is_woven=family == "gpt_oss")
    elif name.endswith("experts.down_proj"):
        yield f"{name}.weight", tensor.swapaxes(-1, -2)
    elif name.endswith("experts.down_proj_bias"):
        yield name.replace("down_proj_bias", "down_proj.bias"), tensor
    elif "kv_b_proj" in name and splits_pair:
        plain, value = values["qk_nope_head_dim"], values["v_head_dim"]
        by_head = tensor.reshape(-1, plain + value, values["kv_lora_rank"])
        yield name.replace("kv_b", "k_b"), by_head[:, :plain].swapaxes(1, 2)
        yield name.replace("kv_b", "v_b"), by_head[:, plain:]
    else:
        yield name, tensor


def gate_and_up(
    name: str, tensor: np.ndarray, is_woven: bool
) -> Iterator[tuple[str, np.ndarray]]:
    """The two that `gate_up_proj` holds, outputs before inputs."""
    kind = "bias" if name.endswith("_bias") else "weight"
    half = tensor.shape[-1] // 2
    parts = (
        (tensor[..., ::2], tensor[..., 1::2])
        if is_woven
        else (tensor[..., :half], tensor[..., half:])
    )
    for part, values in zip(("gate_proj", "up_proj"), parts, strict=True):
        stored = values if kind == "bias" else values.swapaxes(-1, -2)
        yield f"{name.split('gate_up_proj')[0]}{part}.{kind}", stored


def write(
    folder: pathlib.Path,
    path: pathlib.Path,
    *,
    architecture: str | None = None,
    splits_pair: bool = True,
    change: Callable[[Any], None] | None = None,
    change_tensors: Callable[[Tensors], Any] | None = None,
    kind: gguf.GGMLQuantizationType | None = None,
) -> pathlib.Path:
    """Writes a folder as one GGUF file.

    Args:
        folder: A reference folder.
        path: Of the file.
        architecture: Its `general.architecture`, if not its family's.
        splits_pair: Whether what makes keys of a latent is held apart from what makes values.
        change: What else to do to the writer after the metadata.
        change_tensors: What to do to the tensors, under GGUF's names.
        kind: How experts' weights are quantised; None: not at all. All others are F32.
    """
    values = json.loads((folder / "config.json").read_text())
    own = ARCHITECTURES[values["model_type"]]
    layers = values["num_hidden_layers"]
    codes = {name: code for code, name in gguf.MODEL_ARCH_NAMES.items()}
    names = gguf.get_tensor_name_map(codes[own], layers + 1)
    writer: Any = gguf.GGUFWriter(path, architecture or own)
    writer.add_block_count(layers + (values["model_type"] == "glm4_moe"))
    add_metadata(writer, values, splits_pair)
    tensors: Tensors = {}
    stored = stacked(safetensors.numpy.load_file(folder / "model.safetensors"))
    for name, tensor in stored.items():
        for new, changed in converted(name, tensor, values, splits_pair):
            found = names.get_name(new, try_suffixes=(".weight", ".bias"))
            assert found is not None, new
            tensors[found] = np.ascontiguousarray(changed)
    if change_tensors is not None:
        change_tensors(tensors)
    if change is not None:
        change(writer)
    for name, tensor in tensors.items():
        if kind is not None and name.endswith("_exps.weight"):
            blocks = gguf.quants.quantize(tensor, kind)
            writer.add_tensor(name, blocks, raw_dtype=kind)
        else:
            writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
