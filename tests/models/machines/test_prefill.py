"""Prefill on a ring of emulated Trainium3 chips against the float32 oracle, and its clock."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from emu.errors import OutOfMemory
from emu.trainium.datasheets import TRN3, with_cores
from models.config import ModelConfig
from models.machines.prefill import Prefill
from models.machines.useful_flops import useful_flops
from models.plain import oracle
from models.plain.kv_cache import empty_cache
from models.plain.weights import random_weights, weight_shapes

DEVICE = TRN3.at()
# 72 and 200 leave the last tiles short; 1030 columns of the head are 3 x 343 and 1 unless evened.
LLAMA = ModelConfig(
    name="tiny",
    model_type="llama",
    hidden_size=72,
    intermediate_size=200,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=16,
    vocab_size=1030,
    max_position_embeddings=1024,
    rope_theta=1e4,
    rope_scaling=None,
    rms_norm_eps=1e-5,
    tie_word_embeddings=True,
    source="made up",
)
QWEN3 = dataclasses.replace(
    LLAMA,
    model_type="qwen3",
    hidden_size=136,
    num_attention_heads=6,
    num_key_value_heads=1,
    head_dim=8,
    tie_word_embeddings=False,
)
CONFIGS = {"llama": LLAMA, "qwen3": QWEN3}


@functools.cache
def weights_of(config):
    """Random weights; norms away from 1, so that leaving one out shows."""
    rng = np.random.default_rng(1)

    def changed(path, w):
        if "norm" not in jax.tree_util.keystr(path):
            return w
        return w * rng.uniform(0.5, 1.5, w.shape).astype(np.float32)

    return jax.tree_util.tree_map_with_path(changed, random_weights(config, 0))


def prompt_of(config, tokens):
    return [
        int(t)
        for t in np.random.default_rng(tokens).integers(0, config.vocab_size, tokens)
    ]


def prefill(config, tokens, chips, dtype=jnp.float32, cores=1):
    return Prefill(
        config, weights_of(config), tokens=tokens, chips=chips, cores=cores, dtype=dtype
    )


def test_biases_of_every_block_of_columns():
    """16 heads of 64 features are two blocks of 512 columns, and each has its own biases."""
    config = dataclasses.replace(
        LLAMA,
        model_type="qwen2",
        hidden_size=64,
        num_hidden_layers=1,
        num_attention_heads=12,
        head_dim=64,
        vocab_size=256,
    )
    rng, weights = np.random.default_rng(3), random_weights(config, 0)
    layers = dict(weights["layers"])
    for name in ("bq", "bk", "bv"):
        shape = layers[name].shape
        layers[name] = rng.standard_normal(shape).astype(np.float32)
    weights = {**weights, "layers": layers}
    prompt = prompt_of(config, 9)
    machine = Prefill(config, weights, tokens=9, chips=1, dtype=jnp.float32)
    assert machine.tiling.qkv_columns == 512
    ids = jnp.asarray([prompt], jnp.int32)
    cache = empty_cache(config, 1, 9)
    expected, _ = oracle.jitted_extend(config, weights, ids, cache)
    near(machine.run(prompt).logits, np.asarray(expected[0, -1]), 1e-5)


def structs_of(config):
    return jax.tree.map(
        lambda shape: jax.ShapeDtypeStruct(shape, jnp.float32),
        weight_shapes(config),
        is_leaf=lambda x: isinstance(x, tuple),
    )


@functools.cache
def expected(config, tokens):
    """The oracle's last logits, and its cache as `[layers, tokens, kv_heads, head_dim]`."""
    ids = jnp.asarray([prompt_of(config, tokens)], jnp.int32)
    cache = empty_cache(config, 1, tokens)
    logits, cache = oracle.jitted_extend(config, weights_of(config), ids, cache)
    keys, values = (np.asarray(x)[:, 0].swapaxes(1, 2) for x in (cache.k, cache.v))
    return np.asarray(logits[0, -1]), keys, values


def near(actual, wanted, within):
    assert actual.shape == wanted.shape
    error = np.abs(np.asarray(actual, np.float32) - wanted).max() / np.abs(wanted).max()
    assert error < within, f"error {error:.2e} of the largest, at most {within:.2e}"


def agrees(config, tokens, chips, within, dtype=jnp.float32, cores=1):
    """Token, logits and cache of the emulated ring are the oracle's."""
    result = prefill(config, tokens, chips, dtype, cores).run(prompt_of(config, tokens))
    logits, keys, values = expected(config, tokens)
    near(result.logits, logits, within)
    near(result.k, keys, within)
    near(result.v, values, within)
    assert result.token == result.logits.argmax()
    return result.token == logits.argmax()


FAST = [("llama", 37, 4), ("qwen3", 300, 1)]
ALL = [(c, n, p) for c in CONFIGS for n in (1, 3, 5, 37, 300) for p in (1, 4, 7)]


