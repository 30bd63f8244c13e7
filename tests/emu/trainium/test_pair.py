"""Two cores of a logical NeuronCore: exchanges and barriers, values and arrival."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from emu import Program
from emu.boxes import Box, boxed
from emu.errors import LimitExceeded
from emu.instruction import Crossing
from emu.trainium import datasheets, isa
from emu.trainium.engines import memory
from emu.trainium.links.pair import Owners, core_barrier, sendrecv

SHAPE = 128, 64
PAIR = datasheets.with_cores(datasheets.TRN2, 2).at()


def exchange(x):
    tile = memory.dma_load(memory.sbuf(*SHAPE), x)
    theirs = sendrecv(memory.sbuf(*SHAPE), tile, axis="nc")
    return memory.dma_store(theirs)


def test_each_core_has_the_others_tile():
    x = jnp.arange(2 * 128 * 64, dtype=jnp.float32).reshape(2, *SHAPE)
    program = Program(exchange, {"nc": 2}, (("nc",),))
    np.testing.assert_array_equal(program.run(x), x[::-1])
    program.read(PAIR, jax.ShapeDtypeStruct(x.shape, x.dtype))


def test_parts_of_tiles_are_exchanged():
    """Each core sends the columns that are its own, into the same columns of the other's."""
    half = Box((128, 64), (128, 32))

    def halves(x):
        tile = memory.dma_load(memory.sbuf(*SHAPE), x)
        whole = isa.memset(memory.sbuf(*SHAPE), value=0.0)
        mine = 32 * jax.lax.axis_index("nc")
        parts = boxed(sendrecv, (half,), (half,))
        return memory.dma_store(parts(whole, tile, 32 - mine, mine, axis="nc"))

    x = jnp.arange(2 * 128 * 64, dtype=jnp.float32).reshape(2, *SHAPE)
    program = Program(halves, {"nc": 2}, (("nc",),))
    wanted = np.zeros((2, *SHAPE), np.float32)
    wanted[0, :, 32:], wanted[1, :, :32] = x[1, :, 32:], x[0, :, :32]
    np.testing.assert_array_equal(program.run(x), wanted)
    program.read(PAIR, jax.ShapeDtypeStruct(x.shape, x.dtype))


@pytest.mark.parametrize("inst, busy", [(sendrecv, 10), (core_barrier, 25)])
def test_the_early_core_waits_for_the_late_one(inst, busy):
    """Core 0 has come at 40 and core 1's destination is idle at 100; both go on from there."""
    crossing = Crossing(
        np.array([40, 90]), np.array([0, 100]), np.array(busy), np.array(25)
    )
    ready, free = inst.arrival(PAIR, {"nc": 2}, crossing, axis="nc")
    np.testing.assert_array_equal(ready, [125, 125])
    np.testing.assert_array_equal(free, [100 + busy] * 2)


def test_a_barrier_hands_each_core_the_others_part():
    owners = Owners.of(np.array([[0, 0], [1, -1]]))
    held = jnp.array([[[1, 2], [3, 4]], [[5, 6], [7, 8]]], jnp.float32)
    result = core_barrier.meaning(held, axis="nc", owners=owners)
    np.testing.assert_array_equal(result, [[[1, 2], [7, 4]], [[1, 2], [7, 8]]])


def test_a_barrier_carries_other_axes_of_the_mesh_along():
    owners = Owners.of(np.array([1, 0]))
    held = jnp.arange(12.0).reshape(2, 3, 2)
    result = core_barrier.meaning(held, axis="nc", owners=owners)
    expected = np.stack([np.asarray(held)[1, :, 0], np.asarray(held)[0, :, 1]], -1)
    np.testing.assert_array_equal(result, np.stack([expected, expected]))


def test_three_cores_are_no_pair():
    with pytest.raises(LimitExceeded, match="3 cores along nc, must be 2"):
        sendrecv.meaning(jnp.zeros((3, 2, 2)), jnp.zeros((3, 2, 2)), axis="nc")
