"""GGUF's metadata: every key that changes arithmetic or tokens is used, or refused by name."""

import pathlib
from collections.abc import Callable
from typing import Any

import gguf
import pytest

from models.errors import ModelError
from models.loading import gguf_keys
from models.loading.load import Loaded, load
from tests.models.loading.checkpoints import Checkpoint, write_gguf

CASE = Checkpoint("llama", tied=False, rope="default")
ADD: dict[type, Callable[[Any, str, Any], None]] = {
    bool: lambda writer, key, value: writer.add_bool(key, value),
    int: lambda writer, key, value: writer.add_uint32(key, value),
    float: lambda writer, key, value: writer.add_float32(key, value),
    str: lambda writer, key, value: writer.add_string(key, value),
    list: lambda writer, key, value: writer.add_array(key, value),
}


def load_with(
    folder: pathlib.Path, keys: dict[str, Any], case: Checkpoint = CASE
) -> Loaded:
    """A GGUF file with these keys besides; None takes away one that is there."""

    def change(writer: Any) -> None:
        for key, value in keys.items():
            writer.kv_data[0].pop(key, None)
            if value is not None:
                ADD[type(value)](writer, key, value)

    return load(write_gguf(case, folder, change=change))


def refused(folder: pathlib.Path, keys: dict[str, Any], message: str) -> None:
    """Such a file is refused in one line that matches."""
    with pytest.raises(ModelError, match=message) as raised:
        load_with(folder, keys)
    assert str(raised.value).isprintable()


# --- keys ---

CHANGES: dict[str, Any] = {
    "llama.expert_group_count": 8,
    "llama.expert_weights_norm": True,
    "llama.attn_logit_softcapping": 50.0,
    "llama.final_logit_softcapping": 30.0,
    "llama.logit_scale": 0.0625,
    "llama.embedding_scale": 12.0,
    "llama.residual_scale": 0.22,
    "llama.attention.scale": 0.015625,
    "llama.attention.sliding_window": 4096,
    "llama.attention.clamp_kqv": 8.0,
    "llama.attention.max_alibi_bias": 8.0,
    "llama.attention.causal": False,
    "llama.attention.temperature_length": 8192,
    "llama.attention.key_length_mla": 192,
    "llama.rope.freq_base_swa": 1e4,
    "llama.rope.scaling.alpha": 1000.0,
    "llama.rope.scaling.yarn_log_multiplier": 0.1,
    "llama.rope.scaling.yarn_ext_factor": 0.5,
    "llama.rope.scaling.type": "ntk",
    "llama.use_parallel_residual": True,
    "llama.leading_dense_block_count": 1,
    "llama.nobody_knows_this": 1,
    "llama.vocab_size": 300,
    "tokenizer.ggml.model": "t5",
    "tokenizer.ggml.pre": "tekken",
    "tokenizer.ggml.add_space_prefix": True,
    "tokenizer.ggml.suppress_tokens": [3],
    "tokenizer.ggml.nobody_knows_this": True,
    "tokenizer.huggingface.json": "{}",
    "general.type": "adapter",
}


@pytest.mark.parametrize("key", CHANGES)
def test_keys_that_would_change_the_result_are_refused_by_name(
    key: str, tmp_path: pathlib.Path
) -> None:
    named = "pre-tokenizer 'tekken'" if key == "tokenizer.ggml.pre" else key
    refused(tmp_path, {key: CHANGES[key]}, named)


def test_values_that_change_nothing_are_accepted(tmp_path: pathlib.Path) -> None:
    keys: dict[str, Any] = {
        "llama.expert_count": 0,
        "llama.attn_logit_softcapping": 0.0,
        "llama.logit_scale": 1.0,
        "llama.attention.scale": 8**-0.5,
        "llama.rope.scaling.yarn_ext_factor": -1.0,
        "llama.attention.layer_norm_epsilon": 1e-5,
        "tokenizer.ggml.add_space_prefix": False,
        "tokenizer.ggml.padding_token_id": 3,
        "tokenizer.chat_template.tool_use": "{{ tools }}",
        "general.sampling.temp": 0.7,
        "quantize.imatrix.file": "calibration.dat",
        "qwen3.expert_count": 8,  # of another architecture than the file's
    }
    assert load_with(tmp_path, keys).config.rope_scaling is None


