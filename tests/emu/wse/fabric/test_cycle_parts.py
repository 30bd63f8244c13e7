"""What a stepped cycle is made of: numbers as bits, turns and tallies, against plain arithmetic."""

import jax.numpy as jnp
import numpy as np
import pytest

from emu.wse.fabric.cycles import counts, sets, tally, turns
from emu.wse.fabric.cycles.rows import Rows

PES = 200


@pytest.mark.parametrize("colors", [3, 8, 9, 21])
def test_numbers_as_bits_add_and_subtract(colors: int) -> None:
    rng = np.random.default_rng(colors)
    before = rng.integers(3, 8, (colors, PES))
    more = rng.integers(0, 4, (colors, PES))
    packed, added = counts.packed(before, 15), counts.packed(more, 3)
    assert packed[0].dtype == sets.dtype_for(colors)

    def numbers(found: counts.Counts) -> np.ndarray:
        return counts.unpacked([np.asarray(row) for row in found], colors)

    np.testing.assert_array_equal(numbers(counts.plus(packed, added)), before + more)
    np.testing.assert_array_equal(numbers(counts.minus(packed, added)), before - more)
    fives = sets.unpacked(np.asarray(counts.are(packed, 5)), colors)
    np.testing.assert_array_equal(fives, before == 5)
    color = rng.integers(-1, colors, PES)
    one = sets.only(jnp.asarray(color, jnp.int32), packed[0].dtype)
    of_color = np.where(color >= 0, before[color, np.arange(PES)], 0)
    np.testing.assert_array_equal(counts.at(packed, one), of_color)


@pytest.mark.parametrize("pes", [1, 63, 65, 200, 257])
def test_a_union_over_all_pes_misses_none(pes: int) -> None:
    for at in range(pes):
        members = jnp.zeros(pes, jnp.uint8).at[at].set(4)
        assert int(sets.anywhere(members)) == 4
    assert int(sets.anywhere(jnp.zeros(pes, jnp.uint8))) == 0


def test_turns_are_by_the_last_cycle_served_over_many_stretches() -> None:
    """Of each PE's set the one served longest ago goes, of equals the lowest number."""
    colors, rng = 5, np.random.default_rng(0)
    served = turns.nobody(colors, PES)
    last = np.full((colors, PES), -1)
    for now in range(0, 5 * turns.STRETCH, 7):
        if now % turns.STRETCH < 7:
            served = turns.ranked(served)
        wants = rng.random((colors, PES)) < 0.6
        lost = turns.losers([jnp.asarray(sets.packed(wants))], served)
        order = np.where(wants, last, np.iinfo(np.int64).max)
        first = (np.arange(colors)[:, None] == order.argmin(axis=0)) & wants
        np.testing.assert_array_equal(
            sets.unpacked(np.asarray(lost), colors), wants & ~first
        )
        served = turns.after(served, jnp.asarray(sets.packed(first)), jnp.int32(now))
        last[first] = now


def test_tallies_count_every_cycle() -> None:
    colors, cycles, rng = 4, 40, np.random.default_rng(1)
    happens = rng.random((cycles, colors, PES)) < 0.5
    found = tally.nothing(colors, jnp.zeros(PES, jnp.uint8))
    for now, members in enumerate(happens):
        found = tally.add(found, jnp.asarray(sets.packed(members)), jnp.int32(now))
        if now == cycles // 3:
            found = tally.settled(found)
    assert isinstance(found.upper, Rows)
    np.testing.assert_array_equal(tally.settled(found).totals, happens.sum(axis=0))
