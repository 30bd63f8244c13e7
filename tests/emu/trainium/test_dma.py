"""The DMA law: descriptors on 16 shared engines, the fixed path around them, and the chip's HBM.

Expected times are exact fractions of a second worked out here from the datasheet, rounded up to
ticks as the clock rounds them.
"""

import dataclasses
import math
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from emu import BANDS, Program
from emu.boxes import Box, boxed
from emu.errors import LimitExceeded
from emu.trainium.datasheets import TRN1, TRN2, TRN3, with_cores
from emu.trainium.datasheets.sheet import DMA_QUEUES
from emu.trainium.engines import dma_compute, memory
from emu.trainium.engines.dma import Descriptors, dma_cost
from emu.trainium.engines.dma_compute import dma_accumulate, dma_copy, dma_transpose
from emu.trainium.engines.memory import (
    dma_gather,
    dma_load,
    dma_load_tiles,
    dma_store,
    hbm,
    sbuf,
)
from tests.emu.trainium import operands as op
from tests.emu.trainium.operands import BF16, I32, REGISTER, assert_close, draw, wide

ENGINES, PARTITIONS_EACH = 16, 8
SHEETS = pytest.mark.parametrize("sheet", [TRN1, TRN2, TRN3], ids=lambda s: s.name)


def exact(x):
    """The decimal fraction that a datasheet writes."""
    return Fraction(str(x))


def ticks(device, seconds):
    return math.ceil(seconds * device.tick_hz)


def law(device, partitions, descriptors, nbytes, *, hbm_bytes, share="1"):
    """Busy and latency in ticks, in exact fractions."""
    fixed = exact(device.dma_descriptor_s)
    each = fixed + nbytes / (exact(share) * exact(device.dma_engine_bytes_per_s))
    hbm_s = hbm_bytes * device.cores_running / exact(device.hbm_bytes_per_s)
    used = min(ENGINES, math.ceil(partitions / PARTITIONS_EACH))
    copy = exact(device.dma_copy_s) * used / ENGINES
    busy = max(descriptors * each / ENGINES + fixed + copy, hbm_s)
    data = max(math.ceil(descriptors / used) * each + fixed, hbm_s)
    around = exact(device.dma_trigger_s) + exact(device.dma_wakeup_s)
    return ticks(device, busy), ticks(device, data + around)


# --- what each instruction asks of the engines ---

P = 100


def into(inst, view, sizes, shape=()):
    """The instruction into part of its destination."""
    return boxed(inst, (Box(view, sizes, shape=shape),), (None,))