def test_no_key_stands_in_two_tables() -> None:
    for used, neutral, unread in (
        (
            gguf_keys.USED_OF_ARCHITECTURE,
            gguf_keys.NEUTRAL_OF_ARCHITECTURE.keys(),
            gguf_keys.UNREAD_OF_ARCHITECTURE,
        ),
        (
            gguf_keys.USED_OF_TOKENIZER,
            gguf_keys.NEUTRAL_OF_TOKENIZER.keys(),
            gguf_keys.UNREAD_OF_TOKENIZER,
        ),
    ):
        assert not used & neutral and not used & unread and not neutral & unread


def test_keys_are_named_as_the_gguf_package_names_them() -> None:
    """A key misspelt in our table would be refused in files, or never."""
    theirs: set[str] = set()
    for group in vars(gguf.Keys).values():
        if isinstance(group, type):
            names = [name for name in vars(group).values() if isinstance(name, str)]
            theirs |= {name.removeprefix("{arch}.") for name in names}
    ours = gguf_keys.USED_OF_ARCHITECTURE | gguf_keys.NEUTRAL_OF_ARCHITECTURE.keys()
    # Not in the table of 0.19: the old name of the factor, and two later keys.
    newer = {"attention.temperature_scale", "attention.value_scale"}
    assert ours - theirs - newer <= {"rope.scale_linear"}


# --- RoPE ---


def test_rope_scaling_is_linear_unless_the_file_says_otherwise(
    tmp_path: pathlib.Path,
) -> None:
    linear = {"rope_type": "linear", "factor": 4.0}
    for key in ("llama.rope.scaling.factor", "llama.rope.scale_linear"):
        assert load_with(tmp_path, {key: 4.0}).config.rope_scaling == linear
        assert load_with(tmp_path, {key: 0.0}).config.rope_scaling is None
    none = {"llama.rope.scaling.type": "none", "llama.rope.scaling.factor": 4.0}
    assert load_with(tmp_path, none).config.rope_scaling is None


def test_yarn_keys_are_used(tmp_path: pathlib.Path) -> None:
    keys = {
        "llama.rope.scaling.type": "yarn",
        "llama.rope.scaling.factor": 1.0,
        "llama.rope.scaling.attn_factor": 0.5,
        "llama.rope.scaling.yarn_beta_fast": 16.0,
    }
    assert load_with(tmp_path, keys).config.rope_scaling == {
        "rope_type": "yarn",
        "factor": 1.0,
        "original_max_position_embeddings": 128,
        "beta_fast": 16.0,
        "beta_slow": 1.0,
        "attention_factor": 0.5,
    }


def test_divisors_and_a_factor_divide_both(tmp_path: pathlib.Path) -> None:
    llama3 = Checkpoint("llama", tied=False, rope="llama3")
    alone = load_with(tmp_path, {}, llama3).config.rope_scaling
    both = load_with(tmp_path, {"llama.rope.scaling.factor": 2.0}, llama3)
    assert alone is not None and alone["divisors"][0] == 1.0
    doubled = [2 * divisor for divisor in alone["divisors"]]
    assert both.config.rope_scaling == {"rope_type": "divisors", "divisors": doubled}
    yarn = {"llama.rope.scaling.type": "yarn", "llama.rope.scaling.factor": 2.0}
    with pytest.raises(
        ModelError, match="'yarn' must go with tensors .., got .*rope_freqs"
    ):
        load_with(tmp_path, yarn, llama3)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (
            {"llama.rope.scaling.factor": 4.0, "llama.rope.scale_linear": 2.0},
            "llama.rope.scaling.factor=4.0 and llama.rope.scale_linear=2.0 must agree",
        ),
        (
            {"llama.rope.scaling.attn_factor": 0.5},
            "attn_factor=0.5 is not supported with",
        ),
        ({"llama.rope.scaling.factor": -2.0}, "factor must be a positive number"),
        (
            {"llama.rope.scaling.factor": float("nan")},
            "factor must be a positive number",
        ),
        (
            {"llama.rope.scaling.type": "longrope"},
            "'longrope' must go with tensors .*rope_factors_long.weight.*, got ..",
        ),
    ],
)
def test_scalings_that_contradict_themselves_are_refused(
    keys: dict[str, Any], message: str, tmp_path: pathlib.Path
) -> None:
    refused(tmp_path, keys, message)


