"""Sends between chips: cyclic shifts with silent ranks, priced by hops and shared links."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from emu import Known, Program, Quantity
from emu.errors import DataDependentBranch, LimitExceeded
from emu.trainium.datasheets import (
    TRN2,
    TRN2_48XLARGE,
    TRN2_ULTRASERVER,
    TRN3,
    TRN3_GEN2,
    on_system,
    with_cores,
)
from emu.trainium.engines.memory import dma_load, dma_store, hbm, sbuf
from emu.trainium.isa import memset
from emu.trainium.links.neuronlink import send, send_next
from tests.emu.trainium.operands import BF16, F32, draw, wide
from tests.helpers import adds_up, same_clock

US = 4800  # ticks of Trainium2 and 3
HOP = 1.5 * US
# Trainium2, nominal: bytes a microsecond of each link of an instance.
RATE = 128e9 / 1e6
TILE = jax.ShapeDtypeStruct((128, 500), jnp.float32)  # 256,000 B: 2 us
X = jax.ShapeDtypeStruct((), jnp.float32)


def shifted(x, old, shift, live, axis="ring", chips=None):
    return send(old, x, shift, live, axis=axis, chips=chips)


def expected_of(x, old, shift, live, at=0):
    """Rank by rank: who sends, and to whom."""
    out = old.copy()
    for i in np.ndindex(x.shape[: live.ndim]):
        to = list(i)
        to[at] = (i[at] + shift) % x.shape[at]
        if live[i]:
            out[tuple(to)] = x[i]
    return out


# --- values ---


@pytest.mark.parametrize("dtype", [F32, BF16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("shift", [0, 1, 3, -2, 7])
def test_values(shift, dtype):
    """Where nobody sends, the destination keeps what it holds, NaN included."""
    x, old = draw(0, 5, 2, 3, dtype=dtype), draw(1, 5, 2, 3, dtype=dtype)
    old[0] = np.nan
    live = np.array([1, 0, 1, 1, 0], np.int32)
    p = Program(
        lambda x, o, n: shifted(x, o, shift, n),
        {"ring": 5},
        (("ring",), ("ring",), ("ring",)),
    )
    actual = p.run(*map(jnp.asarray, (x, old, live)))
    np.testing.assert_array_equal(wide(actual), wide(expected_of(x, old, shift, live)))


def on_two_axes(at, shift):
    """A program over `[4, 2]` chips or cores, and its arguments: alive where a table says so."""
    chips = ("a", "b")

    def kernel(x, old, live, by):
        return shifted(x, old, by, live, chips[at], chips)

    live = np.array([[1, 0], [0, 1], [1, 1], [0, 0]], np.int32)
    args = draw(0, 4, 2, 3), draw(1, 4, 2, 3), live
    specs = (chips,) * 3 + ((),)
    return Program(kernel, {"a": 4, "b": 2}, specs), (*args, np.int32(shift))


@pytest.mark.parametrize("at, shift", [(0, 1), (0, -1), (0, 2), (1, 1)])
def test_two_axes_and_shard_map(at, shift):
    p, args = on_two_axes(at, shift)
    expected = expected_of(args[0], args[1], shift, args[2], at)
    args = tuple(map(jnp.asarray, args))
    np.testing.assert_array_equal(p.run(*args), expected)
    np.testing.assert_array_equal(p.sharded(check_vma=True)(*args), expected)


def test_gradients_go_back_to_the_sender():
    p, args = on_two_axes(0, 1)
    x, old, live, by = map(jnp.asarray, args)
    weight = jnp.asarray(draw(2, 4, 2, 3))
    to_x, to_old = jax.grad(
        lambda x, o: (p.batched(x, o, live, by) * weight).sum(), argnums=(0, 1)
    )(x, old)
    sent, weight = args[2].astype(np.float32)[..., None], np.asarray(weight)
    np.testing.assert_array_equal(to_x, np.roll(weight, -1, 0) * sent)
    np.testing.assert_array_equal(to_old, weight * (1 - np.roll(sent, 1, 0)))


def test_float64_stays():
    with jax.enable_x64(True):
        x = jnp.asarray(draw(0, 4, 3, dtype=np.float64) * (1 + 2.0**-40))
        p = Program(lambda x: shifted(x, x, 1, 1), {"ring": 4}, (("ring",),))
        actual = p.run(x)
        assert actual.dtype == jnp.float64
        np.testing.assert_array_equal(actual, np.roll(x, 1, 0))


# --- time, without a system ---


def read(kernel, mesh, device, *args, **options):
    return Program(kernel, mesh, ((),) * len(args)).read(device, *args, **options)


def one(mesh, device, x=TILE, shift=1, live=lambda: 1, axis=None, chips=None):
    """The clock of one send along the first axis."""
    axis = axis or next(iter(mesh))
    return read(
        lambda x: shifted(x, hbm(*x.shape, dtype=x.dtype), shift, live(), axis, chips),
        mesh,
        device,
        x,
    )


@pytest.mark.parametrize("shift", [1, 5, -3])
def test_every_shift_is_one_hop_without_a_system(shift):
    """1.28 TB/s a direction: 1,280,000 bytes in 1 us; a hop takes 1.5 us."""
    clock = one(
        {"ring": 8}, TRN3.at(), jax.ShapeDtypeStruct((400, 800), jnp.float32), shift
    )
    assert clock.end_ticks == 2.5 * US and clock.most_busy_ticks["neuronlink"] == US
    assert clock.tally.by("other") == {"link_bytes": 8 * 1_280_000}
    assert clock.tally.by("bytes") == {
        "hbm_read": 8 * 1_280_000,
        "hbm_write": 8 * 1_280_000,
    }


def test_send_next_is_a_shift_by_one():
    kernels = [lambda x: send_next(hbm(*x.shape), x, axis="ring")]
    kernels += [lambda x: shifted(x, hbm(*x.shape), 1, 1)]
    clocks = [read(kernel, {"ring": 3}, TRN3.at(), TILE) for kernel in kernels]
    same_clock(*clocks)


# --- time, on a system ---


def ready(clock, output=0):
    return np.broadcast_to(clock.outputs[output].ready, clock.grid).ravel()


T2 = on_system(TRN2, TRN2_48XLARGE).at()


@pytest.mark.parametrize("shift", [1, -1, 17])
def test_a_ring_of_neighbours_shares_nothing(shift):
    clock = one({"ring": 16}, T2, shift=shift)
    assert (ready(clock) == HOP + 2 * US).all()
    assert clock.most_busy_ticks["neuronlink"] == 2 * US


def test_shifts_along_rows_and_columns_share_links():
    """A row of 4: two further is two hops, and each of a link's directions carries one or two.

    Places 0 and 2 go up, 1 and 3 down, over two links each: 4 transfers, 8 of 8 directed links.
    """
    for axis in ("a", "b"):
        clock = one({"a": 4, "b": 4}, T2, shift=2, axis=axis, chips=("a", "b"))
        assert (ready(clock) == 2 * HOP + 2 * US).all()
        clock = one({"a": 4, "b": 4}, T2, shift=3, axis=axis, chips=("a", "b"))
        assert (ready(clock) == HOP + 2 * US).all()


def test_an_axis_of_rows_and_columns_shares_links():
    """16 ranks snake through 4 x 4, so 8 further is two rows down: two hops that nobody shares.

    Two further, from the ends of the rows, turns a corner: 0 to 2 and 3 to (1, 2), say. Both
    rows' middle links carry two.
    """
    assert (ready(one({"ring": 16}, T2, shift=8)) == 2 * HOP + 2 * US).all()
    clock = one({"ring": 16}, T2, shift=2)
    assert (ready(clock) == 2 * HOP + 4 * US).any()


def test_a_slow_dimension_is_slow():
    """Instances of an UltraServer are joined by links of half the rate."""
    device = on_system(TRN2, TRN2_ULTRASERVER).at()
    for axis, us in (("z", 4), ("x", 2), ("y", 2)):
        clock = one({"z": 4, "x": 4, "y": 4}, device, axis=axis, chips=("z", "x", "y"))
        assert (ready(clock) == HOP + us * US).all()


def test_servers_behind_switches():
    """Trainium3, nominal: 128 GB/s within a server of 4, 160 GB/s to others; always one hop."""
    device = on_system(TRN3, TRN3_GEN2).at()
    inside, outside = HOP + 2 * US, HOP + 1.6 * US
    arrived = ready(one({"ring": 144}, device)).reshape(36, 4)
    assert (arrived[:, 1:] == inside).all() and (arrived[:, 0] == outside).all()
    assert (ready(one({"ring": 144}, device, shift=72)) == outside).all()


def test_no_link_to_oneself():
    for clock in (one({"ring": 1}, T2), one({"ring": 4}, T2, shift=4)):
        assert clock.end_ticks == 0 and clock.tally.by("other") == {"link_bytes": 0}


@pytest.mark.parametrize("cores", [1, 2, 8])
def test_running_cores_share_the_links(cores):
    """Whether the mesh names the other cores or not."""
    device = on_system(with_cores(TRN2, cores), TRN2_48XLARGE).at()
    for mesh in (
        {"ring": 16},
        {"ring": 16, "core": cores},
        {"core": cores, "ring": 16},
    ):
        assert (ready(one(mesh, device, axis="ring")) == HOP + 2 * cores * US).all()


def test_only_cores_that_send_share():
    """Three of eight cores of a chip, and all of another."""

    def live():
        return (lax.axis_index("core") < 3) | (lax.axis_index("ring") == 1)

    device = on_system(with_cores(TRN2, 8), TRN2_48XLARGE).at()
    for mesh in ({"ring": 4, "core": 8}, {"core": 8, "ring": 4}):
        clock = one(mesh, device, live=live, axis="ring")
        arrived = np.moveaxis(
            ready(clock).reshape(clock.grid), list(mesh).index("ring"), 0
        )
        assert (arrived[[0, 1, 3], :3] == HOP + 6 * US).all()
        assert (arrived[2] == HOP + 16 * US).all() and (
            arrived[[0, 1, 3], 3:] == 0
        ).all()
        assert clock.tally.by("other") == {"link_bytes": (3 * 3 + 8) * 256_000}
        adds_up(clock)


def test_silent_ranks_free_the_links():
    """With only even places of the snake sending two further, the corners are not shared."""
    every = one({"ring": 16}, T2, shift=2)
    some = one({"ring": 16}, T2, shift=2, live=lambda: lax.axis_index("ring") == 0)
    assert some.end_ticks == 2 * HOP + 2 * US < every.end_ticks
    assert some.tally.by("other") == {"link_bytes": 256_000}


def late(rank):
    """A kernel whose result is late on one rank: loaded and stored there, else only stored."""

    def kernel(x):
        tile = lax.cond(
            lax.axis_index("ring") == rank,
            lambda x, t: dma_load(t, x),
            lambda x, t: memset(t, value=0.0),
            x,
            sbuf(*x.shape),
        )
        return dma_store(tile)

    return kernel


def test_a_silent_sender_delays_nobody():
    """Rank 1 is late; nothing arrives on rank 2, whose destination stays ready as it was."""

    def kernel(x, old):
        mine = late(1)(x)
        return mine, shifted(mine, old, 1, lax.axis_index("ring") != 1)

    clock = read(kernel, {"ring": 4}, T2, TILE, TILE)
    mine, got = (ready(clock, i) for i in range(2))
    assert got[2] == 0
    others = [0, 1, 3]
    np.testing.assert_array_equal(got[others], np.roll(mine, 1)[others] + HOP + 2 * US)
    assert mine[1] > np.delete(mine, 1).max()


def test_a_late_rank_delays_its_receiver():
    kernel = lambda x: shifted(late(1)(x), hbm(*x.shape), 1, 1)  # noqa: E731
    got = ready(read(kernel, {"ring": 4}, T2, TILE))
    assert got[2] > np.delete(got, 2).max() and len(set(np.delete(got, 2))) == 1


def test_loops_of_changing_shifts_are_stepped_and_jumped_alike():
    def kernel(x):
        def step(held, i):
            to = (held[1], held[0])
            return (
                shifted(to[1], to[0], 1 + i // 20, i <= lax.axis_index("ring")),
                to[1],
            ), None

        first = shifted(x, hbm(*x.shape), 1, 1)
        return lax.scan(step, (first, hbm(*x.shape)), jnp.arange(60))[0][0]

    options = {"trace_core": (3,)}
    clocks = [
        read(kernel, {"ring": 16}, T2, TILE, jump=j, **options) for j in (True, False)
    ]
    same_clock(*clocks)
    assert clocks[0].stepped < clocks[1].stepped


# --- laws ---


@pytest.mark.parametrize("shift", [1, 2, 5])
def test_faster_links_are_never_slower(shift):
    rates = (32e9, 64e9, 64.5e9, 256e9)
    ends = []
    for rate in rates:
        q = Quantity(rate, "published", "chosen")
        system = dataclasses.replace(TRN2_48XLARGE, link_bytes_per_s=(q, q))
        ends.append(
            one({"ring": 16}, on_system(TRN2, system).at(), shift=shift).end_ticks
        )
    assert ends == sorted(ends, reverse=True) and len(set(ends)) == len(ends)


def test_bands_are_ordered():
    sheet = on_system(TRN3, TRN3_GEN2)
    low, nominal, high = (
        one({"ring": 8}, sheet.at(band)).end_ticks
        for band in ("low", "nominal", "high")
    )
    assert low < nominal < high
    assert low == 1 * US + 256_000 / 256e9 * 1e6 * US


# --- refused ---


WRONG = {
    r"trn.send: shift is 0 to 3, must be the same on every core": (
        lambda x: shifted(x, hbm(*x.shape), lax.axis_index("ring"), 1)
    ),
    r"trn.send: live is 2 to 2, must be 0 or 1": lambda x: shifted(
        x, hbm(*x.shape), 1, 2
    ),
    r"trn.send: source is \[128, 500\], must be the destination's \[500, 128\]": (
        lambda x: shifted(x, hbm(500, 128), 1, 1)
    ),
}


@pytest.mark.parametrize("message", WRONG)
def test_refused(message):
    with pytest.raises(LimitExceeded, match=message + r".* \(test_neuronlink.py:\d+\)"):
        read(WRONG[message], {"ring": 4}, T2, TILE)


def test_live_must_be_known():
    kernel = lambda x, n: shifted(x, hbm(*x.shape), 1, n)  # noqa: E731
    n = jax.ShapeDtypeStruct((), jnp.int32)
    with pytest.raises(
        DataDependentBranch, match="trn.send: an operand that must be a known"
    ):
        read(kernel, {"ring": 4}, T2, TILE, n)
    assert read(kernel, {"ring": 4}, T2, TILE, Known(1)).end_ticks == HOP + 2 * US


def test_axes_must_be_over_chips():
    with pytest.raises(
        LimitExceeded, match="axis is 'core', must be one over chips: ring"
    ):
        one({"ring": 4, "core": 2}, T2, axis="core", chips=("ring",))


def test_systems_have_so_many_chips():
    message = r"trn2.48xlarge: 17 is 17 chips, at most 16 \(test_neuronlink.py:\d+\)"
    with pytest.raises(LimitExceeded, match=message):
        one({"ring": 17}, T2)
    with pytest.raises(LimitExceeded, match="5 x 4 is 20 chips, at most 16"):
        one({"a": 5, "b": 4}, T2, chips=("a", "b"))


def test_systems_fit_their_chips():
    message = "Trn3 Gen2 UltraServer: its chips have NeuronCore-v4, Trainium2 has v3"
    with pytest.raises(LimitExceeded, match=message):
        on_system(TRN2, TRN3_GEN2)
