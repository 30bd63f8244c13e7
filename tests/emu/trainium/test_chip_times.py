"""Times of collectives between chips, step by step around the ring and link by link."""

import dataclasses
import functools
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from emu import Program, Quantity
from emu.trainium.datasheets import (
    TRN2,
    TRN2_48XLARGE,
    TRN3,
    TRN3_GEN2,
    on_system,
    with_cores,
)
from emu.trainium.engines.memory import dma_load, dma_store, hbm, sbuf
from emu.trainium.isa import tensor_copy
from emu.trainium.links import collectives
from emu.trainium.links.chip_collectives import (
    chip_all_reduce,
    chip_all_to_all,
    chip_broadcast,
)
from emu.trainium.links.routes import embedding
from tests.emu.trainium.ring_gather import ring_gather
from tests.emu.trainium.test_chip_collectives import (
    KERNELS,
    MB,
    SMALL,
    T2,
    gathered,
    on_both,
    read,
)
from tests.emu.trainium.test_routes import by_walking
from tests.helpers import adds_up, same_clock

US = 4800  # ticks
HOP = 1.5 * US
CHUNK = 128_000  # 1 us of a link of Trainium2, nominal: 128 GB/s

# --- times in closed form ---


def ready(clock):
    return np.broadcast_to(clock.outputs[0].ready, clock.grid).ravel()


def test_rings():
    """15 steps of a hop and a chunk; an all-reduce twice that; all ranks end together."""
    step = HOP + US
    for name, nbytes, steps in (
        ("gathered", CHUNK, 15),
        ("scattered", 16 * CHUNK, 15),
        ("reduced", 16 * CHUNK, 30),
    ):
        clock = read(name, {"ring": 16}, nbytes)
        assert (ready(clock) == steps * step).all() and clock.end_ticks == steps * step
        assert clock.tally.by("other") == {"link_bytes": 16 * steps * CHUNK}
        assert clock.most_busy_ticks["collective"] == steps * US
        adds_up(clock)


def test_traffic_of_rings():
    """A step reads and writes a chunk; to add up it reads two."""
    for name, nbytes, reads, writes in (
        ("gathered", CHUNK, 1, 1),
        ("scattered", 16 * CHUNK, 2, 1),
        ("reduced", 16 * CHUNK, 3, 2),
    ):
        moved = read(name, {"ring": 16}, nbytes).tally.by("bytes")
        each = 16 * 15 * CHUNK
        assert moved == {"hbm_read": reads * each, "hbm_write": writes * each}


def test_a_gather_is_the_kernel_of_sends():
    """Two mechanisms, one time: every slice that the kernel receives, and the last of them."""
    for sheet, ranks in (
        (on_system(TRN3, TRN3_GEN2), 144),
        (on_system(TRN2, TRN2_48XLARGE), 16),
    ):
        device = sheet.at()
        kernel = lambda x: ring_gather(x, axis="ring")  # noqa: E731
        x = jax.ShapeDtypeStruct((128_000,), jnp.int8)
        sends = Program(kernel, {"ring": ranks}, ((),)).read(device, x)
        whole = read("gathered", {"ring": ranks}, 128_000, device)
        np.testing.assert_array_equal(sends.outputs[1].ready, whole.outputs[0].ready)
        assert sends.tally.by("other") == whole.tally.by("other")


def test_exchanges_along_a_row():
    """Shifts of a row of 4: one hop, two hops, one hop, none of which shares a link."""
    clock = read("exchanged", {"a": 4, "b": 4}, 4 * CHUNK, axis="b", chips=("a", "b"))
    assert (ready(clock) == 4 * HOP + 3 * US).all()
    assert clock.tally.by("other") == {"link_bytes": 16 * 3 * CHUNK}


