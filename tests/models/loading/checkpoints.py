"""A grid of tiny checkpoints made from seeds: families, heads, RoPE forms, dtypes, tokenizers.

It imports nothing of this project, so that what is loaded and what it is compared with stay
independent: `make_grid.py` has transformers load the same folders, and stores its logits and ids.
"""

import dataclasses
import itertools
import json
import math
import pathlib
from typing import Any

import gguf
import ml_dtypes
import numpy as np
import safetensors.numpy
from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    pre_tokenizers,
    processors,
)

Tensors = dict[str, np.ndarray]

HIDDEN, INTERMEDIATE, LAYERS, HEADS, KEY_VALUE_HEADS = 32, 64, 2, 4, 2
VOCABULARY = 272  # six more than the tokenizer knows
HEAD_DIMS = {"llama": 8, "mistral": 8, "qwen3": 16}  # rows of whole Q8_0 blocks of 32
CLASSES = {"llama": "Llama", "mistral": "Mistral", "qwen3": "Qwen3"}
CONTEXT, ORIGINAL = 128, 32
TOKENS = 60  # over the original context, so that every band of a scaling is met
INPUT_IDS = [(7 * i * i + 3 * i + 1) % VOCABULARY for i in range(TOKENS)]
# What is stored of the logits: four positions, every eighth id.
POSITIONS, EACH = (5, 31, 40, 59), 8

