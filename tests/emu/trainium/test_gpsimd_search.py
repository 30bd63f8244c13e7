"""Values and costs of the GpSimd Engine's searches, and of searches that tell places.

Costs are worked out from round numbers: 150 cycles of overhead, and what the datasheet assumes.
"""

import jax.numpy as jnp
import numpy as np
import pytest

from emu.errors import LimitExceeded
from emu.trainium import isa
from tests.emu.trainium.operands import (
    F32,
    GENERATIONS,
    I32,
    U8,
    assert_close,
    blank,
    draw,
    psum,
    sbuf,
    wide,
)

DEVICE = GENERATIONS[3]


def test_each_partition_gathers_its_own():
    x = draw(0, 6, 4, 50)
    places = np.random.default_rng(1).integers(0, 200, (6, 3, 7)).astype(np.uint32)
    found = isa.nc_n_gather(blank(6, 3, 7), jnp.asarray(x), jnp.asarray(places))
    flat = x.reshape(6, 200)
    expected = np.take_along_axis(flat, places.reshape(6, 21).astype(np.int64), 1)
    np.testing.assert_array_equal(found, expected.reshape(6, 3, 7))


def test_a_gather_of_600_is_two_groups():
    index = sbuf(128, 600, dtype=I32)
    cost = isa.nc_n_gather.cost(DEVICE, sbuf(128, 600), sbuf(128, 5000), index)
    assert cost.busy_cycles == 2 * 150 + 2 * 600
    assert cost.moved_bytes is not None
    assert cost.moved_bytes["sbuf_read"] == 2 * 128 * 600 * 4
    with pytest.raises(LimitExceeded, match="must be of the destination's shape"):
        isa.nc_n_gather.cost(DEVICE, sbuf(128, 601), sbuf(128, 5000), index)


def test_places_of_what_is_not_zero():
    """Of partitions 0 and 16; the reference's own example stands in partition 16."""
    src = np.zeros((20, 8), np.int32)
    src[16] = [0, 1, 1, 0, 0, 1, 0, 0]
    src[0] = 7
    src[1] = 7
    old = np.full((20, 9), 99, np.int32)
    found = isa.nonzero_with_count(jnp.asarray(old), jnp.asarray(src), offset=16)
    expected = old.copy()
    expected[0] = [*range(16, 24), 8]
    expected[16] = [17, 18, 21, -1, -1, -1, -1, -1, 3]
    np.testing.assert_array_equal(found, expected)


def test_what_a_search_for_places_takes():
    dst, src = sbuf(128, 101, dtype=I32), sbuf(128, 100)
    cost = isa.nonzero_with_count.cost(DEVICE, dst, src)
    assert cost.busy_cycles == 150 + DEVICE.gpsimd_nonzero_cycles * 100
    # One partition of each of the eight cores.
    assert cost.moved_bytes == {"sbuf_read": 8 * 400, "sbuf_write": 8 * 404}
    with pytest.raises(LimitExceeded, match=r"must be \[128, 101\]"):
        isa.nonzero_with_count.cost(DEVICE, src, src)
    with pytest.raises(LimitExceeded, match="device is Trainium1"):
        isa.nonzero_with_count.cost(GENERATIONS[2], dst, src)
    with pytest.raises(LimitExceeded, match="destination is float32, must be int32"):
        isa.nonzero_with_count(jnp.zeros((2, 9)), jnp.zeros((2, 8)))