def test_exchanges_on_a_torus():
    """16 ranks on 4 x 4: rank by rank, step by step, over links counted one by one."""
    chips, ones = embedding(TRN2_48XLARGE, (16,)), np.ones(16)
    free = np.zeros(16, np.int64)
    for by in range(1, 16):
        hops, seconds = by_walking(TRN2_48XLARGE, chips, np.roll(chips, -by), ones)
        busy = np.ceil(np.round(np.array(seconds) * CHUNK * 4.8e9, 6)).astype(np.int64)
        # A step is over once mine has left and theirs has come.
        arrived = [
            free[i - by] + busy[i - by] + int(hops[i - by] * HOP) for i in range(16)
        ]
        free = np.maximum(free + busy, arrived)
    clock = read("exchanged", {"ring": 16}, 16 * CHUNK)
    assert clock.end_ticks == free.max()
    # Half of the data of 16 ranks crosses the middle one way, over 2 · 4 links of 1 us a chunk.
    assert clock.end_ticks > 8 * 8 * US / 8


def test_small_buffers_go_in_one_step():
    """A row of 4 at once: each link carries two (a neighbour's, and half of the two-hop ones)."""
    mesh, chips = {"a": 4, "b": 4}, ("a", "b")
    clock = read("gathered", mesh, 6_400, axis="b", chips=chips)
    assert (ready(clock) == 2 * HOP + 0.1 * US).all()
    assert clock.tally.by("bytes") == {
        "hbm_read": 16 * 3 * 6_400,
        "hbm_write": 16 * 3 * 6_400,
    }
    clock = read("scattered", mesh, 4 * 6_400, axis="b", chips=chips)
    assert (ready(clock) == 2 * HOP + 0.1 * US).all()
    assert clock.tally.by("bytes") == {
        "hbm_read": 16 * 4 * 6_400,
        "hbm_write": 16 * 6_400,
    }


def test_an_all_reduce_goes_the_faster_way():
    """Tiny: whole buffers at once, (N - 1) N C. Larger: a scatter and a gather, 2 (N - 1) C."""
    mesh, chips = {"a": 4, "b": 4}, ("a", "b")
    tiny = read("reduced", mesh, 640, axis="b", chips=chips)
    # 3 buffers sent and 4 read to add up: the DMA engines take longer than two a link.
    data = 7 * 640 / 368e9 * 1e6
    assert (
        data > 2 * 640 / CHUNK and (ready(tiny) == np.ceil(2 * HOP + data * US)).all()
    )
    assert tiny.tally.by("other") == {"link_bytes": 16 * 3 * 640}
    large = read("reduced", mesh, 960_000, axis="b", chips=chips)
    assert (ready(large) == 2 * (2 * HOP + 2 * 240_000 / CHUNK * US)).all()
    assert large.tally.by("other") == {"link_bytes": 16 * 2 * 3 * 240_000}


def test_broadcast():
    """Small: at once, from one chip. Large: N pieces down a chain, N - 1 hops behind each other."""
    clock = read("spread", {"a": 4, "b": 4}, 6_400, axis="b", chips=("a", "b"))
    # From place 1 to 0 and, over 0, to 3: two share a link. To 2 alone: three through DMA engines.
    arrived = ready(clock).reshape(4, 4)[0]
    alone = np.ceil(HOP + 3 * 6_400 / 368e9 * 1e6 * US)
    assert list(arrived[[0, 2, 3]]) == [HOP + 0.1 * US, alone, 2 * HOP + 0.1 * US]
    assert clock.tally.by("other") == {"link_bytes": 4 * 3 * 6_400}
    clock = read("spread", {"ring": 16}, 16 * CHUNK)
    assert clock.end_ticks == 15 * (HOP + US) + 15 * US
    place = (np.arange(16) - 1) % 16
    far = place[place > 0]
    np.testing.assert_array_equal(ready(clock)[place > 0], far * (HOP + US) + 15 * US)
    assert clock.tally.by("other") == {"link_bytes": 15 * 16 * CHUNK}
    adds_up(clock)


def test_servers_behind_switches():
    """The slower of two rates paces every step of the ring once it has gone around."""
    device = on_system(TRN3, TRN3_GEN2).at()
    clock = read("gathered", {"ring": 144}, 160_000, device)
    # 128 GB/s in a server, 160 GB/s to others.
    inside, outside = (
        HOP + 1.25 * US,
        HOP + 1 * US,
    )
    assert 143 * outside < clock.end_ticks <= 143 * inside


@pytest.mark.parametrize("name", KERNELS)
def test_one_rank_has_nothing_to_exchange(name):
    for nbytes in (64, 2 * MB):
        clock = read(name, {"ring": 1}, nbytes)
        assert clock.end_ticks == 0 and clock.tally.by("other") == {"link_bytes": 0}