# instruction, operands: partitions, descriptors, bytes of each, bytes in HBM
FORMS = {
    "load": (dma_load, [op.sbuf(P, 96), op.hbm(P, 96)], P, P, 384, P * 384),
    "load of three dimensions": (
        dma_load,
        [op.sbuf(P, 3, 96), op.hbm(P, 3, 96)],
        P,
        P,
        3 * 384,
        3 * P * 384,
    ),
    "load of few partitions": (
        dma_load,
        [op.sbuf(4, 2048), op.hbm(4, 2048)],
        4,
        4,
        8192,
        32768,
    ),
    "load_tiles": (
        dma_load_tiles,
        [op.sbuf(P, 3, 96), op.hbm(3, P, 96)],
        P,
        3 * P,
        384,
        3 * P * 384,
    ),
    "load into a place": (
        into(dma_load, (P, 3, 96), (P, 1, 50), (P, 50)),
        [op.sbuf(P, 3, 96), op.hbm(P, 50), REGISTER, REGISTER],
        P,
        P,
        200,
        P * 200,
    ),
    "load into whole rows": (
        into(dma_load, (P, 3, 96), (P, 2, 96)),
        [op.sbuf(P, 3, 96), op.hbm(P, 2, 96), REGISTER],
        P,
        P,
        2 * 384,
        2 * P * 384,
    ),
    # Each of the two rows ends short of the tile's: two pieces a partition.
    "load into parts of rows": (
        into(dma_load, (P, 3, 96), (P, 2, 50)),
        [op.sbuf(P, 3, 96), op.hbm(P, 2, 50), REGISTER, REGISTER],
        P,
        2 * P,
        200,
        2 * P * 200,
    ),
    "gather": (
        dma_gather,
        [op.sbuf(P, 96), op.hbm(9999, 96), op.hbm(P, dtype=I32)],
        P,
        P,
        384,
        P * 384 + P * 4,
    ),
    "store": (dma_store, [op.sbuf(P, 96)], P, P, 384, P * 384),
    "store into a slice": (
        into(dma_store, (9, P, 96), (1, P, 96), (P, 96)),
        [op.hbm(9, P, 96), op.sbuf(P, 96), REGISTER],
        P,
        P,
        384,
        P * 384,
    ),
    "copy in SBUF": (dma_copy, [op.sbuf(P, 96), op.sbuf(P, 96)], P, P, 384, 0),
    "copy from HBM": (dma_copy, [op.sbuf(P, 96), op.hbm(P, 96)], P, P, 384, P * 384),
    "copy to HBM": (dma_copy, [op.hbm(P, 96), op.sbuf(P, 96)], P, P, 384, P * 384),
    # The wider of the two dtypes is what a descriptor moves.
    "copy that casts": (
        dma_copy,
        [op.sbuf(P, 96), op.hbm(P, 96, dtype=BF16)],
        P,
        P,
        384,
        P * 192,
    ),
    # Contiguous in HBM, but pieces have at most 64 KiB: two equal ones, on two engines.
    "copy in HBM": (
        dma_copy,
        [op.hbm(P, 256), op.hbm(P, 256)],
        2 * PARTITIONS_EACH,
        2,
        P * 1024 // 2,
        2 * P * 1024,
    ),
    # Half of each row of a wider tile: the shorter run of the two sides.
    "copy of parts of rows": (
        dma_copy,
        [op.sbuf(P, 4, 24), dataclasses.replace(op.hbm(P, 4, 24), run=24)],
        P,
        4 * P,
        96,
        P * 384,
    ),
    "copy of a column": (
        dma_copy,
        [op.sbuf(P, 4), dataclasses.replace(op.hbm(P, 4), run=1)],
        P,
        4 * P,
        4,
        P * 16,
    ),
}


@SHEETS
@pytest.mark.parametrize("band", BANDS)
@pytest.mark.parametrize("form", FORMS)
def test_law(form, band, sheet):
    inst, operands, partitions, descriptors, nbytes, hbm_bytes = FORMS[form]
    device = sheet.at(band)
    cost = inst.cost(device, *operands)
    busy, latency = law(device, partitions, descriptors, nbytes, hbm_bytes=hbm_bytes)
    assert (cost.busy_cycles, cost.latency_cycles) == (busy, latency)
    assert cost.engine == ("store_queue" if "store" in form else "load_queue")


def test_a_copy_casts_through_float32():
    x = draw(0, 4, 9)
    kept = dma_copy(op.blank(4, 9), jnp.asarray(x))
    np.testing.assert_array_equal(kept, x)
    cast = dma_copy(op.blank(4, 9, dtype=BF16), jnp.asarray(x))
    np.testing.assert_array_equal(cast, x.astype(BF16))
    whole = dma_copy(jnp.zeros((4, 9), I32), jnp.asarray(x) * 100)
    np.testing.assert_array_equal(whole, (x * np.float32(100)).astype(I32))


@SHEETS
def test_engines_are_shared_by_the_queues(sheet):
    """What one queue uses of them is gone for the others."""
    for queue in DMA_QUEUES:
        cost = dma_load.cost(sheet.at(), op.sbuf(P, 96), op.hbm(P, 96), queue=queue)
        assert cost.engine == queue
        assert cost.taken == {q: cost.busy_cycles for q in DMA_QUEUES if q != queue}


def test_no_such_queue():
    message = "trn.dma_store: queue is 'queue 7', must be one of load_queue, load_queue2, store"
    with pytest.raises(LimitExceeded, match=message):
        dma_store.cost(TRN2.at(), op.sbuf(P, 96), queue="queue 7")


