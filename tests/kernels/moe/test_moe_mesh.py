"""Mixtures on a mesh of NeuronCores: values against every expert on every token, counts, time."""

import dataclasses
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from emu.errors import LimitExceeded
from emu.trainium import TRN2, TRN3, TRN3_GEN1, on_system, with_cores
from kernels.moe.mesh.form import MixtureOfExperts
from kernels.moe.mesh.program import MoeMesh
from kernels.moe.mesh.work import dealt
from kernels.moe.routing import Routing
from kernels.trainium.layer.gate import CLAMPED, Gate
from tests.helpers import same_clock
from tests.kernels.moe.mixture_counts import hbm_bytes, matmul_flops
from tests.kernels.moe.moe_oracle import dense, draw, plain, routed, wide

HIDDEN, FFN, EXPERTS = 72, 40, 8
# Largest error of the largest value. Sums are of at most 72 products of random sign, so roundings
# of float32 (2**-24 each) add up to some 8 of them at every one of four stages.
WITHIN = 2e-6

SOFTMAX = MixtureOfExperts(Routing(EXPERTS, 2), HIDDEN, FFN)
# With a bias by which a test says what is chosen.
BIASED = dataclasses.replace(SOFTMAX, router_bias=True)
DEEPSEEK = MixtureOfExperts(
    Routing(
        *(EXPERTS, 2, "sigmoid"),
        selection_bias=True,
        groups=2,
        chosen_groups=1,
        scale=2.5,
    ),
    HIDDEN,
    FFN,
    shared=24,
)
GPT_OSS = MixtureOfExperts(
    Routing(EXPERTS, 3), HIDDEN, FFN, CLAMPED, router_bias=True, biases=True
)
LLAMA4 = MixtureOfExperts(
    Routing(EXPERTS, 1, "sigmoid", normalised=False, on_input=True),
    HIDDEN,
    FFN,
    shared=24,
)
# 130 features are no multiple of four: each core sums up 33, and two of 132 are nothing.
UNEVEN = MixtureOfExperts(Routing(EXPERTS, 2), 130, FFN, shared=24)
QWEN2 = MixtureOfExperts(
    Routing(12, 10, normalised=False),
    HIDDEN,
    FFN,
    Gate("gelu_apprx_tanh"),
    shared=24,
    shared_is_scaled=True,
)


def mesh(what, chips=1, cores=1, tokens=24, **options):
    options = {"tile_rows": 16, "tiles_at_once": 2, **options}
    return MoeMesh(what, chips, cores, tokens, jnp.float32, **options)


def device(cores=1):
    return with_cores(on_system(TRN3, TRN3_GEN1), cores).at()


def error(made, expected):
    return (
        np.abs(made.reshape(expected.shape) - expected).max() / np.abs(expected).max()
    )


def checked(on, weights, x=None, counts=None):
    """Runs and compares values and counts."""
    what = on.mixture
    if x is None:
        x = draw(1, on.chips, on.tokens, what.hidden)
    ran = on.run(x, weights, counts)
    flat = x.reshape(-1, what.hidden)
    expected = dense(flat, weights, what, chips=on.chips, capacity=on.capacity)
    assert error(ran.rows, expected) <= WITHIN
    experts, _ = routed(flat, weights, what)
    for chip, own in enumerate(experts.reshape(on.chips, -1)):
        found = np.bincount(own, minlength=what.routing.experts)
        np.testing.assert_array_equal(ran.counts[chip], found)
    return ran


def towards(weights, what, favoured):
    """The same router with a bias that sends every token to some experts."""
    bias = np.zeros(what.routing.experts, np.float32)
    bias[list(favoured)] = 50.0
    return dataclasses.replace(weights, router_bias=bias)


# --- values ---


