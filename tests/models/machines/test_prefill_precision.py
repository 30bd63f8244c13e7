"""Prefill under a plan of precision: values against the oracle in blocks, its clock and bytes."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from emu.trainium.datasheets import TRN3, with_cores
from kernels.formats.coding import as_held
from kernels.formats.formats import of_activations
from models.errors import ModelError
from models.machines.prefill import Prefill
from models.machines.useful_flops import useful_flops
from models.plain import oracle
from models.plain.held import held_weights
from models.plain.kv_cache import empty_cache
from models.plain.projections import rotate
from models.plain.rope import rope_tables
from models.precision import Taken, precision
from tests.models.machines.test_prefill import LLAMA, prompt_of, structs_of, weights_of

# 160 features are 40 partitions, of 64; 200 of the FFN are 7 groups of 32, the last of 8.
CONFIG = dataclasses.replace(
    LLAMA, hidden_size=160, head_dim=32, num_hidden_layers=1, vocab_size=256
)
MXFP8, MXFP4 = "mxfp8", "weights=mxfp4,activations=mxfp8"


def machine(config, tokens, words, *, cores=1, weights=None):
    return Prefill(
        config,
        structs_of(config) if weights is None else weights,
        tokens=tokens,
        chips=1,
        cores=cores,
        dtype=precision(words),
    )


def expected(config, tokens, words=None):
    """The oracle's last logits, all float32 but what a plan's products take."""
    weights, held = weights_of(config), Taken()
    if words is not None:
        plan = precision(words)
        weights, held = held_weights(config, weights, plan), plan.taken
    ids = jnp.asarray([prompt_of(config, tokens)], jnp.int32)
    cache = empty_cache(config, 1, tokens)
    logits, _ = oracle.jitted_extend(config, weights, ids, cache, None, held)
    return np.asarray(logits[0, -1])


def share(found, wanted, of):
    """Root mean square of a difference, over that of what it is a difference of."""
    found, wanted, of = (np.asarray(x, np.float32) for x in (found, wanted, of))
    return np.sqrt(np.square(found - wanted).mean() / np.square(of).mean())


def first_keys(config, tokens, words):
    """Keys of the first layer, rounded to bfloat16 where the machine does, `[tokens, heads, n]`.

    Products have float32 sums of the format's numbers. What bfloat16 rounds off before them, 2**-9,
    makes the next element of one in some thirty, a step of up to 2**-3 away, so that without these
    roundings keys would differ by 2 % already.
    """

    def rounded(x):
        return np.asarray(x).astype(jnp.bfloat16).astype(np.float32)

    weights, plan = weights_of(config), precision(words)
    x = rounded(weights["embed"][np.asarray(prompt_of(config, tokens))])
    factor = 1 / np.sqrt(np.square(x).mean(-1, keepdims=True) + config.rms_norm_eps)
    normed = rounded(x * factor * rounded(weights["layers"]["attn_norm"][0]))
    taken = as_held(normed.T, of_activations(plan.activations)).T
    keys = rounded(taken @ as_held(weights["layers"]["wk"][0], plan.weights))
    by_head = keys.reshape(1, tokens, -1, config.head_dim)
    positions = np.arange(tokens)
    tables = rope_tables(config, positions, tokens, config.rotations[0])
    return rotate(jnp.asarray(by_head), *(jnp.asarray(x) for x in tables))[0]


def agrees(config, tokens, words, cores):
    """Emulated prefill is as far from float32 as its formats make it.

    The first layer's keys are the same but for their own rounding. Behind them an element here and
    there is the next one, see `first_keys`, and every product after it differs by that, up to the
    formats' own error: rounded otherwise, not worse.
    """
    exact, blocks = expected(config, tokens), expected(config, tokens, words)
    p = machine(config, tokens, words, cores=cores, weights=weights_of(config))
    result = p.run(prompt_of(config, tokens))
    keys = first_keys(config, tokens, words)
    assert isinstance(result.k, np.ndarray)
    assert share(result.k[0], keys, keys) < 2**-8
    formats = share(blocks, exact, exact)
    assert formats > 0.02
    assert share(result.logits, exact, exact) < 1.5 * formats
    assert share(result.logits, blocks, exact) < formats
    assert result.token == result.logits.argmax()


def test_agrees_with_the_oracle_in_blocks():
    agrees(CONFIG, 12, MXFP8, 1)


@pytest.mark.slow
@pytest.mark.parametrize("words", [MXFP8, MXFP4])
@pytest.mark.parametrize("tokens, cores", [(37, 1), (150, 3), (600, 2)])
def test_more_of_it_agrees(words, tokens, cores):
    """Cores hold whole groups of 32 FFN columns; of 600 tokens there are two blocks."""
    config = dataclasses.replace(CONFIG, num_hidden_layers=2)
    agrees(config, tokens, words, cores)


def in_float32(name):
    """A format of weights and activations, all else in float32."""
    return f"weights={name},activations={name},cache=float32"


def same_as_the_oracle(config, tokens, words, cores=1, least=0.02):
    """With float32 beside codes a machine's codes are the oracle's, and its sums within rounding.

    A quotient that float32 rounds past the middle between two codes would be another, which none of
    these some thousand numbers does: 2**-24 of 2**-4, the distance of codes, is 2**-20.
    """
    exact, formats = expected(config, tokens), expected(config, tokens, words)
    p = machine(config, tokens, words, cores=cores, weights=weights_of(config))
    result = p.run(prompt_of(config, tokens))
    assert share(formats, exact, exact) > least
    assert share(result.logits, formats, exact) < 1e-5
    assert result.token == result.logits.argmax()


def test_fp8_agrees_with_the_oracle_in_codes():
    same_as_the_oracle(CONFIG, 12, in_float32("fp8"))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fp8", "fp8_tensor", "fp8_block"])
def test_more_of_fp8_agrees(name):
    """600 tokens are two blocks, of three tiles of 100."""
    config = dataclasses.replace(CONFIG, num_hidden_layers=2)
    same_as_the_oracle(config, 600, in_float32(name))


def weights_alone(name):
    """A format of weights, all else in float32."""
    return f"weights={name},activations=float32"


@pytest.mark.parametrize("name", ["int8", "int4"])
def test_integers_agree_with_the_oracle_on_their_numbers(name):
    same_as_the_oracle(CONFIG, 12, weights_alone(name), least=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["int8", "int4", "fp8"])
@pytest.mark.parametrize("tokens, cores", [(150, 3), (600, 1)])
def test_more_of_weights_alone_agrees(name, tokens, cores):
    """Scales are of whole columns, or of groups of rows that a core has whole."""
    config = dataclasses.replace(CONFIG, num_hidden_layers=2)
    same_as_the_oracle(config, tokens, weights_alone(name), cores, least=0.01)


def test_clock_of_integers():
    """Products are of bfloat16, and HBM has a byte or half a byte of each weight, and scales."""
    reads, device = {}, TRN3.at()
    config = dataclasses.replace(CONFIG, hidden_size=256, intermediate_size=512)
    for name in ("bfloat16", "int8", "int4"):
        p = machine(config, 40, name)
        clock = p.read(device).clock
        assert clock.end_ticks == p.read(device, jump=False).clock.end_ticks
        reads[name] = clock.tally.by("bytes")["hbm_read"]
        assert p.tiling.blocks == 1 and p.tiling.rows == 40
    heads = 4 + 2 * 2
    weights = 256 * heads * 32 + 4 * 32 * 256 + 3 * 256 * 512
    # Rows of scales, one for each partition; of the gate's and up's features one each.
    scales = 40 * (heads * 32 + 2 * 256) + 2 * 512
    assert reads["bfloat16"] - reads["int8"] == weights - 4 * scales
    assert (
        reads["bfloat16"] - reads["int4"] == 2 * weights - weights // 2 - weights // 8
    )


def test_groups_that_heads_would_divide_are_refused():
    config = dataclasses.replace(CONFIG, head_dim=16)
    with pytest.raises(ModelError, match="heads of whole groups of 32 features"):
        machine(config, 12, "int4")


@pytest.mark.slow
def test_blocks_of_fp8_are_the_same_on_cores():
    """Two heads of 64 features on each core are a block, as are 128 of the FFN's columns."""
    config = dataclasses.replace(CONFIG, head_dim=64, intermediate_size=256)
    same_as_the_oracle(config, 12, in_float32("fp8_block"), cores=2)


