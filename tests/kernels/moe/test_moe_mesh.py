"""Mixtures on a mesh of NeuronCores: values against every expert on every token, counts, time."""

import dataclasses
import time

import jax.numpy as jnp
import numpy as np
import pytest

from emu.errors import LimitExceeded
from emu.trainium import TRN3, TRN3_GEN1, on_system, with_cores
from kernels.moe.mesh.form import Experts
from kernels.moe.mesh.program import MoeMesh
from kernels.moe.mesh.work import dealt
from kernels.moe.routing import Routing
from kernels.trainium.layer.gate import CLAMPED, Gate
from tests.helpers import same_clock
from tests.kernels.moe.moe_oracle import dense, draw, plain, routed

HIDDEN, FFN, EXPERTS = 72, 40, 8
# Largest error of the largest value. Sums are of at most 72 products of random sign, so roundings
# of float32 (2**-24 each) add up to some 8 of them at every one of four stages.
WITHIN = 2e-6

SOFTMAX = Experts(Routing(EXPERTS, 2), HIDDEN, FFN)
DEEPSEEK = Experts(
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
GPT_OSS = Experts(
    Routing(EXPERTS, 3), HIDDEN, FFN, CLAMPED, router_bias=True, biases=True
)
LLAMA4 = Experts(
    Routing(EXPERTS, 1, "sigmoid", normalised=False, on_input=True),
    HIDDEN,
    FFN,
    shared=24,
)
QWEN2 = Experts(
    Routing(12, 10, normalised=False),
    HIDDEN,
    FFN,
    Gate("gelu_apprx_tanh"),
    shared=24,
    shared_gate=True,
)


def mesh(what, chips=1, cores=1, tokens=24, **options):
    options = {"tile_rows": 16, "tiles_at_once": 2, **options}
    return MoeMesh(what, chips, cores, tokens, jnp.float32, **options)


def device(cores=1):
    return with_cores(on_system(TRN3, TRN3_GEN1), cores).at()


def error(made, expected):
    return np.abs(made.reshape(expected.shape) - expected).max() / np.abs(expected).max()


def checked(on, weights, x=None, counts=None):
    """Runs and compares values and counts."""
    what = on.experts
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
    what = dataclasses.replace(SOFTMAX, router_bias=True)
    on = mesh(what)
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
        (SOFTMAX, 2, 2, {"tokens": 160}),  # two tiles of tokens on each chip
    ],
    ids=str,
)
def test_families(what, chips, cores, options):
    checked(mesh(what, chips, cores, **options), plain(what))


@pytest.mark.parametrize("chips, cores", [(1, 1), (2, 2)])
def test_capacity_drops_by_order(chips, cores):
    """Of an expert that all tokens choose only the first five of each chip are computed."""
    what = dataclasses.replace(SOFTMAX, router_bias=True)
    on = mesh(what, chips, cores, capacity=5, tiles_at_once=1)
    weights = towards(plain(what), what, [1])
    checked(on, weights)


def test_bits_do_not_depend_on_the_mesh():
    """Rows are computed in tiles of one size and summed in the order of choice."""
    weights = plain(SOFTMAX)
    x = draw(1, 1, 48, HIDDEN)
    alone = mesh(SOFTMAX, tokens=48).run(x, weights).rows
    four = mesh(SOFTMAX, 2, 2).run(x.reshape(2, 24, HIDDEN), weights).rows
    np.testing.assert_array_equal(four.reshape(alone.shape), alone)


# --- counts ---


def test_counts_that_are_not_the_data_s_are_refused():
    on, weights = mesh(SOFTMAX), plain(SOFTMAX)
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
    with pytest.raises(LimitExceeded, match="24 tokens · 2 chosen = 48"):
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


def matmul_flops(on, counts):
    """Closed form over all cores: router and counting, tiles of experts, the shared MLP."""
    form = on.form(counts)
    tokens, padded = form.tiles * form.rows, form.hidden_padded
    experts = on.experts.routing.experts
    columns = experts + on.experts.shared_gate
    routers = 2 * tokens * padded * columns + 2 * 2 * tokens * form.rows * experts
    shared = 2 * 3 * tokens * padded * np.prod(form.shared_tiles) * bool(form.shared)
    rows = 0
    for chip in range(on.chips):
        group = chip // form.period * form.period
        senders = slice(group, group + form.period)
        for core in range(on.cores):
            for local in range(form.local):
                number = form.expert(chip, core, local)
                taken = counts[senders, number].sum()
                rows += -(-taken // form.tile_rows) * form.tile_rows
    expert = 2 * 3 * padded * np.prod(form.ffn_tiles)
    return on.chips * on.cores * (routers + shared) + rows * expert


@pytest.mark.parametrize("what", [SOFTMAX, DEEPSEEK, QWEN2], ids=["a", "b", "c"])
@pytest.mark.parametrize("chips, cores", [(1, 1), (2, 2), (4, 4), (8, 2)])
def test_flops(what, chips, cores):
    on = mesh(what, chips, cores)
    experts = what.routing.experts
    if experts % cores or (experts // cores) % min(experts // cores, chips):
        pytest.skip("experts that these cores cannot share")
    counts = dealt(np.full(experts, chips * 24 * what.routing.chosen // experts), chips)
    found = on.read(device(cores), counts).tally.by("flops")["trn.nc_matmul"]
    assert found == matmul_flops(on, counts)
