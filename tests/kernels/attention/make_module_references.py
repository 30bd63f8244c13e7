"""Stores what transformers' attention modules compute eagerly, with all that reaches the softmax.

Run `python tests/kernels/attention/make_module_references.py` where `torch` and `transformers` are
installed; it rewrites `data/modules.safetensors` beside this file. It imports nothing of this
project. Modules are as the library has them, with random weights, in float64 on the CPU.

Many modules take their softmax in float32 whatever they are given. What is stored is in float64
throughout; that the modules as they stand give the same to float32's rounding is asserted here.
"""

import contextlib
import importlib
import pathlib
from collections.abc import Iterator
from typing import Any
from unittest import mock

import numpy as np
import safetensors.numpy

DATA = pathlib.Path(__file__).parent / "data" / "modules.safetensors"
TOKENS, HEADS, KV_HEADS, HEAD_DIM, HIDDEN = 24, 4, 2, 4, 16
FLOAT32 = 1e-6
"""Allowed of a softmax in float32, on outputs of about 1."""

COMMON = {
    "hidden_size": HIDDEN,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KV_HEADS,
    "head_dim": HEAD_DIM,
    "num_hidden_layers": 2,
    "attn_implementation": "eager",
}
# Module of transformers, prefix of its classes, layer, and what its config says besides.
CASES: dict[str, tuple[str, str, int, dict[str, Any]]] = {
    "gpt_oss_window": ("gpt_oss", "GptOss", 0, {"sliding_window": 6}),
    "gpt_oss_full": ("gpt_oss", "GptOss", 1, {"sliding_window": 6}),
    "gemma2_window": (
        "gemma2",
        "Gemma2",
        0,
        {
            "sliding_window": 6,
            "attn_logit_softcapping": 2.0,
            "query_pre_attn_scalar": 9,
        },
    ),
    "gemma2_full": (
        "gemma2",
        "Gemma2",
        1,
        {
            "sliding_window": 6,
            "attn_logit_softcapping": 2.0,
            "query_pre_attn_scalar": 9,
        },
    ),
    "deepseek_v3": (
        "deepseek_v3",
        "DeepseekV3",
        0,
        {
            "num_key_value_heads": HEADS,
            "head_dim": 2,  # of rotary embeddings
            "q_lora_rank": 8,
            "kv_lora_rank": 6,
            "qk_nope_head_dim": 4,
            "qk_rope_head_dim": 2,
            "v_head_dim": 3,
        },
    ),
    "llama4_chunked": ("llama4", "Llama4Text", 0, {"attention_chunk_size": 7}),
    "llama4_global": (
        "llama4",
        "Llama4Text",
        1,
        # A chunk only in layers with rotary embeddings; the others scale queries by position.
        {"attention_chunk_size": 7, "no_rope_layer_interval": 2, "floor_scale": 5},
    ),
    "diffllama": ("diffllama", "DiffLlama", 1, {}),
    "bloom": ("bloom", "Bloom", 0, {"n_head": HEADS, "n_layer": 2}),
    "bloom_6_heads": (
        "bloom",
        "Bloom",
        0,
        {"n_head": 6, "n_layer": 2, "hidden_size": 24},
    ),
    "qwen3_next": (
        "qwen3_next",
        "Qwen3Next",
        0,
        {"layer_types": ["full_attention"] * 2},
    ),
}


def compute() -> dict[str, np.ndarray]:
    """Of each case what its module was given and what it gave.

    `q`, `k` and `v` `[batch, heads, tokens, dim]` as they reach the scores, so with rotary
    embeddings; `live` `[tokens, tokens]`, the mask that transformers makes; `attended`
    `[batch, tokens, heads, dim]`, the output of attention itself; `out`
    `[batch, tokens, features]`, what reaches the output projection; `scale`; and what only one
    module has.
    """
    found: dict[str, np.ndarray] = {}
    for name, (file, prefix, layer, special) in CASES.items():
        module, hidden, arguments = build(file, prefix, layer, special)
        exact = run(module, hidden, arguments, single=False)
        rounded = run(module, hidden, arguments, single=True)
        for key, value in exact.items():
            np.testing.assert_allclose(rounded[key], value, rtol=0, atol=FLOAT32)
            found[f"{name}.{key}"] = value
    return found


def build(
    file: str, prefix: str, layer: int, special: dict[str, Any]
) -> tuple[Any, Any, dict[str, Any]]:
    """A module, its input `[batch, tokens, hidden]`, and the other arguments of its call."""
    import torch  # pyright: ignore[reportMissingImports]
    import transformers  # pyright: ignore[reportMissingImports]
    from transformers import masking_utils  # pyright: ignore[reportMissingImports]

    torch.manual_seed(0)
    code = importlib.import_module(f"transformers.models.{file}.modeling_{file}")
    # What Bloom's calls otherwise.
    values = special if file == "bloom" else COMMON | special
    if file == "bloom":
        values = {"hidden_size": HIDDEN, "attn_implementation": "eager"} | values
    of_config = prefix.removesuffix("Text") + "TextConfig" * prefix.endswith("Text")
    config = getattr(
        transformers, of_config if "Text" in prefix else f"{prefix}Config"
    )(**values)
    attention = getattr(code, f"{prefix}Attention")(config, layer).double().eval()
    with torch.no_grad():
        for parameter in attention.parameters():
            # Scores of about one: the default's leave attention nearly uniform.
            deviation = parameter.shape[-1] ** -0.5 if parameter.ndim > 1 else 0.5
            parameter.copy_(torch.randn_like(parameter) * deviation)
    hidden = torch.randn(1, TOKENS, config.hidden_size, dtype=torch.float64)
    kinds = {
        "full_attention": masking_utils.create_causal_mask,
        "sliding_attention": masking_utils.create_sliding_window_causal_mask,
        "chunked_attention": masking_utils.create_chunked_causal_mask,
    }
    layers = getattr(config, "layer_types", None)
    make_mask = kinds[layers[layer] if layers else "full_attention"]
    mask = make_mask(config, hidden, None, None)
    if file == "bloom":
        everything = torch.ones(1, TOKENS, dtype=torch.int64)
        slopes = code.build_alibi_tensor(everything, config.n_head, hidden.dtype)
        rest = {"residual": torch.zeros_like(hidden), "alibi": slopes}
    else:
        rotary = getattr(code, f"{prefix}RotaryEmbedding")(config)
        positions = torch.arange(TOKENS)[None]
        rest = {"position_embeddings": rotary(hidden, positions)}
    return attention, hidden, {"attention_mask": mask, **rest}


