"""Flash attention on one core and around a ring: values, causal work, bytes sent, overlap."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from emu import Program, Quantity
from emu.trainium.datasheet import TRN3
from kernels.trainium.ring_attention import ring_attention
from tests.kernels.trainium import reference as ref
from tests.kernels.trainium.reference import check, draw, matmul_ticks, transpose_ticks


@functools.cache
def ring(s, chips):
    """Cached, so that tests of one shape share what is compiled."""
    kernel = functools.partial(ring_attention, s=s, chips=chips, axis="ring")
    return Program(kernel, {"ring": chips}, (("ring",),) * 3)


def qkv(s, chips, dtype=np.float32):
    """Random q, k, v `[tokens, heads, head_dim]` of the whole ring."""
    tokens = chips * s.tokens
    shapes = [(tokens, n, s.head_dim) for n in (s.heads, s.kv_heads, s.kv_heads)]
    return [draw(i, *shape).astype(dtype) for i, shape in enumerate(shapes)]


def laid_out(s, chips, q, k, v):
    """As `qkv` stores them, chips first."""
    count = s.blocks * s.tiles
    tiles = [x.reshape(chips, count, s.rows, -1, s.head_dim) for x in (q, k)]
    q, k = (x.transpose(0, 1, 3, 4, 2) for x in tiles)
    return q, k, v.reshape(chips, count, s.rows, -1)


def expected_of(s, chips, q, k, v):
    """`[chips, heads, token tiles, head_dim, rows]`."""
    out = ref.attention(q, k, v).reshape(chips, -1, s.rows, s.heads, s.head_dim)
    return out.transpose(0, 3, 1, 4, 2)


def tensor_ticks(s, chip, dtype=np.float32):
    """Scores, transposes and weighted values of live tiles; at the end one transpose an item."""
    span = s.kv_tiles
    turn = transpose_ticks(s.rows, s.rows, dtype)
    tile = matmul_ticks(s.rows, span * s.rows, dtype)
    tile += span * (turn + matmul_ticks(s.rows, s.head_dim, dtype))
    items = s.heads * s.blocks * s.tiles
    return s.heads * ref.live_tiles(s, chip) * tile + items * transpose_ticks(
        s.rows, s.head_dim, dtype
    )


CASES = {
    "one chip": (1, {}),
    "two, one KV head": (2, {"kv_heads": 1}),
    "three, MHA, one row": (3, {"kv_heads": 4, "rows": 1, "tiles": 2}),
    "four, 5 tiles": (4, {"tiles": 5, "rows": 7}),
    "eight, two blocks": (8, {"blocks": 2, "tiles": 1, "rows": 3, "heads": 2, "kv_heads": 1}),
    # 8 tiles of 128: two K/V tiles of 512 columns, so tiles are skipped, masked and whole.
    "one, long": (1, {"tiles": 4, "blocks": 2, "rows": 128, "heads": 1, "kv_heads": 1}),
}


@pytest.mark.parametrize("name", CASES)
def test_ring_attention(name):
    """Causal work to the tile, link bytes to the byte: the last hop is not sent, GQA sent once."""
    chips, changes = CASES[name]
    s = ref.tiling(**changes)
    q, k, v = qkv(s, chips)
    args = laid_out(s, chips, q, k, v)
    clock = check(
        ring(s, chips), args, expected_of(s, chips, q, k, v),
        matmul_flops=ref.attention_flops(s, chips), tensor_ticks=tensor_ticks(s, chips - 1),
    )  # fmt: skip
    mean = sum(tensor_ticks(s, c) for c in range(chips)) / chips
    assert ref.tensor_busy(clock).mean() == mean  # later chips are the busier ones
    kv_bytes = 2 * s.tokens * s.kv_heads * s.head_dim * 4
    assert clock.tally.by("other").get("link_bytes", 0) == (chips - 1) * kv_bytes * chips


def test_bf16_is_close():
    """p and v are rounded to 8 bits: 2**-8 each, of an average of values."""
    s = ref.tiling(dtype=jnp.dtype(jnp.bfloat16))
    q, k, v = qkv(s, 1, jnp.bfloat16)
    check(
        ring(s, 1), laid_out(s, 1, q, k, v), expected_of(s, 1, q, k, v), within=2**-7,
        matmul_flops=ref.attention_flops(s, 1), tensor_ticks=tensor_ticks(s, 0, jnp.bfloat16),
    )  # fmt: skip


def test_large_scores_do_not_overflow():
    s = ref.tiling()
    q, k, v = qkv(s, 1)
    args = laid_out(s, 1, 30 * q, 30 * k, v)
    out = ring(s, 1).run(*args)
    # Scores near 1,000 in float32 carry errors of 1,000 roundings, which exp passes on.
    ref.assert_near(out, expected_of(s, 1, 30 * q, 30 * k, v), 1e-3)


def test_shard_map_agrees_with_vmap():
    """On eight devices; to float32 rounding, as XLA may order a batched sum otherwise."""
    s = ref.tiling(**CASES["eight, two blocks"][1])
    args = laid_out(s, 8, *qkv(s, 8))
    program = ring(s, 8)
    sharded = program.sharded(check_vma=True)(*map(jnp.asarray, args))
    np.testing.assert_allclose(sharded, program.run(*args), rtol=0, atol=2e-6)


# --- overlap ---


def with_link(bytes_per_s):
    rate = Quantity(bytes_per_s, "published", "made up")
    return dataclasses.replace(TRN3, link_bytes_per_s=rate).at()


def long_ring():
    s = ref.tiling(
        blocks=1, tiles=4, rows=128, heads=8, kv_heads=2, head_dim=128,
        dtype=jnp.dtype(jnp.bfloat16),
    )  # fmt: skip
    structs = [jax.ShapeDtypeStruct(x.shape, s.dtype) for x in laid_out(s, 4, *qkv(s, 4))]
    return s, ring(s, 4), structs


def test_sending_hides_behind_long_compute():
    s, program, structs = long_ring()
    assert program.read(ref.DEVICE, *structs).end_ticks == (
        program.read(with_link(1e18), *structs).end_ticks
    )


def test_a_slow_link_is_exposed():
    """Keys and values of three steps cannot arrive faster than the link carries them."""
    s, program, structs = long_ring()
    rate = 1e8
    slow = program.read(with_link(rate), *structs)
    kv_bytes = 2 * s.tokens * s.kv_heads * s.head_dim * 2
    sending = 3 * kv_bytes / rate
    quick = program.read(ref.DEVICE, *structs)
    assert sending < slow.seconds < sending + quick.seconds
    assert slow.seconds > 2 * quick.seconds


def test_the_ring_takes_as_long_as_its_last_chip():
    """The last chip works at every step, so more chips with as many tokens each take longer."""
    s = ref.tiling(tiles=2)
    ticks = []
    for chips in (1, 2, 3, 4):
        structs = [
            jax.ShapeDtypeStruct(x.shape, np.float32) for x in laid_out(s, chips, *qkv(s, chips))
        ]
        ticks.append(ring(s, chips).read(ref.DEVICE, *structs).end_ticks)
    assert ticks == sorted(set(ticks))
