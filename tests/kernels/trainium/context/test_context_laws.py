"""Laws of ring attention on the clock: less work, less to wait for and faster links never cost.

Key tiles of 128 in four to a rank: less of a mask saves time only where it saves whole tiles. A
tile that it cuts costs more than a whole one, by the load of its mask and the addition.
"""

import dataclasses
import functools

import jax.numpy as jnp
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emu import Quantity
from emu.trainium.datasheets import TRN2, TRN2_48XLARGE, TRN3, TRN3_GEN2, on_system
from kernels import masks
from kernels.tokens.placement import PLACEMENTS
from tests.kernels.trainium.context.oracle import context

LAW = settings(max_examples=3, derandomize=True, deadline=None)
COLUMNS, TILES = 128, 4  # keys of a key tile, key tiles of a rank
SHEETS = {
    sheet.name + getattr(sheet.system, "name", ""): dataclasses.replace(
        sheet, throttles={}
    )
    for sheet in (TRN3, on_system(TRN2, TRN2_48XLARGE), on_system(TRN3, TRN3_GEN2))
}


def tokens_of(ranks):
    return ranks * TILES * COLUMNS - 3


def slower_links(sheet, by):
    """The sheet with links `by` times as slow, and as far."""

    def scaled(rate):
        return Quantity(rate.value / by, "derived", "a law's other side")

    hop = Quantity(sheet.link_hop_s.value * by, "derived", "a law's other side")
    sheet = dataclasses.replace(
        sheet, link_hop_s=hop, link_bytes_per_s=scaled(sheet.link_bytes_per_s)
    )
    if sheet.system is None:
        return sheet
    rates = tuple(map(scaled, sheet.system.link_bytes_per_s))
    return dataclasses.replace(
        sheet, system=dataclasses.replace(sheet.system, link_bytes_per_s=rates)
    )


@functools.cache
def clock(name, ranks, placement, mask=masks.causal, links=1, **changes):
    base = dict(
        heads=1, kv_heads=1, lanes=1, head_dim=64, dtype=jnp.bfloat16, columns=COLUMNS
    )
    a = context(
        mask,
        tokens=tokens_of(ranks),
        ranks=ranks,
        placement=placement,
        **base,
        **changes,
    )
    return a.read(slower_links(SHEETS[name], links).at())


def ticks(*case, **changes):
    return clock(*case, **changes).end_ticks


names = st.sampled_from(sorted(SHEETS))
cases = st.tuples(names, st.sampled_from([1, 3, 4]), st.sampled_from(PLACEMENTS))
SLOW = 1000  # links that are not hidden behind the computation at these sizes


@LAW
@given(cases, st.sampled_from([3, 8]))
def test_less_of_a_mask_is_never_slower(case, part):
    narrow = masks.window(tokens_of(case[1]) // part)
    assert ticks(*case, mask=narrow) <= ticks(*case) <= ticks(*case, mask=masks.full)


@pytest.mark.parametrize("name", SHEETS)
def test_one_rank_uses_no_link(name):
    one = clock(name, 1, "contiguous")
    assert "link_bytes" not in one.tally.by("other")
    assert not one.most_busy_ticks.get("neuronlink")


@LAW
@given(cases, st.sampled_from([1, SLOW]))
def test_overlap_is_never_slower(case, links):
    assert ticks(*case, links=links) <= ticks(*case, links=links, overlap=False)


def test_overlap_hides_computation_behind_a_slow_link():
    case = (TRN3.name, 4, "zigzag")
    together, apart = (ticks(*case, links=SLOW, overlap=x) for x in (True, False))
    assert ticks(*case) < together < apart


@LAW
@given(names, st.integers(4, 5), st.sampled_from(PLACEMENTS[1:]))
def test_balanced_causal_is_never_slower_than_contiguous(name, ranks, placement):
    """From four ranks and tiles on: one tile in four that is cut, and the last rank has others."""
    assert ticks(name, ranks, placement) <= ticks(name, ranks, "contiguous")


@LAW
@given(cases)
def test_one_program_for_all_ranks_is_never_faster(case):
    assert ticks(*case) <= ticks(*case, static_program=True)


@LAW
@given(cases, st.sampled_from([2, 30]), st.sampled_from([1, 30]), st.booleans())
def test_a_faster_link_is_never_slower(case, by, links, overlap):
    quick, slow = (ticks(*case, links=x, overlap=overlap) for x in (links, links * by))
    assert quick <= slow