def test_blocks_that_cores_would_divide_are_refused():
    """Of six heads of 64 on two cores the second begins with head 3, the second half of a block."""
    config = dataclasses.replace(CONFIG, head_dim=64, num_attention_heads=8)
    assert machine(config, 12, "fp8_block", cores=2)
    config = dataclasses.replace(config, num_attention_heads=6)
    with pytest.raises(ModelError, match="begin with a block of 128 features"):
        machine(config, 12, "fp8_block", cores=2)


@pytest.mark.slow
@pytest.mark.parametrize("tokens, cores", [(37, 1), (150, 3)])
def test_fp8_on_cores_is_no_further_off(tokens, cores):
    """A token's scale is of a core's own features where cores share what a product contracts.

    So it is at most the one that the whole token would have, and codes are no coarser.
    """
    config = dataclasses.replace(CONFIG, num_hidden_layers=2)
    exact, formats = expected(config, tokens), expected(config, tokens, "fp8")
    p = machine(config, tokens, "fp8", cores=cores, weights=weights_of(config))
    result = p.run(prompt_of(config, tokens))
    assert share(result.logits, exact, exact) < 1.5 * share(formats, exact, exact)


def test_clock_of_fp8():
    """Products are of double rows, attention's and the head's are not; HBM has codes."""
    p = machine(CONFIG, 150, "fp8", cores=2)
    device = with_cores(TRN3, 2).at()
    reading = p.read(device)
    assert reading.clock.end_ticks == p.read(device, jump=False).clock.end_ticks
    s, flops = p.tiling, reading.clock.tally.by("flops")
    # Two of four heads a core, one KV head; 100 of the FFN's columns.
    assert (s.heads, s.kv_heads, s.ffn, s.hidden_padded) == (2, 1, 100, 160)
    linear = 160 * (2 + 2) * 32 + 64 * 160 + 3 * 160 * 100
    assert flops["trn.nc_matmul_double_row"] == 2 * 2 * s.tokens * linear
    packed = p.abstract()[0]["layers"][0]
    columns = (2 + 2) * 32 + 160 + 2 * 100 + 160
    leaves = jax.tree.leaves(
        [packed[name] for name in ("wqkv", "wo", "w_gate_up", "w_down")]
    )
    held = sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)
    assert held == 2 * (linear + 4 * columns)
    # Of each block of tokens: codes once, and of scales a row for each partition.
    wide = machine(CONFIG, 150, "bfloat16", cores=2)
    read, of_wide = (
        each.clock.tally.by("bytes")["hbm_read"]
        for each in (reading, wide.read(device))
    )
    assert (s.blocks, s.tiles, s.rows) == (1, 2, 75)
    in_wide = sum(leaf.nbytes for leaf in weights_of_layer(wide))
    assert of_wide - read == in_wide - 2 * (linear + 4 * s.rows * columns)


