"""How often each member was in a set, counted over many cycles.

A cycle adds one to many counters. They are kept as `counts.py` keeps numbers, in two storeys so
that few of their bits are touched in most cycles: the lower one is added to the upper one before it
is full, and both to 32-bit totals by `settled` before that is.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jax import lax

from emu.wse.fabric.cycles import counts
from emu.wse.fabric.cycles.counts import Counts
from emu.wse.fabric.cycles.rows import PerPE, only_if

LOWER, UPPER = 7, 255
"""Most that each storey holds, in 3 and 8 bits."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Tally:
    """Counts of all cycles so far.

    Attributes:
      lower, upper: of the latest ones.
      totals: `int32[members, PEs]`, of those before.
    """

    lower: Counts
    upper: Counts
    totals: jax.Array


def nothing(members: int, like: PerPE) -> Tally:
    """Zero, of sets like one."""
    pes = like.shape[0]
    return Tally(
        lower=counts.nothing(LOWER, pes, like.dtype),
        upper=counts.nothing(UPPER, pes, like.dtype),
        totals=jnp.zeros((members, pes), jnp.int32),
    )


def add(tally: Tally, members: PerPE, now: jax.Array) -> Tally:
    """With the sets of cycle `now`, the one after those before; to be `settled` in `UPPER`."""
    lower = counts.plus(tally.lower, [members])

    def full(storeys: tuple[Counts, Counts]) -> tuple[Counts, Counts]:
        lower, upper = storeys
        return lower & 0, counts.plus(upper, list(lower))

    is_full = now % LOWER == LOWER - 1
    lower, upper = only_if(is_full, full, (lower, tally.upper))
    return dataclasses.replace(tally, lower=lower, upper=upper)


def settled(tally: Tally) -> Tally:
    """With all counts in the totals."""
    both = counts.plus(tally.upper, list(tally.lower))

    def one(member: jax.Array, totals: jax.Array) -> jax.Array:
        row = lax.dynamic_index_in_dim(totals, member, keepdims=False)
        for bit, members in enumerate(both):
            its = members >> member.astype(members.dtype) & 1
            row = row + (its.astype(jnp.int32) << bit)
        return lax.dynamic_update_slice(totals, row[None], (member, jnp.int32(0)))

    totals = lax.fori_loop(0, len(tally.totals), one, tally.totals)
    return Tally(lower=tally.lower & 0, upper=tally.upper & 0, totals=totals)


__all__ = ["Tally", "add", "nothing", "settled"]
