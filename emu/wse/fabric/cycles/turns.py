"""Whose turn it is, of several that want the same: theirs who were served longest ago.

Of each color (or thread) it is kept when it was last served, at each PE. Only the order matters, so
a byte tells it: a clock that counts from `FIRST` on and, every `STRETCH` cycles, begins anew, when
all times so far become ranks below `FIRST` (`ranked`). Of those never served, and of those served
in one cycle, the one of the lowest number goes first.

    time of    red   green   blue
    cycle 0      0      0      0    red's turn, then green's
    served      32     33      0    blue's turn, then red's
    ranks        1      2      0    still
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax

from emu.wse.fabric.cycles import sets
from emu.wse.fabric.cycles.rows import PerPE, Rows, zeros

FIRST = 32
"""More than there are ranks: colors are bits of 32."""
STRETCH = 196
"""Cycles after which the clock begins anew; a byte holds 27 more."""
LATER = jnp.iinfo(jnp.uint8).max


def nobody(count: int, pes: int) -> Rows:
    """`uint8[count, PEs]`, when each was last served, before the first cycle."""
    return zeros(count, pes, jnp.uint8)


def losers(contests: Sequence[PerPE], served: Rows) -> PerPE:
    """Those that want something for which another one goes before them.

    It is who wants that counts, not who wins. Say red meets blue and blue meets green, last served
    in cycles 3, 5 and 8: red goes, blue loses to red, and green loses to blue though blue does not
    go.

    Args:
      contests: for each thing the set of those that want it.
      served: when each was last served.
    """
    met = [sets.where(sets.several(wants), wants) for wants in contests]

    def settled(met: list[PerPE]) -> PerPE:
        return sets.union([wants & ~_first(wants, served) for wants in met])

    def nobody_meets(met: list[PerPE]) -> PerPE:
        return jnp.zeros_like(met[0])

    # In most cycles nobody meets anybody, which one look at all tells.
    meeting = sets.anywhere(sets.union(met))
    return lax.cond(meeting != 0, settled, nobody_meets, met)


def _first(wants: PerPE, served: Rows) -> PerPE:
    """Of each PE's set the one that was served longest ago; none of an empty one."""
    first = jnp.zeros_like(wants)
    longest = jnp.full(wants.shape, LATER, jnp.uint8)
    # From the lowest number on, so that of equals the first one stays.
    for number, last in enumerate(served):
        bit = wants.dtype.type(1 << number)
        better = sets.some(wants & bit) & (last < longest)
        first = jnp.where(better, bit, first)
        longest = jnp.where(better, last, longest)
    return first


def after(served: Rows, who: PerPE, now: jax.Array) -> Rows:
    """When each was last served, once those in `who` have been in cycle `now`."""
    time = (now % STRETCH + FIRST).astype(jnp.uint8)
    return Rows(
        jnp.where(sets.some(who & who.dtype.type(1 << number)), time, last)
        for number, last in enumerate(served)
    )


def ranked(served: Rows) -> Rows:
    """The same order in ranks: how many were served before each."""
    return Rows(
        Rows((other < last).astype(jnp.uint8) for other in served).sum()
        for last in served
    )


__all__ = ["STRETCH", "after", "losers", "nobody", "ranked"]
