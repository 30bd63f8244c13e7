"""Ring attention of every mask on every placement, against dense attention in float64.

Each number of ranks compiles once; masks and placements are arguments of that program.
"""

import numpy as np
import pytest

from tests.kernels.trainium.context.oracle import (
    EVERY_PLACEMENT,
    FLOAT32,
    FLOAT64,
    MASKS,
    dense,
    errors,
    grid,
    unwrapped,
)

FEW = [("causal", "zigzag"), ("documents", "contiguous")]


def assert_all(ranks, cases, *, exact=False):
    """Returns the largest errors, of outputs and of log-sum-exps."""
    found = {case: grid(ranks).errors(*case, exact=exact) for case in cases}
    bound = FLOAT64 if exact else FLOAT32
    wrong = {case: pair for case, pair in found.items() if max(pair) > bound}
    assert not wrong, (wrong, bound)
    return [max(of_cases) for of_cases in zip(*found.values(), strict=True)]


def every():
    return [(mask, placement) for mask in MASKS for placement in EVERY_PLACEMENT]


def test_every_mask_on_every_placement():
    assert_all(8, every())


def test_large_scores_do_not_overflow():
    """Scores near 1,000 err by float32 roundings of 6e-5, some of each, which exp passes on."""
    q, k, v = grid(8).inputs
    a = grid(8).attention("documents", "striped")
    actual = a.results(grid(8).program.run(*a.arguments(30 * q, 30 * k, v)))
    found = errors(actual, dense(a.mask, 30 * q, 30 * k, v), v)
    assert found[0] <= 1e-3 and found[1] <= FLOAT32, found


def test_shard_map_agrees_with_vmap():
    """On eight devices; to float32 rounding, as XLA may order a batched sum otherwise."""
    arguments = unwrapped(
        grid(8).attention("documents", "zigzag").arguments(*grid(8).inputs)
    )
    sharded = grid(8).program.sharded(check_vma=True)(*arguments)
    within = FLOAT32 * np.abs(grid(8).inputs[2]).max()
    for one, other in zip(sharded, grid(8).program.run(*arguments), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=within)


@pytest.mark.slow
@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("ranks", [1, 2, 3, 4, 5, 6, 7, 8, 16, 64, 144])
def test_everything(ranks, exact):
    assert_all(ranks, every(), exact=exact)


@pytest.mark.optimized
def test_144_ranks():
    assert_all(144, FEW)