def run(
    attention: Any, hidden: Any, arguments: dict[str, Any], *, single: bool
) -> dict[str, np.ndarray]:
    """Calls a module and keeps what passes through it.

    Args:
      attention, hidden, arguments: as `build` gives them.
      single: whether a softmax may be taken in float32, as many modules want it.
    """
    import torch  # pyright: ignore[reportMissingImports]

    kept: dict[str, Any] = {}
    code = importlib.import_module(type(attention).__module__)
    with contextlib.ExitStack() as stack:
        if not single:
            stack.enter_context(softmax_in_its_own_type())
        if hasattr(code, "eager_attention_forward"):
            calls = stack.enter_context(recorded(code, "eager_attention_forward"))
        else:
            calls = stack.enter_context(recorded(attention, "_reshape"))
        inputs = {
            name: stack.enter_context(input_of(getattr(attention, name)))
            for name in ("o_proj", "dense", "kv_b_proj", "groupnorm")
            if hasattr(attention, name)
        }
        gates = stack.enter_context(output_of(getattr(attention, "q_proj", None)))
        with torch.no_grad():
            attention(hidden, **arguments)
    first, given = calls[0]
    if "scaling" in given:
        _, kept["q"], kept["k"], kept["v"], _ = first
        kept["scale"] = torch.tensor(given["scaling"], dtype=torch.float64)
        kept["attended"] = calls[0][1]["result"][0]
    else:
        kept["q"], kept["k"], kept["v"] = given["result"]
        kept["scale"] = torch.tensor(attention.inv_norm_factor, dtype=torch.float64)
    kept["live"] = (arguments["attention_mask"][0, 0] == 0).to(torch.uint8)
    (kept["out"],) = inputs.get("o_proj") or inputs["dense"]
    kept |= of_one_module(attention, kept, calls, inputs, gates)
    return {name: x.detach().numpy() for name, x in kept.items()}


def of_one_module(
    attention: Any,
    kept: dict[str, Any],
    calls: list[Any],
    inputs: dict[str, list[Any]],
    gates: list[Any],
) -> dict[str, Any]:
    """What only some of the modules have."""
    import torch  # pyright: ignore[reportMissingImports]

    kind = type(attention).__name__
    if kind == "GptOssAttention":
        return {"sinks": attention.sinks}
    if kind == "DeepseekV3Attention":
        # The latents, and the matrix that makes keys and values of them.
        (latents,) = inputs["kv_b_proj"]
        return {"latents": latents, "kv_b": attention.kv_b_proj.weight}
    if kind == "DiffLlamaAttention":
        (mixed,) = inputs["groupnorm"]
        _, second = calls
        one, other = (
            torch.exp(torch.sum(q * k, dim=-1, dtype=torch.float32)).double()
            for q, k in (
                (attention.lambda_q1, attention.lambda_k1),
                (attention.lambda_q2, attention.lambda_k2),
            )
        )
        return {
            "v2": second[0][3],
            "attended2": second[1]["result"][0],
            "lambda": one - other + attention.lambda_init,
            "mixed": mixed,
        }
    if kind == "Qwen3NextAttention":
        (projected,) = gates
        _, gate = projected.unflatten(-1, (HEADS, -1)).chunk(2, dim=-1)
        return {"gate": gate}
    return {}


@contextlib.contextmanager
def softmax_in_its_own_type() -> Iterator[None]:
    """Within it, a softmax is of its input's type, whatever type is asked for."""
    from torch.nn import functional  # pyright: ignore[reportMissingImports]

    original = functional.softmax

    def softmax(x: Any, dim: int, dtype: Any = None) -> Any:
        return original(x, dim=dim)

    with mock.patch.object(functional, "softmax", softmax):
        yield


@contextlib.contextmanager
def recorded(owner: Any, name: str) -> Iterator[list[Any]]:
    """Calls of a function: arguments by position, and those by name with its `result`."""
    original, calls = getattr(owner, name), []

    def keep(*first: Any, **named: Any) -> Any:
        result = original(*first, **named)
        calls.append((first, {**named, "result": result}))
        return result

    with mock.patch.object(owner, name, keep):
        yield calls


@contextlib.contextmanager
def input_of(module: Any) -> Iterator[list[Any]]:
    found: list[Any] = []
    handle = module.register_forward_pre_hook(lambda _, given: found.append(given[0]))
    try:
        yield found
    finally:
        handle.remove()


@contextlib.contextmanager
def output_of(module: Any) -> Iterator[list[Any]]:
    found: list[Any] = []
    if module is None:
        yield found
        return
    handle = module.register_forward_hook(lambda _, given, out: found.append(out))
    try:
        yield found
    finally:
        handle.remove()


if __name__ == "__main__":
    DATA.parent.mkdir(exist_ok=True)
    safetensors.numpy.save_file(
        {name: np.ascontiguousarray(x) for name, x in compute().items()}, DATA
    )