def test_few_partitions_take_one_engine():
    """4 x 8 KiB on one engine: Trainium2's profile shows 1,416 ns (T2-DMA-3).

    The queue is free after a sixteenth of it: fifteen engines are left for the next copy.
    """
    d = TRN2.at()
    cost = dma_load.cost(d, op.sbuf(4, 2048), op.hbm(4, 2048))
    data_s = cost.latency_cycles / d.tick_hz - d.dma_trigger_s - d.dma_wakeup_s
    assert data_s == pytest.approx(1416e-9, rel=0.05)
    semaphore_s, copy_s = exact(d.dma_descriptor_s), exact(d.dma_copy_s)
    descriptors_s = exact(round(data_s, 13)) - semaphore_s
    assert cost.busy_cycles == ticks(d, (descriptors_s + copy_s) / 16 + semaphore_s)


MOVED = {
    # Part of a tile is written: its bytes count, not the tile's. Of a table, the rows gathered.
    "load into a place": {"hbm_read": P * 200, "sbuf_write": P * 200},
    "store into a slice": {"sbuf_read": P * 384, "hbm_write": P * 384},
    "gather": {"hbm_read": P * 384 + P * 4, "sbuf_write": P * 384},
    "copy that casts": {"hbm_read": P * 192, "sbuf_write": P * 384},
    "copy in HBM": {"hbm_read": P * 1024, "hbm_write": P * 1024},
}


@pytest.mark.parametrize("form", MOVED)
def test_bytes_moved(form):
    inst, operands = FORMS[form][:2]
    assert inst.cost(TRN2.at(), *operands).moved_bytes == MOVED[form]


def test_every_dma_is_in_the_table():
    tried = {case[0].name for case in (*FORMS.values(), *SHARES)}
    tried |= {"trn.dma_sum2", "trn.dma_sum3"}  # in test_dma_rows
    here = [
        i
        for m in (memory, dma_compute)
        for i in vars(m).values()
        if hasattr(i, "reads")
    ]
    assert {i.name for i in here if i.reads} == tried  # tiles cost nothing


# --- HBM shared by the cores of a chip ---


@SHEETS
def test_all_cores_share_the_memorys_bandwidth(sheet):
    """One core cannot exhaust it; all of Trainium2's can."""
    nbytes = 128 * 32768
    whole = law(sheet.at(), 128, 128, 32768, hbm_bytes=0)[0]
    for cores in (1, sheet.cores_per_chip.value):
        d = with_cores(sheet, cores).at()
        cost = dma_load.cost(d, op.sbuf(128, 8192), op.hbm(128, 8192))
        at_most = ticks(d, nbytes * cores / exact(d.hbm_bytes_per_s))
        assert cost.busy_cycles == max(whole, at_most)
        assert cost.busy_cycles > whole or cores == 1 or sheet is not TRN2


def test_copies_within_a_core_need_no_memory_bandwidth():
    one, eight = (
        dma_copy.cost(with_cores(TRN2, n).at(), op.sbuf(128, 8192), op.sbuf(128, 8192))
        for n in (1, 8)
    )
    assert one == eight


# --- transposes and sums on the way ---

SHARES = [
    (dma_transpose, TRN2, op.hbm, "0.9"),
    (dma_transpose, TRN3, op.sbuf, "0.5"),
    (dma_accumulate, TRN1, op.hbm, "0.5"),
    (dma_accumulate, TRN2, op.sbuf, "0.5"),
    (dma_accumulate, TRN3, op.hbm, "1"),
]


@pytest.mark.parametrize("inst, sheet, space, share", SHARES)
def test_share_of_a_copys_rate(inst, sheet, space, share):
    device, src = sheet.at(), space(128, 128, dtype=BF16)
    cost = inst.cost(device, op.sbuf(128, 128, dtype=BF16), src)
    from_hbm = src.nbytes if src.space == "hbm" else 0
    expected = law(device, 128, 128, 256, hbm_bytes=from_hbm, share=share)
    assert (cost.busy_cycles, cost.latency_cycles) == expected


