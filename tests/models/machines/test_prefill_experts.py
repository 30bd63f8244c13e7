"""Prefill of models whose layers have experts: numbers against the oracle, and clocks of counts."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from emu.errors import LimitExceeded
from emu.trainium.datasheets import TRN3, with_cores
from kernels.moe.router import Routed, route
from kernels.moe.routing import Routing
from models.config import ModelConfig
from models.errors import ModelError
from models.layer_form import Experts
from models.loading.hf_folder import load_hf_folder
from models.machines.prefill import Compiled, Prefill, PrefillResult
from models.machines.useful_flops import useful_flops
from models.plain import mlp
from models.plain.transformer import forward
from tests.helpers import same_clock
from tests.models.conftest import DATA
from tests.models.machines.test_prefill import LLAMA, near, prompt_of, structs_of
from tests.models.machines.test_prefill_forms import oracle_of, weights_of

# A layer with an MLP and one with experts and a shared one. 9 tokens on 2 chips: the second has 4,
# and a slot of padding.
EXPERTS = Experts(count=4, chosen=2, width=24, shared_width=16)
MIXED = dataclasses.replace(
    LLAMA,
    name="mixed",
    model_type="glm4_moe",
    query_key_norm="head",
    vocab_size=96,
    experts=EXPERTS,
    expert_layers=(False, True),
)
# What every mixture has: it is compiled in a fraction of the time.
ALONE = dataclasses.replace(
    LLAMA,
    name="alone",
    model_type="mixtral",
    vocab_size=96,
    num_hidden_layers=1,
    experts=Experts(count=4, chosen=2, width=24),
)
FOLDERS = [
    "qwen3_moe",
    "mixtral",
    "gpt_oss",
    "glm4_moe",
    "llama4",
    "minimax_m2",
]


def agrees(
    config: ModelConfig,
    weights: Any,
    prompt: list[int],
    counts: np.ndarray | None = None,
    **options: Any,
) -> None:
    """Logits and cache are the oracle's, and counts those of the prompt's tokens.

    1e-4 of the largest: float32 sums of up to four layers in another order give some 1e-6. A token
    that went to another expert would be off by more.
    """
    prefill = Prefill(config, weights, tokens=len(prompt), dtype="float32", **options)
    compiled = None
    if counts is not None:
        compiled = Compiled(prefill.program_for(counts).compiled, counts)
    result = prefill.run(prompt, compiled)
    if counts is None:
        same_in_its_own_room(prefill, prompt, result)
    wanted = oracle_of(config, weights, prompt)
    for actual, expected in zip((result.logits, result.k, result.v), wanted):
        near(actual, expected, 1e-4)
    assert result.token == wanted[0].argmax()
    assert config.experts is not None and result.counts is not None
    picks = np.asarray(prefill.held) * config.experts.chosen
    assert (result.counts.sum(-1) == picks).all()
    layers = sum(form.experts is not None for form in config.forms)
    assert result.counts.shape == (layers, prefill.chips, config.experts.count)
    # What ran is timed, by its shapes as by its arrays.
    device = with_cores(TRN3, prefill.cores).at()
    reading = prefill.read(device, result.counts)
    prefill.release()
    again = prefill.read(device, result.counts, jump=False)
    same_clock(reading.clock, again.clock)
    assert reading.layer_done_s == again.layer_done_s


def same_in_its_own_room(
    prefill: Prefill, prompt: list[int], found: PrefillResult
) -> None:
    """The program that is timed, with room for the prompt's counts, computes the same bits."""
    assert found.counts is not None
    own = Compiled(prefill.program_for(found.counts).compiled, found.counts)
    result = prefill.run(prompt, own)
    for name in ("logits", "k", "v"):
        pair = getattr(result, name), getattr(found, name)
        np.testing.assert_array_equal(*pair, err_msg=name)


