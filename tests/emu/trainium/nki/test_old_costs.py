"""What the instructions cost that the older generation's functions brought."""

import jax.numpy as jnp
import numpy as np

from emu.instruction import Operand
from emu.trainium import isa
from emu.trainium.datasheets import GENERATIONS

DEVICE = GENERATIONS["trn2"].at()
F32 = np.dtype(np.float32)
FLAG = Operand((), np.dtype(np.int32), "register")


def tile(space: str, *shape: int) -> Operand:
    return Operand(shape, F32, space)


def test_a_tile_of_ones_and_zeros_takes_half_the_passes_of_float32():
    operands = tile("psum", 128, 512), tile("sbuf", 128, 128), tile("sbuf", 128, 512)
    whole = isa.nc_matmul.cost(DEVICE, *operands, FLAG)
    half = isa.nc_matmul.cost(DEVICE, *operands, FLAG, onezero=True)
    exposed = DEVICE.weight_load_exposed_cycles
    # Four passes of 512 columns in two instructions; two passes in one.
    assert whole.busy_cycles == 4 * 512 + 2 * exposed
    assert half.busy_cycles == 2 * 512 + exposed


def test_a_combined_tile_costs_what_a_tensor_tensor_costs():
    a, b = tile("sbuf", 128, 512), tile("sbuf", 128, 512)
    combined = isa.tensor_combine.cost(DEVICE, a, b, FLAG, op="max")
    pair = isa.tensor_tensor.cost(DEVICE, a, b, a, op="max")
    assert combined.busy_cycles == pair.busy_cycles
    assert combined.moved_bytes == pair.moved_bytes


def test_a_combined_tile_is_copied_in_the_first_turn():
    old, new = jnp.full((2, 3), 5.0), jnp.ones((2, 3))
    for turn, expected in ((0, 1), (1, 5), (7, 5)):
        result = isa.tensor_combine(old, new, np.int32(turn), op="max")
        np.testing.assert_array_equal(result, np.full((2, 3), expected))