def test_what_a_sum_moves():
    """The destination is read as well."""
    dst, d = op.sbuf(128, 128), TRN3.at()
    assert dma_accumulate.cost(d, dst, op.hbm(128, 128)).moved_bytes == {
        "hbm_read": 65536,
        "sbuf_read": 65536,
        "sbuf_write": 65536,
    }
    assert dma_accumulate.cost(d, dst, op.sbuf(128, 128)).moved_bytes == {
        "sbuf_read": 2 * 65536,
        "sbuf_write": 65536,
    }


REFUSED = {
    "trn.dma_transpose: device is Trainium1, must be Trainium2 or Trainium3": (
        dma_transpose,
        TRN1,
        op.sbuf(8, 8),
        op.hbm(8, 8),
    ),
    "trn.dma_transpose: elements of 1 bytes, must be 2 or 4": (
        dma_transpose,
        TRN2,
        op.sbuf(8, 8, dtype=np.int8),
        op.hbm(8, 8, dtype=np.int8),
    ),
    "trn.dma_accumulate: source is bfloat16, must be the destination's float32": (
        dma_accumulate,
        TRN3,
        op.sbuf(8, 8),
        op.hbm(8, 8, dtype=BF16),
    ),
}


@pytest.mark.parametrize("message", REFUSED)
def test_refused(message):
    inst, sheet, dst, src = REFUSED[message]
    with pytest.raises(LimitExceeded, match=message):
        inst.cost(sheet.at(), dst, src)


@pytest.mark.parametrize("dtype", [op.F32, BF16], ids=["fp32", "bf16"])
def test_values(dtype):
    x, old = draw(0, 6, 10, dtype=dtype), draw(1, 6, 10, dtype=dtype)
    blank = jnp.full((6, 10), jnp.nan, dtype)
    np.testing.assert_array_equal(dma_copy(blank, jnp.asarray(x)), x)
    np.testing.assert_array_equal(dma_transpose(blank.T, jnp.asarray(x)), x.T)
    total = dma_accumulate(jnp.asarray(old), jnp.asarray(x))
    assert_close(total, wide(old) + wide(x), scale=np.abs(wide(old)) + np.abs(wide(x)))
    assert total.dtype == dtype


# --- laws ---


@given(
    sheet=st.sampled_from([TRN1, TRN2, TRN3]),
    partitions=st.integers(1, 128),
    pieces=st.integers(1, 40),
    nbytes=st.integers(4, 40_000),
    cores=st.integers(1, 2),
)
def test_more_is_never_faster(sheet, partitions, pieces, nbytes, cores):
    """More bytes, more pieces or more cores take at least as long, and no copy beats the rate."""

    def cost(pieces=pieces, nbytes=nbytes, cores=cores):
        number = partitions * pieces
        what = Descriptors(
            number=number,
            nbytes=nbytes,
            partitions=partitions,
            hbm_bytes=number * nbytes,
        )
        device = with_cores(sheet, cores).at()
        return dma_cost(device, "trn.dma_load", "load_queue", what)

    base, device = cost(), sheet.at()
    for more in (cost(pieces=pieces + 1), cost(nbytes=nbytes + 1), cost(cores=2)):
        assert more.busy_cycles >= base.busy_cycles
        assert more.latency_cycles >= base.latency_cycles
    least = partitions * pieces * nbytes / (ENGINES * device.dma_engine_bytes_per_s)
    # Whole ticks, but for the rounding of a product of floats.
    assert base.latency_cycles > base.busy_cycles >= least * device.tick_hz * (1 - 1e-9)


def test_descriptors_of_one_load_cost_more_the_smaller_they_are():
    """The same 256 KiB as 128 pieces of 2 KiB and as 1,024 of 256 B."""
    d = TRN2.at()
    few = dma_load.cost(d, op.sbuf(128, 512), op.hbm(128, 512)).busy_cycles
    many = dma_load_tiles.cost(d, op.sbuf(128, 8, 64), op.hbm(8, 128, 64)).busy_cycles
    extra = (1024 - 128) * exact(d.dma_descriptor_s) / ENGINES
    assert abs(many - few - extra * d.tick_hz) <= 1


# --- on the clock ---