@pytest.mark.parametrize(
    "name, tokens, chips",
    [*FAST, *(pytest.param(*c, marks=pytest.mark.slow) for c in ALL if c not in FAST)],
)
def test_agrees_with_the_oracle(name, tokens, chips):
    """5e-5 of the largest logit: two layers of float32 sums in another order give a few 1e-6."""
    assert agrees(CONFIGS[name], tokens, chips, 5e-5)


# 8 cores: 4 and 6 heads leave some idle, 1030 logits overlap; 600 tokens on one chip: 2 blocks.
SHARED = [
    ("llama", 5, 1, 8),
    ("qwen3", 37, 2, 8),
]
ALL_SHARED = [
    (c, n, p, k)
    for c in CONFIGS
    for n in (1, 37, 300, 600)
    for p in (1, 4)
    for k in (2, 3, 8)
]


@pytest.mark.parametrize(
    "name, tokens, chips, cores",
    [
        *SHARED,
        *(
            pytest.param(*c, marks=pytest.mark.slow)
            for c in ALL_SHARED
            if c not in SHARED
        ),
    ],
)
def test_cores_that_share_a_chip_agree_with_the_oracle(name, tokens, chips, cores):
    """The same bound as for one core: partial sums only change the order of addition."""
    assert agrees(CONFIGS[name], tokens, chips, 5e-5, cores=cores)


def test_bf16_is_close():
    """Each of some ten roundings a layer errs by 2**-8 of its value; 5 % of the largest."""
    agrees(LLAMA, 1, 1, 0.05, jnp.bfloat16)


# --- weights ---


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("cores", [1, 3])
def test_structs_pack_as_arrays_do(name, dtype, cores):
    config = CONFIGS[name]
    given = prefill(config, 37, 4, dtype, cores)
    shapes = big(config, 37, 4, dtype, cores)
    # What follows are tables of the mask.
    assert shapes.abstract()[:3] == given.abstract()[:3]
    given.release()
    # What follows are tables of the mask.
    assert shapes.abstract()[:3] == given.abstract()[:3]


