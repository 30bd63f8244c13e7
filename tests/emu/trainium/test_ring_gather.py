"""The ring all-gather: whose tile arrives when, and a clock of 256 ranks in no time."""

import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from emu import Program
from emu.trainium.datasheets import TRN2, TRN2_48XLARGE, TRN3, TRN3_GEN2, on_system
from tests.emu.trainium.ring_gather import ring_gather
from tests.helpers import same_clock

US = 4800  # ticks


def ring(ranks):
    return Program(lambda x: ring_gather(x, axis="ring"), {"ring": ranks}, (("ring",),))


def tiles(ranks):
    return np.random.default_rng(0).standard_normal((ranks, 4, 3)).astype(np.float32)


def expected_of(x):
    """Of the rank before, and of those before it, nearest first."""
    n = len(x)
    others = [np.stack([x[(i - 2 - r) % n] for r in range(n - 2)]) for i in range(n)]
    return np.roll(x, 1, 0), np.stack(others)


def assert_values(run, ranks):
    x = tiles(ranks)
    for actual, expected in zip(run(jnp.asarray(x)), expected_of(x), strict=True):
        np.testing.assert_array_equal(actual, expected)


@pytest.mark.parametrize("ranks", [2, 3, 8])
def test_values(ranks):
    if ranks > 2:
        assert_values(ring(ranks).run, ranks)
    else:
        first, others = ring(2).run(jnp.asarray(tiles(2)))
        np.testing.assert_array_equal(first, tiles(2)[::-1])
        assert others.shape == (2, 0, 4, 3)


def test_values_under_shard_map():
    assert_values(ring(8).sharded(check_vma=True), 8)


@pytest.mark.parametrize("jump", [True, False])
def test_256_ranks_by_hand(jump):
    """255 steps of a hop and 1,280,000 B at 1.28 TB/s, 2.5 us each; in 0.5 CPU s."""
    begun = time.process_time()
    clock = ring(256).read(
        TRN3.at(), jax.ShapeDtypeStruct((256, 1_280_000), jnp.int8), jump=jump
    )
    assert time.process_time() - begun < 0.5
    assert clock.end_ticks == 255 * 2.5 * US and not clock.unjumped
    assert clock.tally.by("other") == {"link_bytes": 256 * 255 * 1_280_000}
    steps = clock.outputs[1].steps
    assert steps is not None and len(steps) == 254
    assert all(np.all(t == (r + 2) * 2.5 * US) for r, t in enumerate(steps))


@pytest.mark.parametrize("sheet, system", [(TRN2, TRN2_48XLARGE), (TRN3, TRN3_GEN2)])
def test_jumped_as_stepped(sheet, system):
    """Where links differ, the slower ones' pace has to go around before the schedule repeats."""
    ranks, device = system.chips, on_system(sheet, system).at()
    x = jax.ShapeDtypeStruct((ranks, 128, 512), jnp.float32)
    same_clock(*(ring(ranks).read(device, x, jump=jump) for jump in (True, False)))