def test_without_a_system_every_step_is_one_hop():
    clock = read("gathered", {"ring": 6}, 1_280_000, TRN3.at())
    data = 1_280_000 / (16 * 33e9) * 1e6  # DMA engines are slower than 1.28 TB/s
    assert clock.end_ticks == 5 * np.ceil((1.5 + data) * US)


# --- what is shared ---


@pytest.mark.parametrize("cores", [2, 8])
def test_running_cores_share_the_links(cores):
    device = on_system(with_cores(TRN2, cores), TRN2_48XLARGE).at()
    for mesh in ({"ring": 16}, {"ring": 16, "core": cores}):
        clock = read("gathered", mesh, CHUNK, device, axis="ring")
        assert (ready(clock) == 15 * (HOP + cores * US)).all()


def test_data_is_taken_from_queues_and_links():
    """A send beside a gather of 15 chunks has the link after them; neither waits otherwise."""
    clock = read("gathered", {"ring": 16}, CHUNK)

    def kernel(x):
        whole = gathered(x, 16, "ring")
        return whole, ring_gather(x, axis="ring")

    x = jax.ShapeDtypeStruct((CHUNK,), jnp.int8)
    both = Program(kernel, {"ring": 16}, ((),)).read(T2, x)
    first = np.ravel(both.outputs[1].ready)
    assert (
        first == 15 * US + HOP + US
    ).all()  # after the links' share of the collective
    assert (np.ravel(both.outputs[0].ready) == ready(clock)).all()


# --- who waits for whom ---


def delayed(x, here):
    """Through SBUF, and copied there once more on the cores `here`."""
    tile = lax.cond(
        here,
        lambda x, t, first: tensor_copy(t, dma_load(first, x)),
        lambda x, t, first: dma_load(t, x),
        x,
        sbuf(*x.shape, dtype=x.dtype),
        sbuf(*x.shape, dtype=x.dtype),
    )
    return dma_store(tile)


