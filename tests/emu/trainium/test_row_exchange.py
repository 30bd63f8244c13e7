"""Rows between ranks by known numbers: what arrives where, and what it costs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from emu import Known, Program
from emu.errors import DataDependentBranch, LimitExceeded
from emu.trainium import (
    TRN2,
    TRN2_48XLARGE,
    TRN3,
    TRN3_GEN1,
    all_to_all_rows,
    chip_all_to_all_rows,
    hbm,
    on_system,
    with_cores,
)
from tests.helpers import adds_up, same_clock

ROOM, WIDTH = 9, 5
# Rows from each of three ranks to each, on both columns of the mesh.
ROWS = np.array(
    [
        [[2, 0, 3], [1, 1, 1]],
        [[0, 4, 1], [0, 0, 0]],
        [[5, 0, 0], [2, 3, 4]],
    ]
)


def kernel(x, rows):
    return chip_all_to_all_rows(hbm(ROOM, WIDTH), x, rows, x, axis="chip")


BOTH = Program(kernel, {"chip": 3, "core": 2}, (("chip", "core"), ("chip", "core")))


def sent(x, rows):
    """`[ranks, rows, width]` of all ranks: what each has afterwards, a list of rows."""
    ends = np.cumsum(rows, 1)
    return [
        np.concatenate(
            [x[i, ends[i, j] - rows[i, j] : ends[i, j]] for i in range(len(x))]
        )
        for j in range(len(x))
    ]


def drawn(*shape):
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def test_rows_stand_behind_each_other_by_sender():
    """Against NumPy, beside an axis over cores; what nobody sent is left as it was, NaN here."""
    x = drawn(3, 2, ROOM, WIDTH)
    actual = np.asarray(BOTH.run(x, Known(ROWS.astype(np.int32))))
    for core in range(2):
        for rank, expected in enumerate(sent(x[:, core], ROWS[:, core])):
            own = actual[rank, core]
            np.testing.assert_array_equal(own[: len(expected)], expected)
            assert np.isnan(own[len(expected) :]).all()


def test_sharded_is_the_same():
    x = drawn(3, 2, ROOM, WIDTH)
    rows = jnp.asarray(ROWS, jnp.int32)
    np.testing.assert_array_equal(
        BOTH.sharded()(jnp.asarray(x), rows), BOTH.run(x, rows)
    )


def test_columns_change_hands_between_cores():
    """Two groups of rows, of which each core has another number."""
    x, rows = drawn(2, 2, 4, 6), np.array([[3, 1], [4, 0]], np.int32)

    def kernel(x, rows):
        return all_to_all_rows(hbm(2, 2, 4, 3), x, rows, axis="core")

    program = Program(kernel, {"core": 2}, (("core",), ("core",)))
    actual = np.asarray(program.run(x, Known(rows)))
    for to in range(2):
        for core in range(2):
            for group in range(2):
                live = rows[core, group]
                own = actual[to, core, group]
                expected = x[core, group, :live, 3 * to : 3 * to + 3]
                np.testing.assert_array_equal(own[:live], expected)
                assert np.isnan(own[live:]).all()


# --- cost ---

ONE_CORE = with_cores(on_system(TRN2, TRN2_48XLARGE), 1).at()
RING = 4


def clock(rows, device=ONE_CORE, width=1024, room=4096, cores=1):
    x = jax.ShapeDtypeStruct((room, width), jnp.bfloat16)

    def kernel(x, rows):
        dst = hbm(room, width, dtype=x.dtype)
        return chip_all_to_all_rows(dst, x, rows, x, axis="chip")

    spec = ("chip",) if rows.ndim == 2 else ("chip", "core")
    mesh = {"chip": len(rows), "core": cores}
    return Program(kernel, mesh, ((), spec)).read(device, x, Known(rows))


def test_one_transfer_takes_its_bytes_and_its_hops():
    """1,000 rows of 2 KiB to the neighbour: 2,048,000 bytes over a link of 128 B/ns, and a hop."""
    rows = np.zeros((RING, RING), np.int32)
    rows[0, 1] = 1000
    read = clock(rows)
    link_bytes_per_s = TRN2_48XLARGE.rates("nominal")[0]
    seconds = 1000 * 2048 / link_bytes_per_s + ONE_CORE.link_hop_s
    assert read.end_ticks == pytest.approx(seconds * ONE_CORE.tick_hz, abs=2)
    counted = read.tally
    assert counted.by("other")["link_bytes"] == 1000 * 2048
    moved = counted.by("bytes")
    assert moved["hbm_read"] == moved["hbm_write"] == 1000 * 2048
    adds_up(read)


def test_own_rows_pass_no_link():
    rows = np.diag([1000] * RING).astype(np.int32)
    read = clock(rows)
    assert read.tally.by("other")["link_bytes"] == 0
    # Both ways through 16 DMA engines; HBM is faster.
    dma_bytes_per_s = ONE_CORE.dma_engines * ONE_CORE.dma_engine_bytes_per_s
    seconds = 1000 * 2048 / dma_bytes_per_s
    assert read.end_ticks == pytest.approx(seconds * ONE_CORE.tick_hz, abs=2)


def test_transfers_that_meet_on_a_link_share_it():
    """From place 0 of a ring of 4 the way to place 2 is up, over place 1, which sends there too."""
    system = on_system(TRN2, TRN2_48XLARGE)
    device = with_cores(system, 1).at()
    rows = np.zeros((RING, RING), np.int32)
    rows[0, 2] = 1000
    alone = clock(rows, device).end_ticks
    rows[1, 2] = 1000
    both = clock(rows, device).end_ticks
    link = 1000 * 2048 / TRN2_48XLARGE.rates("nominal")[0] * device.tick_hz
    assert both - alone == pytest.approx(link, abs=2)


def test_cores_share_their_chip_s_links():
    """Eight cores that send as much each take eight times as long."""
    system = on_system(TRN3, TRN3_GEN1)
    rows = np.zeros((RING, 8, RING), np.int32)
    rows[..., 1] = 1000
    hop = system.at().link_hop_s
    eight = clock(rows, with_cores(system, 8).at(), cores=8)
    one = clock(rows[:, :1], with_cores(system, 1).at())
    ticks = system.at().tick_hz
    assert (eight.end_ticks - hop * ticks) == pytest.approx(
        8 * (one.end_ticks - hop * ticks), rel=1e-6
    )


def test_more_rows_take_longer_and_none_no_time():
    rows = np.full((RING, RING), 100, np.int32)
    ends = [clock(rows * factor).end_ticks for factor in (0, 1, 2, 8)]
    assert ends == sorted(ends) and ends[0] == 0 and ends[-1] > 4 * ends[1]


def test_columns_between_cores_take_what_there_is():
    device = with_cores(TRN3, 2).at()
    x = jax.ShapeDtypeStruct((1, 1024, 512), jnp.bfloat16)

    def kernel(x, rows):
        dst = hbm(2, 1, 1024, 256, dtype=x.dtype)
        return all_to_all_rows(dst, x, rows, axis="core")

    program = Program(kernel, {"core": 2}, ((), ("core",)))
    read = program.read(device, x, Known(np.array([[1000], [1000]], np.int32)))
    nbytes = 1000 * 256 * 2
    assert read.tally.by("other")["collective_bytes"] == 2 * nbytes
    hbm_s = 2 * nbytes * 2 / device.hbm_bytes_per_s
    dma_s = nbytes / (device.dma_engines * device.dma_engine_bytes_per_s)
    seconds = max(hbm_s, dma_s) + device.link_hop_s
    assert read.end_ticks == pytest.approx(seconds * device.tick_hz, abs=2)


def test_jumped_and_stepped_are_equal():
    """Numbers of rows that differ from turn to turn of a loop are decisions of that loop."""
    x = jax.ShapeDtypeStruct((12, 256, 64), jnp.bfloat16)
    rows = np.zeros((RING, 12, RING), np.int32)
    rows[:, 6:] = 64
    rows[0, 3, 2] = 5

    def kernel(x, rows):
        def one(given):
            own, numbers = given
            dst = hbm(256, 64, dtype=x.dtype)
            return chip_all_to_all_rows(dst, own, numbers, own, axis="chip")

        return jax.lax.map(one, (x, rows))

    program = Program(kernel, {"chip": RING}, ((), ("chip",)))
    same_clock(
        program.read(ONE_CORE, x, Known(rows)),
        program.read(ONE_CORE, x, Known(rows), jump=False),
    )


# --- errors ---


def test_what_does_not_fit_is_refused():
    with pytest.raises(LimitExceeded, match="what a rank sends is 0 to 5000 rows"):
        rows = np.zeros((RING, RING), np.int32)
        rows[0, 1] = 5000
        clock(rows)
    with pytest.raises(LimitExceeded, match=r"rows is \[3\], must be \[4\]"):
        clock(np.zeros((RING, 3), np.int32))


def test_numbers_of_rows_must_be_known():
    x = jax.ShapeDtypeStruct((8, 8), jnp.bfloat16)
    rows = jax.ShapeDtypeStruct((RING, RING), jnp.int32)

    def kernel(x, rows):
        dst = hbm(8, 8, dtype=x.dtype)
        return chip_all_to_all_rows(dst, x, rows, x, axis="chip")

    with pytest.raises(DataDependentBranch, match="must be a known integer"):
        Program(kernel, {"chip": RING}, ((), ("chip",))).read(ONE_CORE, x, rows)


# --- bands, and further axes ---


def test_all_bands_in_one_pass():
    """Links, DMA engines and HBM have bands; numbers of rows do not."""
    sheet = with_cores(on_system(TRN3, TRN3_GEN1), 2)
    x = jax.ShapeDtypeStruct((64, 1024), jnp.bfloat16)
    rows = Known(np.full((RING, 2, RING), 16, np.int32))

    def kernel(x, rows):
        dst = hbm(64, 1024, dtype=x.dtype)
        come = chip_all_to_all_rows(dst, x, rows, x, axis="chip")
        own = hbm(2, 1, 64, 512, dtype=x.dtype)
        live = jnp.full(1, 64, jnp.int32)
        return all_to_all_rows(own, come[None], live, axis="core")

    program = Program(kernel, {"chip": RING, "core": 2}, ((), ("chip", "core")))
    together = program.read_bands(sheet, x, rows)
    for band, read in together.items():
        assert read.end_ticks == program.read(sheet.at(band), x, rows).end_ticks
    assert len({read.end_ticks for read in together.values()}) > 1


def test_beside_another_axis_of_chips():
    """Lines of two ranks each, in three rows of chips; every line exchanges its own."""
    x, rows = drawn(3, 2, ROOM, WIDTH), ROWS[:, :, :2] % 4

    def kernel(x, rows):
        return chip_all_to_all_rows(
            hbm(ROOM, WIDTH), x, rows, x, axis="r", chips=("o", "r")
        )

    program = Program(kernel, {"o": 3, "r": 2}, (("o", "r"), ("o", "r")))
    known = Known(rows.astype(np.int32))
    actual = np.asarray(program.run(x, known))
    for line in range(3):
        for rank, expected in enumerate(sent(x[line], rows[line])):
            np.testing.assert_array_equal(actual[line, rank, : len(expected)], expected)
    read = program.read(ONE_CORE, x, known)
    off_diagonal = rows[:, [0, 1], [1, 0]].sum()
    assert read.tally.by("other")["link_bytes"] == off_diagonal * WIDTH * 4