def test_partitions_are_summed():
    x = draw(0, 128, 3, 5)
    total = isa.tensor_partition_reduce(blank(1, 3, 5), jnp.asarray(x), op="add")
    size = np.abs(wide(x)).sum(0, keepdims=True)
    assert_close(total, wide(x).sum(0, keepdims=True), operations=128, scale=size)
    largest = isa.tensor_partition_reduce(blank(1, 3, 5), jnp.asarray(x), op="max")
    np.testing.assert_array_equal(largest, x.max(0, keepdims=True))
    bits = np.random.default_rng(0).integers(0, 2**30, (9, 4), np.int32)
    both = isa.tensor_partition_reduce(
        jnp.zeros((1, 4), jnp.int32), jnp.asarray(bits), op="bitwise_or"
    )
    np.testing.assert_array_equal(both, np.bitwise_or.reduce(bits, 0, keepdims=True))
    cost = isa.tensor_partition_reduce.cost(
        DEVICE, sbuf(1, 100), sbuf(128, 100), op="add"
    )
    assert cost.busy_cycles == 150 + DEVICE.gpsimd_partition_cycles * 100
    with pytest.raises(LimitExceeded, match="op is 'multiply', must be one of add"):
        isa.tensor_partition_reduce(blank(1, 4), jnp.zeros((9, 4)), op="multiply")


def test_equal_values_are_found_in_their_places():
    """Both fives go, each with its own place; `nc_find_index8` has the first one twice."""
    x = np.asarray([[7, 5, 5, 3, 2, 1, 0, -1, -2]], F32)
    values = jnp.asarray([[7.0, 5, 5, 3, 2, 1, 0, -1]])
    new, index = isa.nc_match_replace8_index(
        blank(1, 9), jnp.zeros((1, 8), jnp.uint32), jnp.asarray(x), values, value=-9.0
    )
    np.testing.assert_array_equal(new, [[-9.0] * 8 + [-2]])
    np.testing.assert_array_equal(index, [range(8)])
    same = isa.nc_match_replace8(blank(1, 9), jnp.asarray(x), values, value=-9.0)
    np.testing.assert_array_equal(new, same)
    operands = sbuf(128, 500), sbuf(128, 8, dtype=I32), sbuf(128, 500), sbuf(128, 8)
    cost = isa.nc_match_replace8_index.cost(DEVICE, *operands, value=0.0)
    assert cost.busy_cycles == 500 + 20
    assert cost.moved_bytes is not None
    assert cost.moved_bytes["sbuf_write"] == 128 * (500 + 8) * 4


@pytest.mark.parametrize("reverse", [False, True])
def test_a_value_by_predicate(reverse):
    old, mask = (
        draw(0, 4, 9),
        np.random.default_rng(1).integers(0, 2, (4, 9)).astype(U8),
    )
    new = isa.tensor_copy_predicated_value(
        jnp.asarray(old), jnp.asarray(mask), value=-2.5, reverse=reverse
    )
    np.testing.assert_array_equal(
        new, np.where((mask != 0) ^ reverse, F32.type(-2.5), old)
    )
    inst = isa.tensor_copy_predicated_value
    for place in (sbuf, psum):
        cost = inst.cost(DEVICE, sbuf(128, 500), place(128, 500, dtype=U8), value=0.0)
        assert (cost.busy_cycles, cost.latency_cycles) == (520, 700)
    with pytest.raises(
        LimitExceeded, match="predicate is float32, must be an unsigned"
    ):
        inst.cost(DEVICE, sbuf(128, 500), sbuf(128, 500), value=0.0)


def test_ones_and_zeros_halve_a_float32_matmul():
    """Two passes of one instruction in place of four of two; narrower operands stay."""
    device = GENERATIONS[3]
    register = sbuf()
    operands = psum(128, 512), sbuf(128, 128), sbuf(128, 512), register
    full = isa.nc_matmul.cost(device, *operands)
    half = isa.nc_matmul.cost(device, *operands, onezero=True)
    assert full.busy_cycles == 4 * 512 + 2 * 10
    assert half.busy_cycles == 2 * 512 + 10
    assert half.flops == full.flops
    narrow = (
        psum(128, 512),
        sbuf(128, 128, dtype="bfloat16"),
        sbuf(128, 512, dtype="bfloat16"),
    )
    one = isa.nc_matmul.cost(device, *narrow, register)
    assert one == isa.nc_matmul.cost(device, *narrow, register, onezero=True)