def weights_of_layer(p):
    """Those of products, on all cores, with their padding."""
    packed = p.abstract()[0]["layers"][0]
    structs = [packed[name] for name in ("wqkv", "wo", "w_gate", "w_up", "w_down")]
    return [np.empty(x.shape, x.dtype) for x in structs]


@pytest.mark.parametrize("words, bits", [(MXFP8, 8), (MXFP4, 4)])
def test_weights_take_the_formats_bytes(words, bits):
    """1 + 1/32 or 1/2 + 1/32 bytes of an element, where there is no padding."""
    config = dataclasses.replace(
        CONFIG,
        hidden_size=512,
        intermediate_size=2048,
        num_attention_heads=8,
        head_dim=64,
    )
    packed = machine(config, 16, words, cores=2).weights["layers"][0]
    layer = 512 * (8 + 2 * 2) * 64 + 8 * 64 * 512 + 3 * 512 * 2048
    names = "wqkv", "wo", "w_gate", "w_up", "w_down"
    leaves = jax.tree.leaves([packed[name] for name in names])
    found = sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)
    assert found == layer * bits // 8 + layer // 32


def test_clock():
    """Products are in MX, attention and the head are not; jumping equals stepping."""
    p = machine(CONFIG, 150, MXFP8, cores=2)
    device = with_cores(TRN3, 2).at()
    reading = p.read(device)
    assert reading.clock.end_ticks == p.read(device, jump=False).clock.end_ticks
    s, flops = p.tiling, reading.clock.tally.by("flops")
    # Two of four heads a core, one KV head; 128 of the FFN's columns, 96 the other.
    assert (s.heads, s.kv_heads, s.ffn, s.hidden_padded) == (2, 1, 128, 256)
    linear = 256 * (2 + 2) * 32 + 2 * 128 * 256 + 2 * 256 * 128
    assert 2 * 32 % 128, "attention's output is padded to 128"
    assert flops["trn.nc_matmul_mx"] == 2 * 2 * s.tokens * (
        linear - 128 * 256 + 128 * 256
    )
    assert p.useful_flops == useful_flops(CONFIG, 150)
    assert p.abstract()[0]["heads"][0].dtype == jnp.bfloat16


@pytest.mark.parametrize(
    "words, match",
    [
        (
            "weights=fp8_block",
            "weights=mxfp4,activations=mxfp8, weights=fp8,activations=fp8",
        ),
        (
            "weights=mxfp8,activations=bfloat16",
            "weights of int8, int4, fp8, fp8_tensor",
        ),
        ("mxfp4", "'mxfp4' has no kernels"),
        ("cache=mxfp8", "a cache in mxfp8, must be bfloat16 or one of fp8, int8"),
    ],
)
def test_plans_without_kernels_are_refused_with_those_that_have(words, match):
    with pytest.raises(ModelError, match=match):
        machine(CONFIG, 12, words)


def test_heads_that_divide_a_group_stay_on_one_core():
    config = dataclasses.replace(CONFIG, head_dim=16)
    assert machine(config, 12, MXFP8).tiling.attended_tiles == (4, 32)
    with pytest.raises(ModelError, match="whole groups of 32 features"):
        machine(config, 12, MXFP8, cores=2)
