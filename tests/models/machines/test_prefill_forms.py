"""Prefill of what families' layers compute beside Llama's, against the float32 oracle."""

import dataclasses
import functools
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from emu.trainium.datasheets import TRN3, with_cores
from kernels import masks
from kernels.attention.decorator import attention
from models.config import ModelConfig
from models.layer_form import Temperature
from models.loading.hf_folder import load_hf_folder
from models.machines.prefill import Prefill
from models.machines.prefill_forms import temperatures
from models.plain import oracle
from models.plain.kv_cache import empty_cache
from models.plain.weights import random_weights
from tests.models.machines.test_prefill import LLAMA, near, prompt_of, structs_of

DATA = pathlib.Path(__file__).parents[1] / "data"
# Llama 4's attention in its first layer, in the second that of its layers without RoPE, with
# biases and a soft-cap of logits besides: 8 of 16 features turn.
VARIED = dataclasses.replace(
    LLAMA,
    name="varied",
    vocab_size=96,
    rotary_dim=8,
    rope_layers=(True, False),
    query_key_norm="unit",
    temperature=Temperature(floor=4, slope=0.3),
    attention_bias=True,
    attention_output_bias=True,
    attention_scale=0.4,
    logit_soft_cap=2.0,
)
# Norms of outputs, gelu, a scaled embedding, and a window with a RoPE of its own.
GEMMA = dataclasses.replace(
    LLAMA,
    name="gemma",
    model_type="gemma3_text",
    vocab_size=96,
    layer_types=("sliding_attention", "full_attention"),
    sliding_window=5,
    rope_local_theta=100.0,
    attention_scale=0.3,
)


@functools.cache
def weights_of(config: ModelConfig) -> dict[str, Any]:
    """Random weights; norms away from 1 and biases from 0, so that leaving one out shows."""
    rng = np.random.default_rng(1)
    weights = random_weights(config, 0)
    for tensor in config.layer_tensors:
        shape = weights["layers"][tensor.name].shape
        if tensor.is_norm or tensor.is_added:
            drawn = rng.uniform(0.5, 1.5, shape).astype(np.float32)
            weights["layers"][tensor.name] = drawn
    return weights


def oracle_of(
    config: ModelConfig, weights: Any, prompt: list[int], attention: Any = None
) -> tuple[np.ndarray, ...]:
    """The last token's logits, and k and v as `[layers, tokens, kv_heads, head_dim]`."""
    cache = empty_cache(config, 1, len(prompt))
    ids = jnp.asarray([prompt], jnp.int32)
    logits, cache = oracle.jitted_extend(config, weights, ids, cache, attention)
    keys, values = (np.asarray(x)[:, 0].swapaxes(1, 2) for x in (cache.k, cache.v))
    return np.asarray(logits[0, -1]), keys, values


def agrees(
    config: ModelConfig, weights: Any, prompt: list[int], **options: Any
) -> None:
    """1e-4 of the largest: float32 sums of up to four layers in another order give some 1e-5."""
    given = {"chips": 1, "dtype": "float32", **options}
    prefill = Prefill(config, weights, tokens=len(prompt), **given)
    result = prefill.run(prompt)
    wanted = oracle_of(config, weights, prompt, options.get("attention"))
    for actual, expected in zip((result.logits, result.k, result.v), wanted):
        near(actual, expected, 1e-4)
    assert result.token == result.logits.argmax()


@pytest.mark.parametrize(
    "config, chips, cores",
    [
        (VARIED, 1, 2),
        (GEMMA, 1, 1),
        *(
            pytest.param(config, chips, cores, marks=pytest.mark.slow)
            for config in (VARIED, GEMMA)
            for chips, cores in ((3, 1), (3, 3))
        ),
    ],
    ids=lambda value: getattr(value, "name", str(value)),
)
def test_forms_agree_with_the_oracle(
    config: ModelConfig, chips: int, cores: int
) -> None:
    prompt = prompt_of(config, 37)
    agrees(config, weights_of(config), prompt, chips=chips, cores=cores)


@pytest.mark.parametrize(
    "head_dim, chips, cores",
    [
        (256, 1, 1),
        pytest.param(256, 3, 2, marks=pytest.mark.slow),
        pytest.param(192, 2, 1, marks=pytest.mark.slow),
    ],
)
def test_heads_wider_than_the_array(head_dim: int, chips: int, cores: int) -> None:
    """Contracted, turned and projected in two parts; Gemma-3 4B's heads have 256 features."""
    config = dataclasses.replace(
        LLAMA, num_hidden_layers=1, head_dim=head_dim, vocab_size=96
    )
    prompt = prompt_of(config, 37)
    agrees(config, weights_of(config), prompt, chips=chips, cores=cores)


# Each of two KV heads stands on two of four cores.
WIDE = dataclasses.replace(
    LLAMA, name="wide", query_key_norm="width", vocab_size=96, num_hidden_layers=1
)


@pytest.mark.parametrize(
    "chips, cores", [(1, 4), pytest.param(3, 1, marks=pytest.mark.slow)]
)
def test_norms_over_all_heads(chips: int, cores: int) -> None:
    """MiniMax-M2's, whose sums of squares are over the heads of all cores."""
    prompt = prompt_of(WIDE, 37)
    agrees(WIDE, weights_of(WIDE), prompt, chips=chips, cores=cores)


