"""The way to the next wafer: values, its time by hand, and its bytes."""

import dataclasses
from typing import Any

import numpy as np
from jax import lax

from emu import BANDS, Known, Program, wse
from emu.wse import WSE3
from emu.wse.collectives.cross.arrival import link_cycles
from tests.emu.wse.collectives.on_timeline import like, on_line


def test_a_line_crosses_both_edges() -> None:
    x = np.arange(12, dtype=np.float32).reshape(4, 3)
    program = on_line(
        4, lambda x, hops: wse.cross(like(x), x, hops, axis="row"), knowns=1
    )
    hops = Known(np.int32(10))
    assert (np.asarray(program.run(x, hops)) == x[-1:]).all()
    device = WSE3.at()
    clock = program.read(device, x, hops)
    # As a walk over 10 + 4 hops, with queues and ramps of two wafers and the message's words once
    # more before it leaves; 12 bytes take no cycle, the latency 2,200.
    on_wafers = (1 + 2 * 2) + (1 + 2 * 2 + 2 * (10 + 4)) + 2
    link = 2_200 + 1
    assert link == link_cycles(device, 12)
    assert clock.end_ticks == 24 + 4 + on_wafers + link + 3
    assert clock.tally.by("other") == {"wavelet_hops": 3 * (10 + 4), "io_bytes": 12}


def test_all_rows_are_one_message() -> None:
    """It leaves when the last row is there; 1,024 rows of 7 words take 211 cycles of the link."""

    def end(rows: int, late: bool) -> int:
        def kernel(x: Any) -> Any:
            if late:
                is_first = lax.axis_index("row") == 0
                x = lax.cond(is_first, lambda x: wse.copy(x, x), lambda x: x, x)
            return wse.cross(like(x), x, np.int32(0), axis="col")

        program = Program(kernel, {"row": rows, "col": 2}, (("row", "col"),))
        x = np.zeros((rows, 2, 7), np.float32)
        return program.read(WSE3.at(), x).end_ticks

    device = WSE3.at()
    assert link_cycles(device, 28_672) - link_cycles(device, 0) == 211
    one, many = end(1, False), end(1024, False)
    assert many - one == link_cycles(device, 28_672) - link_cycles(device, 28)
    # One row that comes later holds up all.
    assert end(1024, True) > many


def test_the_latency_is_the_datasheets() -> None:
    program = on_line(2, lambda x: wse.cross(like(x), x, np.int32(0), axis="row"))
    x = np.zeros((2, 3), np.float32)
    seconds = [program.read(WSE3.at(band), x).seconds for band in BANDS]
    assert seconds[0] < seconds[1] < seconds[2]
    latency = dataclasses.replace(WSE3.edge_latency_s, value=3e-6)
    slower = dataclasses.replace(WSE3, edge_latency_s=latency).at()
    later = program.read(slower, x).seconds - seconds[1]
    np.testing.assert_allclose(later, 1e-6, rtol=1e-3)


def test_a_crossing_is_a_walk_to_values() -> None:
    x = np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)
    walked = on_line(4, lambda x: wse.walk(like(x), x, np.int32(5), axis="row"))
    crossed = on_line(4, lambda x: wse.cross(like(x), x, np.int32(5), axis="row"))
    assert np.array_equal(walked.run(x), crossed.run(x))
