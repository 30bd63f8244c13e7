"""Passes of the compiled reading compute what the kernel does, bit for bit."""

import numpy as np
import pytest

from emu.trainium.datasheets import TRN1
from emu.trainium.nki import interpret
from emu.trainium.nki.passes import (
    common,
    depth,
    engines,
    fuse,
    hoist,
    side_by_side,
    spill,
)
from emu.trainium.nki.passes.costs import Costs
from emu.trainium.nki.passes.memory import Memory
from tests.emu.trainium.nki.random_trees import (
    COLUMNS,
    LOAD,
    ROWS,
    STORE,
    TILES,
    Tree,
)

ROOMY = Memory(192 * 1024, 16 * 1024)
# A dozen tiles, so that some kernels spill.
NARROW = Memory(12 * 4 * COLUMNS, 16 * 1024)
COSTS = Costs(TRN1.at())
PASSES = {
    "fuse": lambda kernel: fuse.apply(kernel, Memory(4 * COLUMNS, 2 * 2048)),
    "common": lambda kernel: common.apply(kernel, ROOMY),
    "hoist": lambda kernel: hoist.apply(kernel, ROOMY),
    "spill": lambda kernel: spill.apply(kernel, NARROW, LOAD, STORE),
    "engines": lambda kernel: engines.apply(kernel, COSTS),
    "side_by_side": lambda kernel: side_by_side.apply(kernel, ROOMY, COSTS),
    "depth": lambda kernel: depth.apply(kernel, ROOMY),
}


def given(seed):
    random = np.random.default_rng(seed)
    return random.standard_normal((TILES, ROWS, COLUMNS)).astype(np.float32)


def values(recorded, seed):
    (result,) = interpret.run(recorded, given(seed))
    return result


@pytest.mark.parametrize("seed", range(4))
def test_every_pass_alone_and_all_in_turn_keep_every_bit(seed):
    recorded = Tree(seed).recorded
    expected = values(recorded, seed)
    for name, apply in PASSES.items():
        result, _ = apply(recorded)
        np.testing.assert_array_equal(values(result, seed), expected, name)
    for name, apply in PASSES.items():
        recorded, _ = apply(recorded)
        np.testing.assert_array_equal(values(recorded, seed), expected, f"... {name}")