def test_a_core_alone():
    """Random routings, experts without tokens, and experts that every token chooses."""
    what, on = BIASED, mesh(BIASED)
    weights = plain(what)
    checked(on, weights)
    ran = checked(on, towards(weights, what, [5, 2]))
    assert ran.counts[0].tolist() == [0, 0, 24, 0, 0, 24, 0, 0]
    ran = checked(on, towards(weights, what, [7]))
    assert ran.counts[0, 7] == 24 and ran.counts.sum() == 48


def test_two_chips_of_two_cores():
    """Groups, a selection bias and a shared expert; rows go between chips and back."""
    on = mesh(DEEPSEEK, 2, 2)
    weights = plain(DEEPSEEK)
    checked(on, weights)
    every = np.zeros(EXPERTS, np.float32)
    every[[0, 3]] = 20.0
    ran = checked(on, dataclasses.replace(weights, selection=every))
    assert ran.counts[:, [0, 3]].tolist() == [[24, 24], [24, 24]]


@pytest.mark.slow
@pytest.mark.parametrize(
    "what, chips, cores, options",
    [
        (GPT_OSS, 4, 4, {}),  # two groups of chips, each with all experts
        (GPT_OSS, 1, 1, {"tiles_at_once": 1}),
        (LLAMA4, 2, 1, {}),
        (LLAMA4, 1, 2, {"tile_rows": 8}),
        (QWEN2, 1, 2, {}),  # ten chosen: two rounds of eight
        (QWEN2, 3, 1, {}),
        (QWEN2, 4, 2, {}),  # six experts of a core's index: two groups of two chips
        (SOFTMAX, 2, 2, {"tokens": 160}),  # two tiles of tokens on each chip
        (UNEVEN, 2, 4, {"tiles_at_once": 1}),
    ],
)
def test_families(what, chips, cores, options):
    checked(mesh(what, chips, cores, **options), plain(what))


@pytest.mark.slow  # the default run has a case of it with padding, below
@pytest.mark.parametrize(
    "chips, cores",
    [(1, 1), (2, 2), (8, 2)],
)
def test_capacity_drops_by_order(chips, cores):
    """Of an expert that all tokens choose only the first five of each chip are computed."""
    on = mesh(BIASED, chips, cores, capacity=5, tiles_at_once=1)
    checked(on, towards(plain(BIASED), BIASED, [1]))


@pytest.mark.parametrize(
    "chips, cores",
    [
        (2, 1),
        pytest.param(1, 2, marks=pytest.mark.slow),
        pytest.param(2, 2, marks=pytest.mark.slow),
        pytest.param(8, 4, marks=pytest.mark.slow),
    ],
)
def test_bits_do_not_depend_on_the_mesh(chips, cores):
    """Rows are computed in tiles of one size and summed in the order of choice."""
    weights = plain(BIASED)
    x = draw(1, 1, 24, HIDDEN)
    alone = mesh(BIASED).run(x, weights).rows
    tokens = 24 // chips
    many = mesh(BIASED, chips, cores, tokens)
    made = many.run(x.reshape(chips, tokens, HIDDEN), weights).rows
    np.testing.assert_array_equal(made.reshape(alone.shape), alone)


@pytest.mark.slow
@pytest.mark.parametrize("chips, cores", [(1, 1), (2, 2)])
def test_in_bfloat16(chips, cores):
    """Rows, features and results are rounded to 8 bits: three roundings of 2**-9 each."""
    on = dataclasses.replace(mesh(BIASED, chips, cores), dtype=jnp.bfloat16)
    weights = jax.tree.map(
        lambda x: x.astype(jnp.bfloat16), towards(plain(BIASED), BIASED, [2, 5])
    )
    x = draw(1, chips, 24, HIDDEN).astype(jnp.bfloat16)
    ran = on.run(x, weights)
    expected = dense(wide(x).reshape(-1, HIDDEN), weights, BIASED)
    assert error(wide(ran.rows), expected) <= 3 * 2**-9
    assert ran.counts[:, [2, 5]].tolist() == [[24, 24]] * chips