def test_a_layer_with_experts_agrees_with_the_oracle(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On two chips, whose tokens go to each other's experts as often as the oracle has it."""
    weights, prompt = weights_of(ALONE), prompt_of(ALONE, 9)
    by_layer: list[np.ndarray] = []

    def spy(logits: jax.Array, routing: Routing, bias: jax.Array | None) -> Routed:
        routed = route(logits, routing, bias)
        jax.debug.callback(by_layer.append, routed.experts, ordered=True)
        return routed

    with monkeypatch.context() as patched:
        patched.setattr(mlp, "route", spy)
        ids = jnp.asarray([prompt], jnp.int32)
        jax.jit(forward, static_argnums=0)(ALONE, weights, ids).block_until_ready()
        jax.effects_barrier()
    (chosen,) = by_layer
    # The first chip has the first 5 tokens.
    of_chips = np.split(chosen.reshape(9, 2), [5])
    counts = [np.bincount(own.ravel(), minlength=4) for own in of_chips]
    agrees(ALONE, weights, prompt, np.stack(counts)[None], chips=2)


@pytest.mark.slow
@pytest.mark.parametrize("chips, cores", [(1, 1), (3, 2)])
@pytest.mark.parametrize("name", FOLDERS)
def test_families_with_experts_agree(name: str, chips: int, cores: int) -> None:
    config, weights, _ = load_hf_folder(DATA / name)
    prompt = prompt_of(config, 18)
    agrees(config, weights, prompt, chips=chips, cores=cores)


@pytest.mark.slow
def test_room_for_the_counts_computes_what_any_room_does_in_bfloat16() -> None:
    weights, prompt = weights_of(MIXED), prompt_of(MIXED, 18)
    options: Any = dict(tokens=18, chips=3, cores=2, dtype="bfloat16")
    prefill = Prefill(MIXED, weights, **options)
    same_in_its_own_room(prefill, prompt, prefill.run(prompt))


# --- clocks ---


@functools.cache
def timed(chips: int = 2) -> Prefill:
    options: Any = dict(tokens=9, chips=chips, dtype="float32")
    return Prefill(MIXED, structs_of(MIXED), **options)


def test_none_are_balanced_counts_and_totals_are_dealt() -> None:
    """9 tokens choose 18 times: 5, 5, 4, 4; on 5 tokens of a chip and 4 of the other."""
    prefill = timed()
    assert prefill.held == [5, 4]
    assert prefill.experts is not None
    counts = prefill.experts.counts()
    assert counts.shape == (1, 2, 4)
    assert counts.sum(1).tolist() == [[5, 5, 4, 4]]
    assert counts.sum(2).tolist() == [[10, 8]]
    # An expert that all choose has all tokens of each chip.
    whole = prefill.experts.counts(np.array([[9, 9, 0, 0]]))
    assert whole.tolist() == [[[5, 5, 0, 0], [4, 4, 0, 0]]]
    device = TRN3.at()
    balanced = prefill.read(device)
    same_clock(balanced.clock, prefill.read(device, counts).clock)
    same_clock(balanced.clock, prefill.read(device, counts.sum(1)).clock)
    assert 0 < balanced.layer_done_s[0] < balanced.layer_done_s[1]
    bands = prefill.read_bands(TRN3, whole)
    assert bands["nominal"].layer_done_s == prefill.read(device, whole).layer_done_s
    # Two experts less whose weights are loaded.
    assert bands["nominal"].clock.end_ticks < balanced.clock.end_ticks


def test_counts_of_no_prompt_are_refused() -> None:
    experts = timed().experts
    assert experts is not None
    for counts, message in (
        (np.full((2, 2, 4), 2), "must be of the 1 layers that have experts"),
        (np.array([[10, 8, 0, 0]]), "0 to 9, together 9 tokens · 2 chosen = 18"),
        (np.array([[9, 8, 0, 0]]), "17 together"),
    ):
        with pytest.raises(ModelError, match=message):
            experts.counts(counts)
    with pytest.raises(LimitExceeded, match="5 tokens · 2 chosen = 10"):
        experts.counts(np.full((1, 2, 4), 2))
    given = experts.counts()
    found = given.copy()
    found[0, 1, 2] += 1
    with pytest.raises(LimitExceeded, match="counts are not those of the data"):
        experts.same(given, found)


@pytest.mark.parametrize("cores", [1, 2])
def test_structs_pack_as_arrays_do(cores: int) -> None:
    options: Any = dict(tokens=9, chips=2, cores=cores, dtype="bfloat16")
    given = Prefill(MIXED, weights_of(MIXED), **options).abstract()
    shapes = Prefill(MIXED, structs_of(MIXED), **options).abstract()
    assert str(shapes[0]) == str(given[0])


def test_useful_flops_count_the_chosen_experts() -> None:
    """Two experts of 24 and a shared one of 16, with a router of 4, for an MLP of 200."""
    dense = dataclasses.replace(MIXED, expert_layers=(False, False))
    less = 72 * (3 * 200 - 3 * (2 * 24 + 16) - 4)
    assert useful_flops(dense, 9) - useful_flops(MIXED, 9) == 2 * 9 * less