# --- tokens ---

HELLO = 259


@pytest.mark.parametrize(
    ("pre", "flag", "start"),
    [
        ("llama-bpe", None, [260]),  # llama.cpp: `add_bos = true` for this kind
        ("llama-bpe", True, [260]),
        ("llama-bpe", False, []),
        ("llama-v3", None, [260]),
        ("qwen2", None, []),
        ("gpt-2", None, []),
        ("smollm", True, [260]),
    ],
)
def test_the_start_token_goes_by_the_file_or_by_the_kind_of_tokenizer(
    pre: str, flag: bool | None, start: list[int], tmp_path: pathlib.Path
) -> None:
    keys = {"tokenizer.ggml.pre": pre, "tokenizer.ggml.add_bos_token": flag}
    tokenizer = load_with(tmp_path, keys).tokenizer
    assert tokenizer.encode("hello") == [*start, HELLO]


def test_an_end_token_that_is_asked_for_comes_last(tmp_path: pathlib.Path) -> None:
    tokenizer = load_with(tmp_path, {"tokenizer.ggml.add_eos_token": True}).tokenizer
    assert tokenizer.encode("hello") == [HELLO, 261]


def test_all_tokens_that_end_an_answer_are_known(tmp_path: pathlib.Path) -> None:
    """Named by key (261, 264, 265), and by text: `<|im_end|>` is 263."""
    assert load_with(tmp_path, {}).tokenizer.eos_ids == {261, 263}
    keys = {"tokenizer.ggml.eot_token_id": 264, "tokenizer.ggml.eom_token_id": 265}
    assert load_with(tmp_path, keys).tokenizer.eos_ids == {261, 263, 264, 265}


def test_a_rendered_chat_has_one_start_token(tmp_path: pathlib.Path) -> None:
    keys = {"tokenizer.ggml.add_bos_token": True}
    for template in (
        "{{ messages[0].content }}",
        "{{ bos_token }}{{ messages[0].content }}",
    ):
        chat = keys | {"tokenizer.chat_template": template}
        assert load_with(tmp_path, chat).tokenizer.chat("hello") == [260, HELLO]
    assert load_with(tmp_path, keys).tokenizer.chat("hello") == [
        260,
        HELLO,
    ]  # base model


def test_padding_ids_decode_to_nothing(tmp_path: pathlib.Path) -> None:
    tokenizer = load_with(tmp_path, {}).tokenizer
    assert tokenizer.vocab_size == 272
    assert tokenizer.decode([HELLO, 270, HELLO]) == "hellohello"
    assert 270 not in tokenizer.encode("[PAD270]")


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"tokenizer.ggml.pre": None}, "metadata lacks tokenizer.ggml.pre"),
        ({"tokenizer.ggml.eos_token_id": None}, "lacks tokenizer.ggml.eos_token_id"),
        (
            {"tokenizer.ggml.add_bos_token": True, "tokenizer.ggml.bos_token_id": None},
            "metadata lacks tokenizer.ggml.bos_token_id",
        ),
        ({"tokenizer.ggml.eos_token_id": 272}, "tokenizer has no token 272"),
        ({"tokenizer.ggml.eot_token_id": "x"}, "eot_token_id must be one int"),
        ({"tokenizer.ggml.add_bos_token": 1}, "add_bos_token must be one bool"),
        ({"tokenizer.ggml.token_type": [1] * 5}, "token_type must have 272 types"),
        ({"tokenizer.ggml.token_type": [9] * 272}, "token_type must have 272 types"),
    ],
)
def test_tokenizers_that_say_too_little_are_refused(
    keys: dict[str, Any], message: str, tmp_path: pathlib.Path
) -> None:
    refused(tmp_path, keys, message)
