"""DMA to rows that a tile names, and sums on the way: values, descriptors and traffic."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from emu import Program
from emu.errors import LimitExceeded, UnwrittenTile
from emu.trainium import (
    TRN2,
    TRN3,
    dma_accumulate,
    dma_copy,
    dma_gather_rows,
    dma_load,
    dma_scatter_add,
    dma_scatter_rows,
    dma_sum2,
    dma_sum3,
    dma_transpose,
    hbm,
    sbuf,
)
from emu.trainium.engines.dma import Descriptors, dma_cost
from tests.emu.trainium import operands as op
from tests.emu.trainium.operands import BF16, I32, assert_close, blank, draw, wide

ROW = 96 * 4
INDEX = op.sbuf(128, 1, dtype=I32)
ROWS, TABLE = op.sbuf(128, 96), op.hbm(9999, 96)


def index_of(*places):
    return jnp.asarray(places, jnp.int32)[:, None]


def test_rows_are_gathered():
    table = draw(0, 50, 3, 4)
    found = dma_gather_rows(blank(4, 3, 4), jnp.asarray(table), index_of(7, 0, 49, 7))
    np.testing.assert_array_equal(found, table[[7, 0, 49, 7]])


def test_rows_that_there_are_not():
    table, old = draw(0, 50, 4), draw(1, 3, 4)
    index = index_of(50, 2, -1)
    found = dma_gather_rows(jnp.asarray(old), jnp.asarray(table), index)
    assert np.isnan(np.asarray(found)[[0, 2]]).all()
    np.testing.assert_array_equal(found[1], table[2])
    kept = dma_gather_rows(jnp.asarray(old), jnp.asarray(table), index, skip=True)
    np.testing.assert_array_equal(kept, [old[0], table[2], old[2]])
    written = dma_scatter_rows(jnp.asarray(table), jnp.asarray(old), index)
    expected = table.copy()
    expected[2] = old[1]
    np.testing.assert_array_equal(written, expected)


def test_rows_are_scattered_and_added_to():
    table, new = draw(0, 9, 4), draw(1, 3, 4)
    index = index_of(8, 0, 5)
    written = dma_scatter_rows(jnp.asarray(table), jnp.asarray(new), index)
    expected = table.copy()
    expected[[8, 0, 5]] = new
    np.testing.assert_array_equal(written, expected)
    added = dma_scatter_add(jnp.asarray(table), jnp.asarray(new), index)
    expected = table.copy()
    expected[[8, 0, 5]] += new
    np.testing.assert_array_equal(added, expected)


def test_what_rows_take():
    """A descriptor a row; a sum reads and writes each in HBM, at half the rate before Trainium3."""
    device = TRN2.at()

    def law(name, queue, share=1.0, times=1):
        what = Descriptors(
            number=128,
            nbytes=ROW,
            partitions=128,
            hbm_bytes=times * 128 * ROW,
            share=share,
        )
        return dma_cost(device, name, queue, what)

    gather = dma_gather_rows.cost(device, ROWS, TABLE, INDEX)
    assert gather.busy_cycles == law("", "load_queue").busy_cycles
    assert gather.moved_bytes == {
        "hbm_read": 128 * ROW,
        "sbuf_write": 128 * ROW,
        "sbuf_read": 512,
    }
    scatter = dma_scatter_rows.cost(device, TABLE, ROWS, INDEX)
    assert scatter.latency_cycles == law("", "store_queue").latency_cycles
    assert scatter.moved_bytes == {
        "sbuf_read": 128 * ROW + 512,
        "hbm_write": 128 * ROW,
    }
    added = dma_scatter_add.cost(device, TABLE, ROWS, INDEX)
    assert added.busy_cycles == law("", "store_queue", 0.5, 2).busy_cycles
    assert added.moved_bytes is not None
    assert added.moved_bytes["hbm_read"] == 128 * ROW
    assert gather.engine == "load_queue" and scatter.engine == "store_queue"
    # Of a table's columns the rows are in pieces of their own.
    narrow = dataclasses.replace(op.hbm(9999, 4, 24), run=24)
    cut = dma_gather_rows.cost(device, op.sbuf(128, 4, 24), narrow, INDEX)
    pieces = Descriptors(number=512, nbytes=96, partitions=128, hbm_bytes=128 * ROW)
    assert cut.busy_cycles == dma_cost(device, "", "load_queue", pieces).busy_cycles


@pytest.mark.parametrize(
    "operands",
    [(ROWS, TABLE, op.sbuf(128, 2, dtype=I32)), (ROWS, op.hbm(9, 95), INDEX)],
)
def test_not_rows(operands):
    with pytest.raises(LimitExceeded, match="trn.dma_gather_rows: tile float32"):
        dma_gather_rows.cost(TRN2.at(), *operands)


def test_an_index_is_an_integer():
    with pytest.raises(LimitExceeded, match="index is float32, must be an integer"):
        dma_gather_rows(blank(2, 3), blank(9, 3), blank(2, 1))


# --- sums on the way ---


def test_sums():
    a, b, c = (draw(seed, 4, 9) for seed in range(3))
    x, y, z = map(jnp.asarray, (a, b, c))
    np.testing.assert_array_equal(dma_sum2(blank(4, 9), x, y), a + b)
    np.testing.assert_array_equal(dma_sum3(blank(4, 9), x, y, z), a + b + c)
    narrow = dma_sum2(blank(4, 9, dtype=BF16), x.astype(BF16), y)
    wanted = wide(a.astype(BF16)) + wide(b)
    assert_close(narrow, wanted, scale=np.abs(wide(a)) + np.abs(wide(b)))


@pytest.mark.parametrize("sheet", [TRN2, TRN3], ids=lambda s: s.name)
def test_each_further_source_is_an_accumulation(sheet):
    """What `dma_accumulate` takes to add one source, `dma_sum2` takes, and `dma_sum3` twice."""
    device = sheet.at()
    tile, buffer = op.sbuf(128, 512), op.hbm(128, 512)
    one = dma_accumulate.cost(device, tile, buffer)
    two = dma_sum2.cost(device, tile, tile, buffer)
    assert (two.busy_cycles, two.latency_cycles) == (
        one.busy_cycles,
        one.latency_cycles,
    )
    three = dma_sum3.cost(device, tile, buffer, buffer, buffer)
    what = Descriptors(
        number=256,
        nbytes=2048,
        partitions=128,
        hbm_bytes=3 * 128 * 2048,
        share=device.dma_accumulate_share,
    )
    law = dma_cost(device, "", "load_queue", what)
    assert (three.busy_cycles, three.latency_cycles) == (
        law.busy_cycles,
        law.latency_cycles,
    )
    moved = {"hbm_read": 3 * 128 * 2048, "sbuf_write": 128 * 2048}
    assert three.moved_bytes == moved
    within = dma_accumulate.cost(device, op.hbm(128, 512), op.hbm(128, 512))
    # 256 KiB in four pieces of 64 KiB, on four engines; the destination is read, too.
    what = Descriptors(
        number=4,
        nbytes=2**16,
        partitions=32,
        hbm_bytes=3 * 2**18,
        share=device.dma_accumulate_share,
    )
    law = dma_cost(device, "", "load_queue", what)
    assert (within.busy_cycles, within.latency_cycles) == (
        law.busy_cycles,
        law.latency_cycles,
    )


# --- turns ---


@pytest.mark.parametrize("axes", [(1, 0), (2, 1, 0), (3, 1, 2, 0)])
def test_turns(axes):
    shape = (5, 3, 2, 4)[: len(axes)]
    x = draw(0, *shape)
    turned = dma_transpose(blank(*(shape[i] for i in axes)), jnp.asarray(x), axes=axes)
    np.testing.assert_array_equal(turned, x.transpose(axes))
    operands = op.sbuf(*(shape[i] for i in axes)), op.hbm(*shape)
    assert dma_transpose.cost(TRN2.at(), *operands, axes=axes).busy_cycles
    with pytest.raises(LimitExceeded, match="axes are .* must be one of"):
        dma_transpose.cost(TRN2.at(), *operands, axes=(0, 1))


# --- in programs ---


def test_a_kernel_of_them_runs_and_is_timed():
    """Rows gathered, doubled by a DMA within HBM, and scattered into a copy of the table."""

    def kernel(table, index):
        places = dma_load(sbuf(4, 1, dtype=jnp.int32), index)
        rows = dma_gather_rows(sbuf(4, 32), table, places)
        out = dma_copy(hbm(64, 32), table)
        out = dma_scatter_rows(out, rows, places)
        return dma_accumulate(out, table)

    table = draw(0, 64, 32)
    index = np.asarray([[3], [1], [60], [7]], np.int32)
    program = Program(kernel, {"core": 1}, ((), ()))
    found = program.run(jnp.asarray(table), jnp.asarray(index))
    np.testing.assert_array_equal(np.asarray(found).reshape(64, 32), table + table)
    shapes = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in (table, index)]
    clock = program.read(TRN2.at(), *shapes)
    assert clock.issued == 5
    # The table is read whole by the copy and by the sum, which reads its destination too; four rows
    # of it by the gather, and four indices.
    assert clock.tally.by("bytes")["hbm_read"] == 3 * 64 * 128 + 4 * 128 + 16


def test_nobody_has_written_what_is_added_to():
    def kernel(table):
        return dma_accumulate(hbm(64, 32), table)

    program = Program(kernel, {"core": 1}, ((),))
    with pytest.raises(UnwrittenTile, match="trn.dma_accumulate: adds to a tile"):
        program.read(TRN2.at(), jax.ShapeDtypeStruct((64, 32), jnp.float32))
