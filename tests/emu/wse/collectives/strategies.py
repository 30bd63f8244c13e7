"""Random lines for formulas: wafers, lengths, and when each PE could start."""

from hypothesis import strategies as st

from emu.wse import WSE2, WSE3

SHEETS = st.sampled_from([WSE2, WSE3])


WORDS = st.sampled_from([1, 2, 3, 7, 8, 14, 15, 23, 40, 71])


@st.composite
def skews(draw: st.DrawFn, least: int = 1) -> list[int]:
    """When each PE could start: together, or far apart, so that queues fill up."""
    most = draw(st.sampled_from([0, 40, 400]))
    return draw(st.lists(st.integers(0, most), min_size=least, max_size=10))
