"""The walk to the next region: values, hops, and its time by hand."""

import numpy as np

from emu import Known, wse
from emu.wse import WSE3
from tests.emu.wse.collectives.on_timeline import like, on_line


def test_walk_crosses_the_gap_and_starts_a_task() -> None:
    x = np.arange(12, dtype=np.float32).reshape(4, 3)
    program = on_line(4, lambda x, gap: wse.walk(like(x), x, gap, axis="row"), knowns=1)
    assert (np.asarray(program.run(x, Known(np.int32(10)))) == x[-1:]).all()
    clock = program.read(WSE3.at(), x, Known(np.int32(10)))
    assert clock.end_ticks == 24 + 4 + (1 + 2 * 2 + 2 * (10 + 4)) + 3
    assert clock.tally.by("other")["wavelet_hops"] == 3 * (10 + 4)