@pytest.mark.parametrize(
    "chips, cores, options",
    [
        (2, 1, {"capacity": 5}),
        pytest.param(1, 1, {}, marks=pytest.mark.slow),
        pytest.param(2, 2, {"tokens": 128}, marks=pytest.mark.slow),
    ],
)
def test_padding_chooses_nothing(chips, cores, options):
    """The last tokens of the last chip are none: no expert is given them, and they get zeros."""
    tokens = options.pop("tokens", 24)
    real = np.ones((chips, tokens), bool)
    real[-1, -9:] = False
    on = mesh(BIASED, chips, cores, tokens, real=real, tiles_at_once=1, **options)
    weights = towards(plain(BIASED), BIASED, [1])
    x = draw(1, chips, tokens, HIDDEN)
    ran = on.run(x, weights)
    flat = x.reshape(-1, HIDDEN)
    expected = dense(flat, weights, BIASED, chips=chips, capacity=on.capacity)
    expected[-9:] = 0
    assert error(ran.rows, expected) <= WITHIN
    assert ran.counts[:, 1].tolist() == [tokens] * (chips - 1) + [tokens - 9]


# --- counts ---


def test_counts_that_are_not_the_data_s_are_refused():
    on, weights = mesh(BIASED), plain(BIASED)
    x = draw(1, 1, 24, HIDDEN)
    counts = on.counts(x, weights)
    given = counts.copy()
    # One token's choice is said to be another.
    fewer, more = int(counts[0].argmax()), int(counts[0].argmin())
    given[0, fewer] -= 1
    given[0, more] += 1
    first = min(fewer, more)
    message = (
        f"2 counts are not those of the data: expert {first} was said to be chosen by "
        f"{given[0, first]} tokens of chip 0, and {counts[0, first]} chose it"
    )
    with pytest.raises(LimitExceeded, match=message):
        on.run(x, weights, given)


def test_counts_must_add_up():
    on = mesh(SOFTMAX)
    with pytest.raises(
        LimitExceeded,
        match="counts of chip 0 add up to 40 .* 24 tokens · 2 chosen = 48",
    ):
        on.read(device(), np.full((1, EXPERTS), 5))
    with pytest.raises(LimitExceeded, match=r"must be integers \[1, 8\]"):
        on.read(device(), np.full((2, EXPERTS), 6))


def test_totals_are_dealt_evenly():
    totals = np.array([10, 3, 0, 7])
    counts = dealt(totals, 4)
    np.testing.assert_array_equal(counts.sum(0), totals)
    assert (counts.sum(1) == 5).all() and np.ptp(counts, axis=0).max() == 1


# --- time ---


def test_replayed_counts_give_the_same_ticks():
    """The clock of the arrays that were run, and of the counts that they gave."""
    on, weights = mesh(DEEPSEEK, 2, 2), plain(DEEPSEEK)
    ran = on.run(draw(1, 2, 24, HIDDEN), weights)
    again = on.run(draw(1, 2, 24, HIDDEN), weights, ran.counts)
    first, second = (on.read(device(2), r.counts) for r in (ran, again))
    same_clock(first, second)
    same_clock(first, on.read(device(2), ran.counts, jump=False))


MESHES = [
    (SOFTMAX, 1, 1),
    (SOFTMAX, 8, 2),
    (DEEPSEEK, 2, 2),
    (DEEPSEEK, 4, 4),
    (QWEN2, 3, 2),
    (QWEN2, 4, 2),
]


@pytest.mark.parametrize("what, chips, cores", MESHES, ids=range(len(MESHES)))
def test_flops(what, chips, cores):
    """Of counts that differ between experts, some without tokens."""
    on = mesh(what, chips, cores)
    counts = uneven(on)
    found = on.read(device(cores), counts).tally.by("flops")["trn.nc_matmul"]
    assert found == matmul_flops(on, counts)


