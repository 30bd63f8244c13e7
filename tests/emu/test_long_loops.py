"""Loops of very many iterations: counted exactly as long as 64 bits hold the time, else refused."""

import jax
import jax.numpy as jnp
import pytest
from jax import lax

from emu import Program
from emu.errors import LimitExceeded
from emu.trainium import TRN2, dma_load, dma_store, isa, sbuf

TILE = jax.ShapeDtypeStruct((128, 128), jnp.float32)
DEVICE = TRN2.at()


def nest(*lengths, cores=1):
    """Reads loops within one another; of two cores the first begins later."""

    def kernel(x):
        tile = dma_load(sbuf(128, 128), x)

        def late(tile):
            return isa.activation(tile, tile, op="exp")

        is_late = lax.axis_index("core") == 1
        tile = lax.cond(is_late, late, lambda tile: tile, tile)
        return dma_store(loops(tile, lengths))

    def loops(tile, lengths):
        if not lengths:
            return isa.activation(tile, tile, op="exp")
        first, *inner = lengths
        step = lambda tile, _: (loops(tile, inner), None)  # noqa: E731
        return lax.scan(step, tile, None, length=first)[0]  # loops

    return Program(kernel, {"core": cores}, ((),)).read(DEVICE, TILE)


@pytest.mark.parametrize("cores", [1, 2])
def test_five_loops_of_a_thousand_are_exact(cores):
    """Each iteration takes what the next one does: 10 and 20 of them tell of any number."""
    ten, twenty = (nest(n, cores=cores).end_ticks for n in (10, 20))
    each, rest = divmod(twenty - ten, 10)
    assert not rest
    clock = nest(*[1000] * 5, cores=cores)
    assert clock.end_ticks == ten + (1000**5 - 10) * each
    flops = 2 * 128 * 128
    late = cores - 1
    assert clock.tally.flops == flops * (cores * 1000**5 + late)


@pytest.mark.parametrize("cores", [1, 2])
@pytest.mark.parametrize("lengths", [[1000] * 7, [2**31 - 1] * 3, [1000] * 9])
def test_more_than_64_bits_are_refused(lengths, cores):
    with pytest.raises(
        LimitExceeded, match="years, at most 4611686018427387904"
    ) as told:
        nest(*lengths, cores=cores)
    assert "\n" not in str(told.value) and "(test_long_loops.py:" in str(told.value)


def test_bands_are_refused_as_well():
    def kernel(x):
        def step(tile, _):
            return lax.scan(inner, tile, None, length=2**31 - 1)[0], None

        def inner(tile, _):
            return isa.activation(tile, tile, op="exp"), None

        tile = dma_load(sbuf(128, 128), x)
        return dma_store(lax.scan(step, tile, None, length=2**31 - 1)[0])

    program = Program(kernel, {"core": 2}, ((),))
    with pytest.raises(LimitExceeded, match="years, at most"):
        program.read_bands(TRN2, TILE)
