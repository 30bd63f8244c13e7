"""Collectives one after the other: all-reduces, a product, meshes, calls."""

from typing import Any

import numpy as np

from emu import Known, Program, wse
from emu.wse import WSE2, WSE3
from tests.emu.wse.collectives.on_timeline import ENDS, like, on_line
from tests.emu.wse.single_pe import struct


def test_vmap_and_shard_map_agree() -> None:
    x = np.random.default_rng(0).standard_normal((2, 4, 6)).astype(np.float32)

    def call(x: Any) -> Any:
        y = wse.reduce(like(x), x, axis="col")
        y = wse.multicast(like(x), y, axis="col")
        z = wse.shift(like(x), y, axis="row", by=1)
        z = wse.vector(z, z, x, op="add")
        return wse.reduce(z, z, axis="row", op="max")

    program = Program(call, {"row": 2, "col": 4}, (("row", "col"),))
    batched, sharded = np.asarray(program.run(x)), np.asarray(program.sharded()(x))
    np.testing.assert_array_equal(batched, sharded)
    assert np.isfinite(batched[0]).all() and np.isnan(batched[1]).all()


def test_a_collective_may_go_on_within_a_call() -> None:
    def both(call: bool) -> int:
        def kernel(x: Any) -> Any:
            y = wse.reduce(like(x), x, axis="row")
            return wse.multicast(y, y, axis="row", call=call)

        return on_line(4, kernel).read(WSE2.at(), struct((4, 3))).end_ticks

    assert both(True) - both(False) == 40 + 9


def test_two_halves_share_a_wavelet_and_elements_may_be_fewer() -> None:
    reduce = on_line(4, lambda x: wse.reduce(like(x), x, axis="row"))
    ends = ENDS["WSE-3"]
    assert (
        reduce.read(WSE3.at(), struct((4, 7), "float16")).end_ticks == ends + 4 + 7 * 3
    )
    some = on_line(
        4, lambda x, n: wse.reduce(like(x), x, axis="row", elements=n), knowns=1
    )
    clock = some.read(WSE3.at(), struct((4, 7)), Known(np.int32(2)))
    assert clock.end_ticks == ends + 2 + 7 * 3