def test_sums_of_squares_cross_cores_once_a_block() -> None:
    """A queries' and a keys' number of a token; a core alone exchanges nothing."""
    plain = dataclasses.replace(WIDE, query_key_norm=None)
    sums = []
    for config, cores in ((WIDE, 4), (plain, 4), (WIDE, 1)):
        options: Any = dict(tokens=600, chips=1, cores=cores, dtype="float32")
        prefill = Prefill(config, structs_of(config), **options)
        assert prefill.tiling.blocks == 2
        clock = prefill.read(with_cores(TRN3, cores).at()).clock
        sums.append(clock.tally.by("count").get("trn.all_reduce", 0))
    wide, without, alone = sums
    assert wide - without == 2 * 4
    assert alone == 0


FOLDERS = [
    "mistral_window",
    "qwen2_biases_window",
    "gemma2",
    "gemma3",
    "phi3_partial",
    "smollm3",
    "llama_gqa_tied_llama3",
    "llama_mha_untied",
    "qwen3_gqa_tied",
    "qwen3_gqa_untied",
]


@pytest.mark.slow
@pytest.mark.parametrize("chips, cores", [(1, 1), (3, 1), (1, 2)])
@pytest.mark.parametrize("name", FOLDERS)
def test_dense_families_agree(name: str, chips: int, cores: int) -> None:
    """With the oracle, and with the logits that transformers computed."""
    config, weights, _ = load_hf_folder(DATA / name)
    stored = safetensors.numpy.load_file(DATA / name / "reference.safetensors")
    prompt = stored["input_ids"][0].tolist()
    agrees(config, weights, prompt, chips=chips, cores=cores)
    prefill = Prefill(
        config,
        weights,
        tokens=len(prompt),
        chips=chips,
        cores=cores,
        dtype="float32",
    )
    near(prefill.run(prompt).logits, stored["logits"][0, -1], 1e-4)


def test_a_variant_without_a_scale_has_the_models() -> None:
    config = dataclasses.replace(LLAMA, attention_scale=0.7)
    variants = [attention(masks.causal), attention(masks.causal, scale=0.2)]
    options: Any = dict(tokens=9, chips=1, dtype="float32", attention=variants)
    prefill = Prefill(config, structs_of(config), **options)
    assert [ring.scores.scale for ring in prefill.rings] == [0.7, 0.2]


def test_runs_are_computed_one_behind_another() -> None:
    """Layers cut into two runs compute what one run does, and are done at the same times."""
    cut = dataclasses.replace(LLAMA, vocab_size=96)
    whole = dataclasses.replace(cut)
    # As where the first layers have another MLP than the others.
    cut.__dict__["runs"] = (range(0, 1), range(1, 2))
    weights = weights_of(whole)
    agrees(cut, weights, prompt_of(cut, 9))
    options: Any = dict(tokens=9, chips=1, dtype="float32")
    one, two = Prefill(whole, weights, **options), Prefill(cut, weights, **options)
    assert [len(p.weights["layers"]) for p in (one, two)] == [1, 2]
    first, second = one.read(TRN3.at()), two.read(TRN3.at())
    assert first.layer_done_s == second.layer_done_s
    assert first.clock.end_ticks == second.clock.end_ticks


def test_temperatures() -> None:
    """Llama 4's: floor 8, slope 0.1; position 7 is the first of the second step, log(1 + 1)."""
    found = temperatures(Temperature(8, 0.1), np.array([0, 6, 7, 23]))
    expected = [1, 1, 1 + 0.1 * np.log(2), 1 + 0.1 * np.log(4)]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


# --- weights and clock ---


@pytest.mark.parametrize("config", [VARIED, GEMMA], ids=lambda config: config.name)
@pytest.mark.parametrize("cores", [1, 3])
def test_structs_pack_as_arrays_do(config: ModelConfig, cores: int) -> None:
    options: Any = dict(tokens=37, chips=4, cores=cores, dtype="bfloat16")
    given = Prefill(config, weights_of(config), **options).abstract()
    shapes = Prefill(config, structs_of(config), **options).abstract()
    # What follows are tables of the mask.
    assert jax.tree.map(str, shapes[:3]) == jax.tree.map(str, given[:3])


def counted(config: ModelConfig, cores: int = 1) -> tuple[Prefill, dict[str, int]]:
    """Instructions of a prefill of 37 tokens; jumping in time equals stepping."""
    options: Any = dict(tokens=37, chips=1, cores=cores, dtype="float32")
    prefill = Prefill(config, structs_of(config), **options)
    device = with_cores(TRN3, cores).at()
    reading, stepped = prefill.read(device), prefill.read(device, jump=False)
    assert reading.clock.end_ticks == stepped.clock.end_ticks
    assert reading.layer_done_s == stepped.layer_done_s
    assert len(reading.layer_done_s) == 2
    assert 0 < reading.layer_done_s[0] < reading.layer_done_s[1]
    return prefill, dict(reading.clock.tally.by("count"))


@pytest.mark.parametrize("cores", [1, pytest.param(2, marks=pytest.mark.slow)], ids=str)
def test_what_forms_compute_is_counted(cores: int) -> None:
    plain, of_plain = counted(LLAMA, cores)
    tiles = plain.tiling.blocks * plain.tiling.tiles
    _, of_gemma = counted(dataclasses.replace(GEMMA, vocab_size=1030), cores)
    _, of_varied = counted(dataclasses.replace(VARIED, vocab_size=1030), cores)
    # Two norms a layer and tile more, each a sum of squares.
    more = of_gemma["trn.activation_reduce"] - of_plain["trn.activation_reduce"]
    assert more == cores * 2 * 2 * tiles
    # Of two layers one normalises queries and keys, the other multiplies queries.
    more = of_varied["trn.tensor_reduce"] - of_plain["trn.tensor_reduce"]
    assert more == cores * 2 * tiles
    more = of_varied["trn.tensor_scalar"] - of_plain.get("trn.tensor_scalar", 0)
    assert more == cores * tiles