def uneven(on, seed=0):
    """Counts of tokens that prefer some experts."""
    what = on.mixture.routing
    rng = np.random.default_rng(seed)
    liking = 3 * rng.normal(size=what.experts)
    shape = on.chips, on.tokens, what.experts
    order = np.argsort(liking + rng.gumbel(size=shape), axis=-1)
    chosen = order[..., : what.chosen].reshape(on.chips, -1)
    return np.stack([np.bincount(own, minlength=what.experts) for own in chosen])


@pytest.mark.parametrize(
    "what, chips, cores, tokens",
    [
        (SOFTMAX, 1, 1, 24),
        (SOFTMAX, 4, 1, 24),
        (DEEPSEEK, 2, 4, 160),  # two tiles of tokens on each chip, a shared MLP
        (GPT_OSS, 4, 4, 24),  # biases; two groups of chips
        (LLAMA4, 2, 1, 24),  # factors of experts' inputs
        (LLAMA4, 1, 2, 24),  # nothing crosses links
        (UNEVEN, 2, 4, 24),  # 130 features over four cores
        (QWEN2, 3, 2, 24),
    ],
)
def test_hbm_bytes(what, chips, cores, tokens):
    on = mesh(what, chips, cores, tokens)
    counts = uneven(on)
    moved = on.read(device(cores), counts).tally.by("bytes")
    found = moved["hbm_read"], moved["hbm_write"]
    assert found == hbm_bytes(on, counts, device(cores))


def test_imbalance_is_never_faster():
    """Even, drawn with preferences, and all tokens on the same experts.

    (Of cores; on one alone an expert without tokens saves the load of its weights.)
    """
    chips, cores = 4, 2
    on = MoeMesh(SOFTMAX, chips, cores, 512, jnp.bfloat16)
    even = dealt(np.full(EXPERTS, chips * 128), chips)
    all_alike = np.zeros((chips, EXPERTS), int)
    all_alike[:, :2] = 512
    counts = [even, uneven(on), all_alike]
    largest = [c.sum(0).max() for c in counts]
    assert largest == sorted(largest)
    ticks = [on.read(device(cores), c).end_ticks for c in counts]
    assert ticks == sorted(ticks) and ticks[-1] > 1.2 * ticks[0]


@pytest.mark.parametrize("sheet", [TRN2, TRN3], ids=lambda sheet: sheet.name)
def test_both_generations_have_room(sheet):
    """gpt-oss-120b on four chips: 128 experts of 2,880 by 2,880, four chosen, biases."""
    what = MixtureOfExperts(
        Routing(128, 4), 2880, 2880, CLAMPED, router_bias=True, biases=True
    )
    on = MoeMesh(what, 4, 8, 2048, jnp.bfloat16)
    counts = dealt(np.full(128, 8192 * 4 // 128), 4)
    clock = on.read(with_cores(sheet, 8).at(), counts)
    assert clock.tally.by("flops")["trn.nc_matmul"] == matmul_flops(on, counts)


def test_deepseek_v3_in_a_few_seconds():
    """8,192 tokens on 64 chips of 8 cores; within limits that hold for any such machine."""
    routing = Routing(
        *(256, 8, "sigmoid"), selection_bias=True, groups=8, chosen_groups=4, scale=2.5
    )
    what = MixtureOfExperts(routing, 7168, 2048, shared=2048)
    on = MoeMesh(what, 64, 8, 128, jnp.bfloat16)
    counts = dealt(np.full(256, 8192 * 8 // 256), 64)
    begin = time.process_time()
    clock = on.read(device(8), counts)
    assert time.process_time() - begin < 10
    flops = clock.tally.by("flops")["trn.nc_matmul"]
    assert flops == matmul_flops(on, counts)
    # No faster than its matmuls at peak, and than its experts' weights come from HBM.
    chip = device(8)
    assert clock.seconds > flops / 512 / chip.bf16_flops_per_s
    weights = 4 * 3 * 7168 * 2048 * 2
    assert clock.seconds > weights / chip.hbm_bytes_per_s