PAIRS = {family: head_dim // 2 for family, head_dim in HEAD_DIMS.items()}


def rope_values(form: str, pairs: int) -> dict[str, Any]:
    """A form of RoPE scaling, as `rope_parameters` states it."""
    original = {"original_max_position_embeddings": ORIGINAL}
    short = [1.0 + 0.05 * pair for pair in range(pairs)]
    long = [1.0 + 0.7 * pair for pair in range(pairs)]
    values: dict[str, dict[str, Any]] = {
        "default": {},
        "linear": {"factor": 4.0},
        "dynamic": {"factor": 3.0},
        "yarn": {"factor": 4.0} | original,
        "longrope": {"short_factor": short, "long_factor": long} | original,
        "llama3": {"factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
        | original,
    }
    return {"rope_type": form, "rope_theta": 10000.0} | values[form]


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """One tiny checkpoint.

    Attributes:
        family: Its `model_type`.
        tied: Whether the embedding is the output head.
        rope: Its form of scaling.
        dtype: What its weights are rounded to: F32, F16, BF16 or Q8_0.
        shards: In how many files the weights are.
        tokenizer: Which of `TOKENIZERS`.
        config: Fields of config.json that replace the usual ones; None leaves one out.
        extra: Tensors stored besides: `head` (a copy of the embedding), `inv_freq`.
        seed: Of the weights.
    """

    family: str
    tied: bool
    rope: str
    dtype: str = "F32"
    shards: int = 1
    tokenizer: str = "plain"
    config: dict[str, Any] = dataclasses.field(default_factory=dict)
    extra: tuple[str, ...] = ()
    seed: int = 0

    @property
    def head_dim(self) -> int:
        """Width of one head."""
        return HEAD_DIMS[self.family]


# --- weights and config ---


def rounded(values: np.ndarray, dtype: str) -> np.ndarray:
    """float32 values that the dtype holds exactly; Q8_0 leaves vectors as they are."""
    if dtype == "F16":
        return values.astype(np.float16).astype(np.float32)
    if dtype == "BF16":
        return values.astype(ml_dtypes.bfloat16).astype(np.float32)
    if dtype == "Q8_0" and values.ndim == 2:
        kind = gguf.GGMLQuantizationType.Q8_0
        blocks = gguf.quants.quantize(values, kind)
        return gguf.quants.dequantize(blocks, kind).reshape(values.shape)
    return values


def tensors_of(case: Checkpoint) -> Tensors:
    """Name -> float32 values, under Hugging Face's names."""
    generator = np.random.default_rng(case.seed)

    def matrix(outputs: int, inputs: int) -> np.ndarray:
        drawn = generator.standard_normal((outputs, inputs)) * inputs**-0.5
        return rounded(drawn.astype(np.float32), case.dtype)

    def norm(length: int) -> np.ndarray:
        drawn = 1 + 0.2 * generator.standard_normal(length)
        return rounded(drawn.astype(np.float32), case.dtype)

    queries, keys = HEADS * case.head_dim, KEY_VALUE_HEADS * case.head_dim
    tensors = {
        "model.embed_tokens.weight": matrix(VOCABULARY, HIDDEN),
        "model.norm.weight": norm(HIDDEN),
    }
    if not case.tied:
        tensors["lm_head.weight"] = matrix(VOCABULARY, HIDDEN)
    for layer in range(LAYERS):
        own = {
            "input_layernorm": norm(HIDDEN),
            "post_attention_layernorm": norm(HIDDEN),
            "self_attn.q_proj": matrix(queries, HIDDEN),
            "self_attn.k_proj": matrix(keys, HIDDEN),
            "self_attn.v_proj": matrix(keys, HIDDEN),
            "self_attn.o_proj": matrix(HIDDEN, queries),
            "mlp.gate_proj": matrix(INTERMEDIATE, HIDDEN),
            "mlp.up_proj": matrix(INTERMEDIATE, HIDDEN),
            "mlp.down_proj": matrix(HIDDEN, INTERMEDIATE),
        }
        if case.family == "qwen3":
            own["self_attn.q_norm"] = norm(case.head_dim)
            own["self_attn.k_norm"] = norm(case.head_dim)
        for name, values in own.items():
            tensors[f"model.layers.{layer}.{name}.weight"] = values
    if "head" in case.extra:
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].copy()
    if "inv_freq" in case.extra:
        buffer = np.ones(case.head_dim // 2, np.float32)
        tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = buffer
    return tensors


def config_of(case: Checkpoint) -> dict[str, Any]:
    """Its config.json."""
    values: dict[str, Any] = {
        "architectures": [f"{CLASSES[case.family]}ForCausalLM"],
        "model_type": case.family,
        "vocab_size": VOCABULARY,
        "hidden_size": HIDDEN,
        "intermediate_size": INTERMEDIATE,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KEY_VALUE_HEADS,
        "head_dim": case.head_dim,
        "max_position_embeddings": ORIGINAL if case.rope == "dynamic" else CONTEXT,
        "rms_norm_eps": 1e-6,
        "hidden_act": "silu",
        "tie_word_embeddings": case.tied,
        "bos_token_id": 260,
        "eos_token_id": 261,
        "rope_parameters": rope_values(case.rope, PAIRS[case.family]),
    }
    if case.family == "mistral":
        values["sliding_window"] = None
    values |= case.config
    return {key: value for key, value in values.items() if value is not ABSENT}


ABSENT = object()  # a field to be left out, which null is not

# --- tokenizers ---

BOS, EOS = ("<|bos|>", 260), ("<|eos|>", 261)
SPECIAL = ["<|bos|>", "<|eos|>", "<|im_start|>", "<|im_end|>"]
PLAIN = ["<think>", "</think>"]
MERGES = [("h", "e"), ("l", "l"), ("he", "ll"), ("hell", "o")]


def words() -> list[str]:
    """The 256 bytes in GPT-2's alphabet, and four merged words."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    letters = {byte: chr(byte) for byte in printable}
    others = [byte for byte in range(256) if byte not in letters]
    letters |= {byte: chr(256 + number) for number, byte in enumerate(others)}
    return [*(letters[byte] for byte in range(256)), "he", "ll", "hell", "hello"]


def plain_tokenizer() -> Tokenizer:
    """Byte-level BPE of 266 entries."""
    vocabulary = {word: index for index, word in enumerate(words())}
    tokenizer: Any = Tokenizer(models.BPE(vocabulary, MERGES))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(
        [AddedToken(text, special=True, normalized=False) for text in SPECIAL]
    )
    tokenizer.add_tokens([AddedToken(text, normalized=False) for text in PLAIN])
    return tokenizer


def template(single: str) -> Any:
    """A post-processor that puts tokens around a text."""
    return processors.TemplateProcessing(
        single=single, pair=f"{single} $B", special_tokens=[BOS, EOS]
    )


CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + "
    "'<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# Each sets system messages, start tokens or thinking in a way that no pattern finds.
TEMPLATES = {
    "chatml": CHATML,
    "bos": "{{ bos_token }}" + CHATML,
    "system": "{%- set s = 'Don\\'t \"guess\".' %}\n{{- '<|im_start|>system\n' + s + "
    "'<|im_end|>\n' }}" + CHATML,
    "thinking": CHATML.replace(
        "assistant\n'",
        "assistant\n' + ('<think>\n\n</think>\n\n' if enable_thinking is defined and "
        "enable_thinking is false else '')",
    ),
    "llama3": "{% for m in messages %}{% if loop.first %}{{ bos_token }}{% endif %}"
    "{{ '<|im_start|>' + m['role'] + '\n\n' + m['content'] | trim + eos_token }}"
    "{% endfor %}{{ '<|im_start|>assistant\n\n' }}",
    "loop": "{% for m in messages %}\n    {% generation %}{{ m.content | tojson }}"
    "{% endgeneration %}\n    {% break %}\n{% endfor %}\n{{ messages | length }}",
}
# Name -> chat template, if any, and what is done to the plain tokenizer.
TOKENIZERS: dict[str, tuple[str | None, str]] = {
    "plain": (None, ""),
    "prefix": ("chatml", "prefix"),
    "suffix": ("bos", "suffix"),
    "both": ("system", "both"),
    "truncation": ("thinking", "truncation"),
    "padding": ("llama3", "padding"),
    "dropout": ("loop", "dropout"),
    "holes": (None, "holes"),
}
TEXT = "hello hell, <|im_end|>héllo hello <think>hello hello"
DECODED = [259, 270, 32, 271, 257, 264, 263]


def tokenizer_of(case: Checkpoint) -> dict[str, Any]:
    """The contents of its tokenizer.json."""
    _, change = TOKENIZERS[case.tokenizer]
    tokenizer: Any = plain_tokenizer()
    around = {
        "prefix": "<|bos|> $A",
        "suffix": "$A <|eos|>",
        "both": "<|bos|> $A <|eos|>",
    }
    if change in around:
        tokenizer.post_processor = template(around[change])
    if change == "truncation":
        tokenizer.enable_truncation(4)
    if change == "padding":
        tokenizer.enable_padding(length=64, pad_id=261, pad_token="<|eos|>")
    values = json.loads(tokenizer.to_str())
    if change == "dropout":
        values["model"]["dropout"] = 0.0
    if change == "holes":  # two bytes behind all others: 266 entries, but ids reach 267
        vocabulary = values["model"]["vocab"]
        text = {index: word for word, index in vocabulary.items()}
        vocabulary[text[10]], vocabulary[text[11]] = 266, 267
    return values


# --- files ---


def write_folder(case: Checkpoint, folder: pathlib.Path) -> pathlib.Path:
    """The checkpoint as Hugging Face stores it."""
    folder.mkdir(parents=True, exist_ok=True)
    stored = {"F16": np.float16, "BF16": ml_dtypes.bfloat16}.get(case.dtype, np.float32)
    tensors = {name: values.astype(stored) for name, values in tensors_of(case).items()}
    if case.shards == 1:
        safetensors.numpy.save_file(
            tensors, folder / "model.safetensors", {"format": "pt"}
        )
    else:
        write_shards(tensors, case.shards, folder)
    (folder / "config.json").write_text(json.dumps(config_of(case)))
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer_of(case)))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": BOS[0],
        "eos_token": EOS[0],
        "add_bos_token": True,  # transformers goes by tokenizer.json where there is one
    }
    chat, _ = TOKENIZERS[case.tokenizer]
    if chat is not None:
        settings["chat_template"] = TEMPLATES[chat]
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def write_shards(tensors: Tensors, count: int, folder: pathlib.Path) -> None:
    """Weights in several files, dealt out in turn, and their index."""
    places = {
        name: f"model-{1 + number % count:05}-of-{count:05}.safetensors"
        for number, name in enumerate(tensors)
    }
    for place in sorted(set(places.values())):
        held = {
            name: values for name, values in tensors.items() if places[name] == place
        }
        safetensors.numpy.save_file(held, folder / place, {"format": "pt"})
    size = sum(values.nbytes for values in tensors.values())
    index = {"metadata": {"total_size": size}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


# --- the grid ---


def grid() -> dict[str, Checkpoint]:
    """Name -> checkpoint: every family, tied or not, with every form; the rest varies along."""
    forms = ("default", "linear", "dynamic", "yarn", "longrope", "llama3")
    dtypes = itertools.cycle(("F32", "F16", "BF16", "Q8_0", "F32"))
    shards = itertools.cycle((1, 2, 1, 3, 1, 1, 2))
    kinds = itertools.cycle(TOKENIZERS)
    cases = {}
    product = itertools.product(CLASSES, (True, False), forms)
    for seed, (family, tied, form) in enumerate(product):
        name = f"{family}-{'tied' if tied else 'untied'}-{form}"
        cases[name] = Checkpoint(
            family,
            tied,
            form,
            next(dtypes),
            next(shards),
            next(kinds),
            seed=seed,
        )
    return cases | variants()


def variants() -> dict[str, Checkpoint]:
    """Checkpoints that say a thing twice, in an old spelling, or not at all."""
    old = {"rope_parameters": ABSENT}

    def yarn(**fields: Any) -> dict[str, Any]:
        return {"rope_parameters": rope_values("yarn", 4) | fields}

    long = rope_values("longrope", 4)
    llama3 = rope_values("llama3", 4)
    nested = {"original_max_position_embeddings": ORIGINAL}
    configs: dict[str, tuple[str, dict[str, Any]]] = {
        "old-spelling": ("default", old | {"rope_theta": 5000.0}),
        "old-linear": (
            "linear",
            old | {"rope_scaling": {"type": "linear", "factor": 2}},
        ),
        "no-rope-at-all": ("default", old),
        "rope-scaling-beside-parameters": (
            "llama3",
            {"rope_parameters": rope_values("default", 4), "rope_scaling": llama3},
        ),
        "original-context-outside": (
            "yarn",
            nested | {"rope_parameters": {"rope_type": "yarn", "factor": 4.0}},
        ),
        "original-context-implied": (
            "yarn",
            {"rope_parameters": {"rope_type": "yarn", "factor": 4.0}},
        ),
        "yarn-attention-factor": ("yarn", yarn(attention_factor=0.7)),
        "yarn-mscale": ("yarn", yarn(mscale=0.8, mscale_all_dim=1.3)),
        "yarn-mscale-alone": ("yarn", yarn(mscale=0.8)),
        "yarn-betas": ("yarn", yarn(beta_fast=8.0, beta_slow=2.0)),
        "yarn-not-truncated": ("yarn", yarn(truncate=False)),
        "longrope-factor": ("longrope", {"rope_parameters": long | {"factor": 2.0}}),
        "longrope-attention-factor": (
            "longrope",
            {"rope_parameters": long | {"attention_factor": 1.3}},
        ),
        "longrope-short": (
            "longrope",
            {"rope_parameters": long | {"original_max_position_embeddings": 100}},
        ),
        "no-head-dim": ("default", {"head_dim": ABSENT}),
        "null-head-dim": ("default", {"head_dim": None}),
    }
    cases = {
        name: Checkpoint("llama", False, form, config=config, seed=100 + number)
        for number, (name, (form, config)) in enumerate(configs.items())
    }
    cases["tied-with-a-head"] = Checkpoint("llama", True, "default", extra=("head",))
    cases["rope-buffers"] = Checkpoint("llama", False, "yarn", extra=("inv_freq",))
    return cases


GRID = grid()


# --- GGUF ---

# llama.cpp's names, written down apart from the table that the loaders use.
GGUF_OUTER = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
}
GGUF_LAYER = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
GGUF_GRID = {
    name: case
    for name, case in GRID.items()
    if not case.config and not case.extra and case.rope != "dynamic"
}


def gguf_name(name: str) -> str:
    """llama.cpp's name of a Hugging Face tensor."""
    stem = name.removesuffix(".weight")
    if stem in GGUF_OUTER:
        return f"{GGUF_OUTER[stem]}.weight"
    _, _, layer, rest = stem.split(".", 3)
    return f"blk.{layer}.{GGUF_LAYER[rest]}.weight"


def gguf_rows(case: Checkpoint, name: str, values: np.ndarray) -> np.ndarray:
    """llama.cpp's order of rows: the two of a RoPE pair side by side, but not in Qwen3."""
    turned = {"q_proj": HEADS, "k_proj": KEY_VALUE_HEADS}
    heads = next((count for part, count in turned.items() if part in name), None)
    if heads is None or case.family == "qwen3":
        return values
    by_half = values.reshape(heads, 2, case.head_dim // 2, -1)
    return np.ascontiguousarray(by_half.swapaxes(1, 2).reshape(values.shape))


def llama3_divisors(case: Checkpoint) -> np.ndarray:
    """`rope_freqs.weight` as llama.cpp's converter makes it for Llama 3.1, from wavelengths."""
    rope = rope_values("llama3", PAIRS[case.family])
    original, factor = rope["original_max_position_embeddings"], rope["factor"]
    low, high = rope["low_freq_factor"], rope["high_freq_factor"]
    divisors = []
    for pair in range(case.head_dim // 2):
        length = 2 * math.pi * rope["rope_theta"] ** (2 * pair / case.head_dim)
        if length < original / high:
            divisors.append(1.0)
        elif length > original / low:
            divisors.append(factor)
        else:
            smooth = (original / length - low) / (high - low)
            divisors.append(1 / ((1 - smooth) / factor + smooth))
    return np.asarray(divisors, np.float32)


def add_rope(writer: Any, case: Checkpoint) -> None:
    """Its scaling, in the keys and tensors that llama.cpp's converter writes."""
    rope = rope_values(case.rope, PAIRS[case.family])
    if case.rope == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(rope["factor"])
    if case.rope == "yarn":
        writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
        writer.add_rope_scaling_factor(rope["factor"])
        writer.add_rope_scaling_orig_ctx_len(ORIGINAL)
    if case.rope == "longrope":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LONGROPE)
        writer.add_rope_scaling_orig_ctx_len(ORIGINAL)
        scale = math.sqrt(1 + math.log(CONTEXT / ORIGINAL) / math.log(ORIGINAL))
        writer.add_rope_scaling_attn_factors(scale)
        for length in ("short", "long"):
            values = np.asarray(rope[f"{length}_factor"], np.float32)
            writer.add_tensor(f"rope_factors_{length}.weight", values)
    if case.rope == "llama3":
        writer.add_tensor("rope_freqs.weight", llama3_divisors(case))


def add_tokenizer(writer: Any) -> None:
    """The plain tokenizer; ids behind it are padding, of type 5."""
    texts = [*words(), *SPECIAL, *PLAIN]
    kinds = [1] * 260 + [3] * 4 + [4] * 2
    while len(texts) < VOCABULARY:
        texts.append(f"[PAD{len(texts)}]")
        kinds.append(5)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(texts)
    writer.add_token_types(kinds)
    writer.add_token_merges([" ".join(pair) for pair in MERGES])
    writer.add_bos_token_id(BOS[1])
    writer.add_eos_token_id(EOS[1])


def write_gguf(
    case: Checkpoint, folder: pathlib.Path, parts: int = 1, change: Any = None
) -> pathlib.Path:
    """The checkpoint as llama.cpp's converter writes it; `change` adds to the metadata.

    Returns:
        The file, or the first of its parts.
    """
    architecture = "qwen3" if case.family == "qwen3" else "llama"
    # 0 is one file for all of them.
    most = 0 if parts == 1 else math.ceil(len(tensors_of(case)) / parts)
    writer: Any = gguf.GGUFWriter(
        folder / "model.gguf", architecture, split_max_tensors=most
    )
    writer.add_vocab_size(VOCABULARY)
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(INTERMEDIATE)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KEY_VALUE_HEADS)
    writer.add_key_length(case.head_dim)
    writer.add_value_length(case.head_dim)
    writer.add_rope_dimension_count(case.head_dim)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(1e-6)
    add_tokenizer(writer)
    if change is not None:
        change(writer)
    add_rope(writer, case)
    for name, values in tensors_of(case).items():
        rows = gguf_rows(case, name, values)
        if case.dtype == "F32" or rows.ndim == 1:
            writer.add_tensor(gguf_name(name), rows)
            continue
        kind = gguf.GGMLQuantizationType[case.dtype]
        stored = gguf.quants.quantize(rows, kind)
        writer.add_tensor(gguf_name(name), stored, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return min(folder.glob("model*.gguf"))