def late(name, rank, mesh, nbytes, device=T2):
    """A collective of loaded tiles, which one rank copies once more: its clock, its times."""

    def kernel(x):
        mine = delayed(x, lax.axis_index("ring") == rank)
        return KERNELS[name](mine, mesh["ring"], "ring"), mine

    x = jax.ShapeDtypeStruct((128, nbytes // 128), jnp.int8)
    clock = Program(kernel, mesh, ((),)).read(device, x)
    return clock, *(np.ravel(out.ready) for out in clock.outputs)


@pytest.mark.parametrize(
    "name, nbytes", [("gathered", CHUNK), ("scattered", 16 * CHUNK)]
)
def test_a_late_rank_delays_a_ring(name, nbytes):
    """Asked back from the end: a step waits for the own last one and for the neighbour's."""
    clock, got, mine = late(name, 5, {"ring": 16}, nbytes)

    @functools.cache
    def begin(rank, step):
        if step == 0:
            return int(mine[rank])
        return max(
            begin(rank, step - 1) + US,
            begin(rank - 1 if rank else 15, step - 1) + step_of,
        )

    step_of = int(HOP + US)
    assert mine[5] > np.delete(mine, 5).max()
    np.testing.assert_array_equal(
        got, [begin((r - 1) % 16, 14) + step_of for r in range(16)]
    )
    adds_up(clock)


def test_a_late_rank_delays_who_is_behind_it_in_a_broadcast():
    """The chain goes 1, 2, ..., 15, 0: rank 3 is late, which ranks 2 and 3 do not wait for."""
    _, got, mine = late("spread", 3, {"ring": 16}, 16 * CHUNK)
    hop = HOP + US
    on_time = mine[1] + 15 * US + np.arange(16) * hop
    # The root sends 16 pieces.
    np.testing.assert_array_equal(got[1:4] - [US, 0, 0], on_time[:3])
    assert mine[3] > mine[1] + 2 * hop  # by then all that came waits to be passed on
    np.testing.assert_array_equal(got[4:], mine[3] + 15 * US + np.arange(1, 13) * hop)
    assert got[0] == got[15] + hop


def test_a_late_rank_delays_all_of_a_single_step():
    """A row of 4: from everybody, one or two hops away."""
    _, got, mine = late("gathered", 2, {"ring": 4}, 12_800)
    hops = {1: 1, 2: 2, 3: 1}
    takes = {by: hops[by] * HOP + 0.2 * US for by in hops}
    assert mine[2] > np.delete(mine, 2).max()
    for rank in range(4):
        assert got[rank] == max(mine[(rank - by) % 4] + takes[by] for by in hops)


def test_groups_do_not_wait_for_each_other():
    def kernel(x):
        return gathered(delayed(x, lax.axis_index("a") == 1), 4, "b", ("a", "b"))

    x = jax.ShapeDtypeStruct((128, 4_000), jnp.int8)
    clock = Program(kernel, {"a": 4, "b": 4}, ((),)).read(T2, x)
    rows = ready(clock).reshape(4, 4)
    assert (rows == rows[:, :1]).all() and len(set(rows[[0, 2, 3], 0])) == 1
    assert rows[1, 0] > rows[0, 0]


@pytest.mark.parametrize("name", ["reduced", "exchanged", "spread"])
def test_loops_are_stepped_and_jumped_alike(name):
    def kernel(x, y):
        def step(c, _):
            return (INTO[name](c[1], c[0]), c[0]), None

        return lax.scan(step, (x, y), None, length=20)[0][0]

    x = jax.ShapeDtypeStruct((16 * CHUNK,), jnp.int8)
    p = Program(kernel, {"ring": 16}, ((), ()))
    same_clock(*(p.read(T2, x, x, jump=jump) for jump in (True, False)))


INTO = {
    "reduced": lambda dst, x: chip_all_reduce(dst, x, axis="ring"),
    "exchanged": lambda dst, x: chip_all_to_all(dst, x, axis="ring"),
    "spread": lambda dst, x: chip_broadcast(dst, x, 3, axis="ring"),
}


# --- chips and their cores ---


def test_time_over_chips_and_cores():
    """One after the other: what each part takes alone."""
    device = on_system(with_cores(TRN2, 2), TRN2_48XLARGE).at()
    x = jax.ShapeDtypeStruct((4, 2, 2 * MB), jnp.int8)
    whole = on_both("gather").read(device, x).end_ticks

    def cores(x):
        return collectives.all_gather(hbm(4, 2, 2 * MB, dtype=x.dtype), x, axis="core")

    part = jax.ShapeDtypeStruct((4, 1, 2 * MB), jnp.int8)
    within = Program(cores, SMALL, ((),)).read(device, part).end_ticks
    between = read("gathered", SMALL, 2 * MB, device, axis="chip").end_ticks
    assert whole == between + within


# --- laws ---


@pytest.mark.parametrize("name", KERNELS)
def test_faster_links_are_never_slower(name):
    for nbytes in (1_600, 1_600_000):
        ends = []
        for rate in (32e9, 64e9, 65e9, 1e12, 1e14):
            q = Quantity(rate, "published", "chosen")
            system = dataclasses.replace(TRN2_48XLARGE, link_bytes_per_s=(q, q))
            ends.append(
                read(name, {"r": 16}, nbytes, on_system(TRN2, system).at()).end_ticks
            )
        assert ends == sorted(ends, reverse=True)
        assert ends[0] > ends[1]


def test_no_faster_than_memory():
    """Links without limit: a scatter's step still reads two chunks through 16 DMA engines."""
    q = Quantity(1e18, "published", "chosen")
    system = dataclasses.replace(TRN2_48XLARGE, link_bytes_per_s=(q, q))
    clock = read("scattered", {"ring": 16}, 16 * CHUNK, on_system(TRN2, system).at())
    assert clock.end_ticks == 15 * np.ceil((1.5 + 2 * CHUNK / 368e9 * 1e6) * US)


def test_256_ranks_are_cheap():
    """On a torus of 16 x 16, small and large; the first reading finds all ways."""
    system = dataclasses.replace(TRN2_48XLARGE, name="16 x 16", dims=(16, 16))
    device = on_system(TRN2, system).at()
    begun = time.process_time()
    for name in KERNELS:
        for nbytes in (256 * 64, 256 * 64_000):
            assert read(name, {"ring": 256}, nbytes, device).end_ticks > 0
    assert time.process_time() - begun < 4
