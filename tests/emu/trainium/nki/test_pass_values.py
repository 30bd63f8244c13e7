"""Passes of the compiled reading compute what the kernel does, bit for bit."""

import dataclasses

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
from emu.trainium.nki.passes.rewrite import copied, operations, with_body
from tests.emu.trainium.nki.random_trees import (
    COLUMNS,
    COPIES,
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
    "spill": lambda kernel: spill.apply(kernel, NARROW, LOAD, STORE, COPIES),
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


def in_psum(recorded):
    """The kernel with every tile in PSUM that no DMA touches."""
    accesses = [
        (op, each) for op, _ in operations(recorded.body) for each in op.accesses
    ]
    by_dma = {each.tensor for op, each in accesses if op.choice.engine == "dma"}
    moved = {
        each.tensor: dataclasses.replace(each.tensor, space="psum")
        for _, each in accesses
        if each.space == "sbuf" and each.tensor not in by_dma
    }

    def accessed(access):
        tensor = moved.get(access.tensor, access.tensor)
        return dataclasses.replace(access, tensor=tensor)

    return with_body(recorded, copied(recorded.body, accessed=accessed))


@pytest.mark.parametrize("seed", [0, 2, 4, 6, 7])
def test_what_is_copied_out_of_psum_keeps_every_bit(seed):
    recorded = in_psum(Tree(seed, size=14).recorded)
    expected = values(recorded, seed)
    taken = Memory(0, 0).excess(recorded.body, "psum")
    for nbytes in (taken // 2, 4 * COLUMNS):
        narrow = Memory(192 * 1024, nbytes)
        result, _ = spill.apply(recorded, narrow, LOAD, STORE, COPIES)
        np.testing.assert_array_equal(values(result, seed), expected, f"{nbytes}")
        left = narrow.excess(result.body, "psum")
        assert left <= max(0, narrow.excess(recorded.body, "psum"))