def test_queues_on_the_clock():
    """A load on each of two queues, then a store: values, and every queue's busy time."""

    def kernel(x):
        left = dma_load(sbuf(128, 512), x)
        right = dma_load(sbuf(128, 512), x, queue="load_queue2")
        sums = dma_accumulate(left, right, queue="store_queue")
        out = hbm(2, 128, 512)
        out = dma_store.at[0](out, sums)
        copy = dma_copy(sbuf(128, 512), sums)
        return dma_store.at[1](out, copy, queue="load_queue")

    program = Program(kernel, {"core": 1}, ((),))
    x = draw(3, 128, 512)
    np.testing.assert_array_equal(program.run(jnp.asarray(x))[0], np.stack([2 * x] * 2))
    d = TRN2.at()
    clock = program.read(d, jax.ShapeDtypeStruct(x.shape, x.dtype))
    nbytes = x.nbytes
    move = law(d, 128, 128, 2048, hbm_bytes=nbytes)[0]
    within = law(d, 128, 128, 2048, hbm_bytes=0)[0]
    add = law(d, 128, 128, 2048, hbm_bytes=0, share="0.5")[0]
    assert clock.busy_ticks["load_queue"] == 2 * move + within
    assert clock.busy_ticks["load_queue2"] == move
    assert clock.busy_ticks["store_queue"] == move + add
    assert (
        clock.tally.by("bytes")["hbm_read"]
        == clock.tally.by("bytes")["hbm_write"]
        == 2 * nbytes
    )


def queued(queues, count=6, columns=512):
    """End of `count` loads of 128 rows of `columns` float32, on these queues in turn."""

    def kernel(x):
        return [
            dma_load(sbuf(*x.shape), x, queue=queues[i % len(queues)])
            for i in range(count)
        ]

    x = jax.ShapeDtypeStruct((128, columns), jnp.float32)
    return Program(kernel, {"core": 1}, ((),)).read(TRN2.at(), x).end_ticks


def test_a_second_queue_adds_no_bandwidth():
    d = TRN2.at()
    busy, latency = law(d, 128, 128, 2048, hbm_bytes=128 * 2048)
    assert busy > d.dma_interval_s * d.tick_hz
    assert (
        queued(["load_queue"])
        == queued(["load_queue", "load_queue2"])
        == 5 * busy + latency
    )


def test_short_copies_need_several_queues():
    """A queue starts one in 0.85 us: 1 KiB descriptors reach 0.42 of the rate, 2 KiB 0.81."""
    d = TRN2.at()
    busy, latency = law(d, 128, 128, 256, hbm_bytes=128 * 256)
    interval = ticks(d, exact(d.dma_interval_s))
    assert queued(["load_queue"], columns=64) == 5 * interval + latency
    two = queued(["load_queue", "load_queue2"], columns=64)
    # The second queue's engine time comes after.
    assert two == 2 * interval + latency + busy
    for columns, share in ((256, 0.42), (512, 0.81)):
        rate = 16 * d.dma_engine_bytes_per_s
        step_s = max(
            d.dma_interval_s, law(d, 128, 128, 4 * columns, hbm_bytes=0)[0] / d.tick_hz
        )
        assert 128 * 4 * columns / step_s / rate == pytest.approx(share, rel=0.03)


@pytest.mark.parametrize("queue", ["load_queue", "load_queue2"])
def test_a_second_queue_passes_one_that_waits(queue):
    """The second load's buffer is in use until it was stored; the third load needs nothing."""

    def kernel(x):
        first = dma_load(sbuf(128, 512), x)
        stored = dma_store(first)
        return stored, dma_load(first, x), dma_load(sbuf(128, 512), x, queue=queue)

    program = Program(kernel, {"core": 1}, ((),))
    x, d = jax.ShapeDtypeStruct((128, 512), jnp.float32), TRN2.at()
    events = program.read(d, x, trace_core=(0,)).events
    starts = [e.start for e in events if e.name == "trn.dma_load"]
    busy, latency = law(d, 128, 128, 2048, hbm_bytes=128 * 2048)
    again = 2 * latency  # loaded and stored
    # On its own queue it waits only for what the two copies issued so far took of the engines.
    third = again + busy if queue == "load_queue" else 3 * busy
    assert starts == [0, again, third]
