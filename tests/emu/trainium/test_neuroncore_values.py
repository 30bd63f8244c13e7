"""Values of tiles, of the DMA that moves them and of the links, against NumPy: all are exact."""

import jax.numpy as jnp
import numpy as np
import pytest

from emu import ds
from emu.trainium.engines import memory
from tests.emu.trainium.operands import BF16, F32, blank, draw, wide

DTYPES = pytest.mark.parametrize("dtype", [F32, BF16], ids=["fp32", "bf16"])


@DTYPES
def test_whole_tiles(dtype):
    x = draw(0, 5, 9, dtype=dtype)
    np.testing.assert_array_equal(
        memory.dma_load(blank(5, 9, dtype=dtype), jnp.asarray(x)), x
    )
    np.testing.assert_array_equal(memory.dma_store(jnp.asarray(x)), x)
    tiles = draw(1, 3, 5, 9, dtype=dtype)
    several = memory.dma_load_tiles(blank(5, 3, 9, dtype=dtype), jnp.asarray(tiles))
    np.testing.assert_array_equal(several, tiles.swapaxes(0, 1))


@DTYPES
def test_parts_of_tiles(dtype):
    """The rest of the tile keeps what it held."""
    old, new = draw(0, 4, 3, 20, dtype=dtype), draw(1, 4, 6, dtype=dtype)
    expected = old.copy()
    expected[:, 1, 5:11] = new
    loaded = memory.dma_load.at[:, 1, ds(5, 6)](jnp.asarray(old), jnp.asarray(new))
    np.testing.assert_array_equal(loaded, expected)
    row = draw(2, 3, 20, dtype=dtype)
    stored = memory.dma_store.at[jnp.int32(1)](jnp.asarray(old), jnp.asarray(row))
    np.testing.assert_array_equal(stored, np.stack([old[0], row, *old[2:]]))


def test_gather():
    table, ids = draw(0, 50, 7), np.array([3, 49, 0, 3], np.int32)
    actual = memory.dma_gather(blank(4, 7), jnp.asarray(table), jnp.asarray(ids))
    np.testing.assert_array_equal(actual, table[ids])


@DTYPES
def test_fresh_tiles_hold_poison(dtype):
    for tile in (memory.sbuf, memory.psum, memory.hbm):
        assert np.isnan(wide(tile(2, 3, dtype=dtype))).all()
    assert (
        np.asarray(memory.sbuf(2, 3, dtype=jnp.int32)) == np.iinfo(np.int32).max
    ).all()
