"""A program's clock by another way into its region is that of the program read by it."""

import jax.numpy as jnp
import numpy as np
import pytest

from emu.datasheet import BANDS
from emu.program import Known, Program
from emu.wse import WSE3
from kernels.wse.decode.arrive import arrive
from kernels.wse.decode.head import head_arguments, head_program
from kernels.wse.decode.layer import layer_arguments, layer_program
from kernels.wse.decode.mapping import HeadMap, LayerMap
from kernels.wse.decode.plan import Way
from kernels.wse.decode.token import HERE
from kernels.wse.decode.way_in import by_way, way_arguments, way_program

LAYER = LayerMap(66, 90, 4, 2, 16, 1e-5, False, 40, rows=6, parts=4)
HEAD = HeadMap(66, 101, 1e-5, rows=6, cols=5)
WAYS = (Way(7, crosses=False), Way(0, crosses=True), Way(31, crosses=True))


@pytest.mark.parametrize("way", WAYS, ids=str)
@pytest.mark.parametrize("band", BANDS)
@pytest.mark.parametrize("of", [LAYER, HEAD], ids=["layer", "head"])
def test_the_sum_is_the_program(of: LayerMap | HeadMap, band: str, way: Way) -> None:
    device = WSE3.at(band)

    def program(way: Way):  # type: ignore[no-untyped-def]
        if isinstance(of, HeadMap):
            arguments = head_arguments(of, way.hops)
            return head_program(of, way.crosses).read(device, *arguments)
        arguments = layer_arguments(of, 17, way.hops)
        return layer_program(of, crosses=way.crosses).read(device, *arguments)

    def alone(way: Way):  # type: ignore[no-untyped-def]
        arguments = way_arguments(of, way.hops)
        return way_program(of, way.crosses).read(device, *arguments)

    whole, found = program(way), by_way(program(HERE), alone(HERE), alone(way))
    assert np.array_equal(whole.end, found.end) and whole.end_ticks == found.end_ticks
    assert dict(whole.tally.sums) == dict(found.tally.sums)
    assert whole.busy_ticks == found.busy_ticks
    for engine, ticks in whole.last.items():
        assert np.array_equal(ticks, found.last[engine])
        # What its ticks went to adds up to them.
        of_engine = [t for (name, _), t in found.spent.items() if name == engine]
        assert np.array_equal(np.sum(np.broadcast_arrays(*of_engine), axis=0), ticks)
    waits = {key: np.max(ticks) for key, ticks in whole.spent.items()}
    assert waits == {key: np.max(found.spent[key]) for key in waits}


def test_pes_that_a_way_treats_apart_are_refused() -> None:
    """A way that is longer to some rows is none that could be added."""
    device, mesh = WSE3.at(), {"row": 6, "col": 8}

    def kernel(residual, gap):  # type: ignore[no-untyped-def]
        return arrive(residual, gap, crosses=False)

    residual, _ = way_arguments(LAYER, 0)
    program = Program(kernel, mesh, (("row",), ("row",)))
    near, apart = (
        program.read(device, residual, Known(jnp.asarray(hops, jnp.int32)))
        for hops in ([0] * 6, range(6))
    )
    with pytest.raises(ValueError, match="differ by 0 to 10 ticks"):
        by_way(near, near, apart)