@pytest.mark.parametrize("vocabulary", [512, 513, 521, 1030, 32000, 128256])
@pytest.mark.parametrize("cores", [1, 8])
def test_no_head_column_is_padding(vocabulary, cores):
    """A padded column's logit, 0, could win over negative ones; the maximum needs 8 columns."""
    config = dataclasses.replace(LLAMA, vocab_size=vocabulary)
    heads = big(config, 1, 1, jnp.bfloat16, cores).weights["heads"]
    blocks, columns = zip(*((w.shape[-5], w.shape[-1]) for w in heads), strict=True)
    assert np.dot(blocks, columns) == -(-vocabulary // cores)
    assert all(8 <= n <= 512 for n in columns)


# --- clock ---


def test_useful_flops():
    """One token attends to itself alone; a second one to two."""
    c = LLAMA
    weights_a_layer = 72 * (64 + 2 * 32) + 64 * 72 + 3 * 72 * 200
    head = 2 * 72 * 1030
    scores = 2 * 2 * 4 * 16  # one query, one key, 4 heads of 16, and its value
    assert useful_flops(c, 1) == 2 * (2 * weights_a_layer + scores) + head
    assert useful_flops(c, 2) == 2 * (2 * 2 * weights_a_layer + 3 * scores) + head
    assert prefill(c, 37, 4).useful_flops == useful_flops(c, 37)


@pytest.mark.parametrize(
    "name, tokens, chips, cores",
    [
        ("llama", 37, 4, 1),
        ("qwen3", 3, 7, 1),
        ("llama", 37, 2, 2),
        ("qwen3", 600, 1, 8),
    ],
)
def test_clock(name, tokens, chips, cores):
    """Issued work covers the useful, jumping equals stepping, layers are done one after another."""
    p = prefill(CONFIGS[name], tokens, chips, cores=cores)
    device = with_cores(TRN3, cores).at()
    reading = p.read(device)
    stepped = p.read(device, jump=False)
    assert reading.clock.end_ticks == stepped.clock.end_ticks
    assert reading.layer_done_s == stepped.layer_done_s
    assert len(reading.layer_done_s) == 2
    assert 0 < reading.layer_done_s[0] < reading.layer_done_s[1] < reading.clock.seconds
    # Both of a layer are stored when it is done, values behind keys.
    keys, values = reading.clock.outputs[-2:]
    assert keys.steps is not None and values.steps is not None
    for layer, done_s in enumerate(reading.layer_done_s):
        of_keys = np.max(keys.steps[layer])
        of_values = np.max(values.steps[layer])
        assert round(done_s * device.tick_hz) == of_values > of_keys
    issued = reading.clock.tally.by("flops")["trn.nc_matmul"]
    assert issued >= p.useful_flops
    s, config = p.tiling, p.config
    held = p.shares.kv_heads.size  # on all cores, those included that have padding only
    kv_bytes = 2 * s.tokens * held * config.head_dim * 4
    sent = reading.clock.tally.by("other").get("link_bytes", 0)
    # Chips that have tokens; a block goes no further than these.
    holders = -(-tokens // s.tokens)
    assert sent == 2 * kv_bytes * holders * (holders - 1) // 2
    # Two sums a layer and block, in which every core takes part.
    sums = reading.clock.tally.by("count").get("trn.all_reduce", 0)
    assert sums == (2 * 2 * s.blocks * chips * cores if cores > 1 else 0)


@pytest.mark.parametrize(
    "cores, heads, kv_heads", [(1, 4, 2), (2, 2, 1), (4, 1, 1), (8, 1, 1)]
)
def test_matmul_flops_are_the_closed_form(cores, heads, kv_heads):
    """Every token of every chip, padding included; the head for one token on one chip.

    A core has `heads` query heads; on eight cores only half of them hold one that is not padding.
    """
    p = prefill(LLAMA, 37, 4, cores=cores)
    s, c = p.tiling, LLAMA
    assert (s.blocks, s.tiles, s.rows) == (1, 1, 10)
    fused, ffn = 16 * (heads + 2 * kv_heads), 200 // cores
    linear = cores * 2 * s.tokens * (72 * fused + 16 * heads * 72 + 3 * 72 * ffn)
    # One token tile a chip: chip i attends to i + 1 of them.
    attention = sum(
        (i + 1) * cores * heads * 2 * 2 * s.rows * s.rows * 16 for i in range(4)
    )
    logits = cores * -(-c.vocab_size // cores)
    expected = 2 * (4 * linear + attention) + 2 * 72 * logits
    clock = p.read(with_cores(TRN3, cores).at()).clock
    assert clock.tally.by("flops")["trn.nc_matmul"] == expected


def test_one_core_is_a_program_without_collectives():
    p = prefill(LLAMA, 37, 4)
    assert p.program.mesh == {"ring": 4}
    assert not any(
        "all_reduce" in name for name in p.read(DEVICE).clock.tally.by("count")
    )


def test_every_layer_takes_the_same_time():
    deep = dataclasses.replace(LLAMA, num_hidden_layers=40)
    p = Prefill(deep, structs_of(deep), tokens=37, chips=4, dtype=jnp.bfloat16)
    reading = p.read(DEVICE)
    gaps = np.diff(np.round(np.asarray(reading.layer_done_s) * DEVICE.tick_hz))
    assert len(gaps) == 39 and (gaps[5:] == gaps[-1]).all()
    assert reading.clock.stepped < reading.clock.issued / 4


# --- memory ---

LLAMA_8B = dataclasses.replace(
    LLAMA,
    hidden_size=4096,
    intermediate_size=14336,
    num_hidden_layers=32,
    num_attention_heads=32,
    num_key_value_heads=8,
    head_dim=128,
    vocab_size=128256,
    max_position_embeddings=131072,
    tie_word_embeddings=False,
)
LLAMA_70B = dataclasses.replace(
    LLAMA_8B,
    hidden_size=8192,
    intermediate_size=28672,
    num_hidden_layers=80,
    num_attention_heads=64,
)


def big(config, tokens, chips, dtype, cores=1):
    return Prefill(
        config, structs_of(config), tokens=tokens, chips=chips, cores=cores, dtype=dtype
    )


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
@pytest.mark.parametrize(
    "config, tokens", [(LLAMA_8B, 4096), (LLAMA_70B, 1024)], ids=["8B", "70B"]
)
def test_large_layers_fit(config, tokens, dtype):
    """SBUF 256 KiB and PSUM 16 KiB a partition; HBM holds at least the weights."""
    config = dataclasses.replace(config, num_hidden_layers=16)
    peak = big(config, 2 * tokens, 2, dtype).memory(DEVICE)
    itemsize = jnp.dtype(dtype).itemsize
    assert peak["hbm"] > config.parameters * itemsize
    assert 128 * 128 * 1024 < peak["sbuf"] <= 128 * 256 * 1024
    assert peak["psum"] <= 128 * 16 * 1024


def test_what_does_not_fit_is_refused():
    """70B parameters of 4 bytes on every chip of 144 GiB."""
    with pytest.raises(OutOfMemory, match="of hbm, has 154,618,822,656"):
        big(LLAMA_70B, 1024, 1, jnp.float32).memory(DEVICE)


def test_more_cores_are_faster_and_hold_less():
    """Llama 8B divides by eight: the same work, and the same weights but for the embedding."""
    config = dataclasses.replace(LLAMA_8B, num_hidden_layers=2)
    times, flops, peaks = [], [], []
    for cores in (1, 2, 4, 8):
        device = with_cores(TRN3, cores).at()
        p = big(config, 512, 1, jnp.bfloat16, cores)
        clock = p.read(device).clock
        times.append(clock.end_ticks)
        flops.append(clock.tally.by("flops")["trn.nc_matmul"])
        peaks.append(p.memory(device)["hbm"])
    assert times == sorted(times, reverse=True) and len(set(flops)) == 1
    divided = 2 * (config.parameters - config.vocab_size * config.hidden_size)  # bytes
    # The rest: activations.
    assert peaks[0] - peaks[3] == pytest.approx(divided * 7 / 8, rel=0.05)
