"""Collectives of a chip's cores: sums in the cores' order, times by the published algorithms."""

import math
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from emu import Operand, Program
from emu.errors import LimitExceeded
from emu.trainium.datasheets import TRN2, TRN3, with_cores
from emu.trainium.datasheets.sheet import DMA_QUEUES
from emu.trainium.engines.memory import dma_load, dma_store, hbm, sbuf
from emu.trainium.isa import memset
from emu.trainium.links import collectives
from emu.trainium.links.collectives import all_gather, all_reduce, reduce_scatter
from tests.emu.trainium.operands import BF16, F32, draw

CORES = pytest.mark.parametrize("cores", [1, 2, 5, 8])
DTYPES = pytest.mark.parametrize("dtype", [F32, BF16], ids=["fp32", "bf16"])


def reduced(x):
    return all_reduce(hbm(*x.shape, dtype=x.dtype), x, axis="core")


def gathered(x, cores, dim=0):
    shape = [n * (cores if i == dim else 1) for i, n in enumerate(x.shape)]
    return all_gather(hbm(*shape, dtype=x.dtype), x, axis="core")


def scattered(x, cores, dim=0):
    shape = [n // (cores if i == dim else 1) for i, n in enumerate(x.shape)]
    return reduce_scatter(hbm(*shape, dtype=x.dtype), x, axis="core")


def program(kernel, cores, outer=1):
    return Program(kernel, {"chip": outer, "core": cores}, (("chip", "core"),))


def in_order(x):
    """Float32 sums over dimension 1, first core first, rounded to x's dtype."""
    total = x[:, 0].astype(np.float32)
    for i in range(1, x.shape[1]):
        total = total + x[:, i].astype(np.float32)
    return total.astype(x.dtype)


# --- values: two chips of `cores` cores ---


@DTYPES
@CORES
def test_all_reduce(cores, dtype):
    x = draw(0, 2, cores, 3, 7, dtype=dtype)
    actual = program(reduced, cores, 2).run(jnp.asarray(x))
    np.testing.assert_array_equal(
        actual, np.broadcast_to(in_order(x)[:, None], x.shape)
    )


def test_the_order_of_the_cores_shows():
    """1 is lost beside 2**24, unless the large terms cancel first."""
    big = 2.0**24
    for terms, expected in (([big, 1, -big], 0), ([big, -big, 1], 1)):
        x = np.array(terms, np.float32).reshape(1, 3, 1)
        assert (np.asarray(program(reduced, 3).run(jnp.asarray(x))) == expected).all()


@DTYPES
@CORES
@pytest.mark.parametrize("dim", [0, 1])
def test_all_gather(cores, dim, dtype):
    x = draw(0, 2, cores, 3, 7, dtype=dtype)
    actual = program(lambda x: gathered(x, cores, dim), cores, 2).run(jnp.asarray(x))
    whole = np.concatenate([x[:, i] for i in range(cores)], axis=1 + dim)
    np.testing.assert_array_equal(actual, np.stack([whole] * cores, 1))


@DTYPES
@CORES
@pytest.mark.parametrize("dim", [0, 1])
def test_reduce_scatter(cores, dim, dtype):
    shape = [3 * cores, 7] if dim == 0 else [3, 7 * cores]
    x = draw(0, 2, cores, *shape, dtype=dtype)
    actual = program(lambda x: scattered(x, cores, dim), cores, 2).run(jnp.asarray(x))
    np.testing.assert_array_equal(
        actual, np.stack(np.split(in_order(x), cores, 1 + dim), 1)
    )


def test_the_same_under_shard_map():
    x = jnp.asarray(draw(0, 2, 4, 8, 3))
    for kernel in (reduced, lambda x: gathered(x, 4), lambda x: scattered(x, 4)):
        p = program(kernel, 4, 2)
        np.testing.assert_array_equal(p.sharded()(x), p.run(x))


def test_cores_need_not_be_the_innermost_axis():
    x = draw(0, 4, 2, 8, 3)
    for kernel in (reduced, lambda x: gathered(x, 4), lambda x: scattered(x, 4)):
        outer = Program(kernel, {"core": 4, "half": 2}, (("core", "half"),)).run(
            jnp.asarray(x)
        )
        inner = program(kernel, 4, 2).run(jnp.asarray(x.swapaxes(0, 1)))
        np.testing.assert_array_equal(np.asarray(outer).swapaxes(0, 1), inner)


# --- time ---

MB = 1_000_000


def seconds(device, steps, reads, writes):
    """Steps of one hop, and bytes: a core's through its 16 DMA engines, all cores' through HBM."""
    rate = 16 * Fraction(device.dma_engine_bytes_per_s)
    memory = (reads + writes) * device.cores_running / Fraction(device.hbm_bytes_per_s)
    return steps * Fraction(str(device.link_hop_s)) + max(
        max(reads, writes) / rate, memory
    )


def single_step(n, c):
    """All buffers of n chunks to n - 1 peers; then n buffers read and one written."""
    return 1, (n - 1) * n * c + n * n * c, (n - 1) * n * c + n * c


def two_passes(scatter, gather):
    return tuple(a + b for a, b in zip(scatter, gather, strict=True))


def mesh(n, c):
    """Scatter: read one chunk of everybody, write their sum. Gather: write mine to all others."""
    return (1, n * c, c), (1, (n - 1) * c, (n - 1) * c)


def rdh(n, c):
    """log2 n steps of halving, each sum of two reads, then log2 n of doubling: n - 1 chunks."""
    steps = math.ceil(math.log2(n))
    return (steps, 2 * (n - 1) * c, (n - 1) * c), (steps, (n - 1) * c, (n - 1) * c)


def kangaring(n, c):
    """Around n / 2 pairs: 3 reads and 1 write a pair to add up, 1 read and 2 writes to hand on."""
    pair = Fraction(n - 1, 2) * c
    return (n // 2, 3 * pair, pair), (n // 2, pair, 2 * pair)


ALGORITHMS = [
    (mesh, 64),
    (mesh, MB - 1),
    (rdh, MB),
    (rdh, 56 * MB),
    (kangaring, 56 * MB + 1),
]
TIMES = pytest.mark.parametrize("algorithm, nbytes", ALGORITHMS)
SHEETS = pytest.mark.parametrize("sheet", [TRN2, TRN3], ids=lambda s: s.name)


def on_clock(kernel, sheet, cores, length):
    """A collective of int8 (one element a byte) on all cores: its reading and its device."""
    device = with_cores(sheet, cores).at()
    x = jax.ShapeDtypeStruct((1, cores, length), jnp.int8)
    return program(kernel, cores).read(device, x), device


def assert_ticks(clock, device, expected_s):
    assert clock.end_ticks == math.ceil(expected_s * device.tick_hz)


@SHEETS
@TIMES
@pytest.mark.parametrize("cores", [2, 8])
def test_time_of_all_reduce(algorithm, nbytes, cores, sheet):
    clock, device = on_clock(reduced, sheet, cores, nbytes)
    chunk = Fraction(nbytes, cores)
    ways = [two_passes(*algorithm(cores, chunk))]
    if algorithm is mesh:
        ways.append(single_step(cores, chunk))
    assert_ticks(clock, device, min(seconds(device, *way) for way in ways))


@SHEETS
@TIMES
@pytest.mark.parametrize("cores", [2, 8])
def test_time_of_scatter_and_gather(algorithm, nbytes, cores, sheet):
    """Sizes count the longer of the two buffers, rounded up here to whole chunks."""
    length = -(-nbytes // cores)
    if length * cores >= MB and algorithm is mesh:
        length -= 1
    if length * cores > 56 * MB and algorithm is rdh:
        length -= 1
    add, hand_on = algorithm(cores, Fraction(length))
    clock, device = on_clock(
        lambda x: scattered(x, cores), sheet, cores, length * cores
    )
    assert_ticks(clock, device, seconds(device, *add))
    clock, device = on_clock(lambda x: gathered(x, cores), sheet, cores, length)
    assert_ticks(clock, device, seconds(device, *hand_on))


def test_small_buffers_go_in_one_step_and_larger_ones_in_two():
    """By time: one step saves a hop and moves whole buffers instead of chunks."""
    d = with_cores(TRN2, 8).at()
    small, large = (
        on_clock(reduced, TRN2, 8, n)[0].end_ticks / d.tick_hz for n in (64, MB - 1)
    )
    assert d.link_hop_s < small < 1.1 * d.link_hop_s
    assert large > 2 * d.link_hop_s


def test_one_core_has_nothing_to_exchange():
    for kernel in (reduced, lambda x: gathered(x, 1), lambda x: scattered(x, 1)):
        for length in (64, 2 * MB, 60 * MB):
            clock, _ = on_clock(kernel, TRN2, 1, length)
            assert (
                clock.end_ticks == 0
                and clock.tally.by("other")["collective_bytes"] == 0
            )


def test_traffic():
    """Ring-equivalent traffic of the published table: 2 (n - 1) chunks a core."""
    clock, _ = on_clock(reduced, TRN2, 8, 8 * MB)
    assert clock.tally.by("other") == {"collective_bytes": 8 * 2 * 7 * MB}
    assert clock.tally.by("bytes") == {
        "hbm_read": 8 * 3 * 7 * MB,
        "hbm_write": 8 * 2 * 7 * MB,
    }


def test_data_is_taken_from_every_dma_queue():
    """They share the DMA engines; the hops between leave them free."""
    device, buffer = (
        with_cores(TRN2, 8).at(),
        Operand((8 * MB,), np.dtype(np.int8), "hbm"),
    )
    cost = collectives._all_reduce.cost(device, buffer, buffer, axis="core", cores=8)
    data_s = seconds(device, *two_passes(*rdh(8, Fraction(MB)))) - 6 * Fraction(
        "1.5e-6"
    )
    assert cost.taken == dict.fromkeys(DMA_QUEUES, math.ceil(data_s * device.tick_hz))


def test_the_last_core_decides():
    """Core 2 loads first; nobody has the sum before it has come."""

    def kernel(x):
        tile = lax.cond(
            lax.axis_index("core") == 2,
            lambda x, t: dma_load(t, x),
            lambda x, t: memset(t, value=0.0),
            x,
            sbuf(*x.shape),
        )
        mine = dma_store(tile)
        return reduced(mine), mine

    device = with_cores(TRN2, 4).at()
    clock = program(kernel, 4).read(
        device, jax.ShapeDtypeStruct((1, 4, 128, 64), jnp.float32)
    )
    ready, mine = (np.ravel(out.ready) for out in clock.outputs)
    alone = on_clock(reduced, TRN2, 4, 128 * 64 * 4)[0].end_ticks
    assert mine[2] > np.delete(mine, 2).max()
    assert (ready == mine[2] + alone).all()


# --- refused ---


def read_on(sheet, kernel, cores, length=8):
    x = jax.ShapeDtypeStruct((1, cores, length), jnp.float32)
    return program(kernel, cores).read(sheet.at(), x)


def test_as_many_cores_as_run():
    message = (
        r"trn.all_reduce: 4 cores take part, 1 of Trainium2 run: read on `with_cores\(sheet, 4\)` "
        r"\(test_collectives.py:\d+\)"
    )
    with pytest.raises(LimitExceeded, match=message):
        read_on(TRN2, reduced, 4)
    assert read_on(with_cores(TRN2, 8), reduced, 4).end_ticks > 0


def test_as_many_cores_as_a_chip_has():
    with pytest.raises(LimitExceeded, match="number of cores is 9, at most 8"):
        read_on(with_cores(TRN2, 8), reduced, 9)


def test_shapes_must_fit():
    wrong = {
        r"trn.all_gather: destination is \[24\], must be the source's \[8\] with one dimension 2": (
            lambda x: all_gather(hbm(24), x, axis="core")
        ),
        r"trn.reduce_scatter: source is \[8\], must be the destination's \[8\] with one dimens": (
            lambda x: reduce_scatter(hbm(8), x, axis="core")
        ),
    }
    for message, kernel in wrong.items():
        with pytest.raises(LimitExceeded, match=message):
            read_on(with_cores(TRN2, 2), kernel, 2)
