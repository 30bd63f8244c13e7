"""Whose turn it is, of several that want the same: theirs who were served longest ago.

When each was served does not matter, only in which order. So each color (or thread) has the set of
those that go before it, as bits; of those served in one cycle the one of the lowest number does. Of
colors 0, 1 and 2, which nobody has served yet, color 2 lets 0 and 1 go first, 0b011:

    before   0b000   0b001   0b011
    1 goes   0b000   0b101   0b001     color 1 lets both others go first, and they no longer it
    0 and 2  0b010   0b000   0b011     served in one cycle: color 2 lets 0 go first
"""

import functools
import operator
from collections.abc import Mapping, Sequence
from typing import TypeAlias

import jax.numpy as jnp
from jax import lax

from emu.annotations import DType
from emu.wse.fabric.cycles.rows import PerPE, Rows


def mask_dtype(count: int) -> DType:
    """The smallest dtype with a bit for each of so many."""
    for dtype in (jnp.uint8, jnp.uint16):
        if count <= jnp.iinfo(dtype).bits:
            return dtype
    return jnp.uint32


def in_order(count: int, pes: int) -> Rows:
    """The sets of those that go first where nobody was served: all of lower numbers."""
    dtype = mask_dtype(count)
    return Rows(jnp.full(pes, _lower(number), dtype) for number in range(count))


def as_set(flags: Sequence[PerPE]) -> PerPE:
    """`bool[PEs]` of each number as the set of those that are true."""
    dtype = mask_dtype(len(flags))
    bits = [flag.astype(dtype) << number for number, flag in enumerate(flags)]
    return functools.reduce(operator.or_, bits)


Pairs: TypeAlias = Mapping[tuple[int, int], PerPE]
"""Where two of them want the same, by their numbers."""


def settled(wants: Sequence[PerPE], pairs: Pairs, ahead: Rows) -> Rows:
    """Those that want and whom no rival goes before.

    It is who wants that counts, not who wins. Say red meets blue and blue meets green, last served
    in cycles 3, 5 and 8: red goes, blue loses to red, and green loses to blue though blue does not
    go.

    Args:
      wants: who does.
      pairs: who meets.
      ahead: for each the set of those that go before it.
    """

    def first() -> list[PerPE]:
        dtype = mask_dtype(len(wants))
        rivals = [jnp.zeros_like(before) for before in ahead]
        for (one, other), meet in pairs.items():
            bit = meet.astype(dtype)
            rivals[one] = rivals[one] | bit << other
            rivals[other] = rivals[other] | bit << one
        rows = zip(wants, rivals, ahead, strict=True)
        return [want & ((rival & before) == 0) for want, rival, before in rows]

    # In most cycles nobody meets anybody, which one look at all pairs tells.
    anywhere = functools.reduce(operator.or_, pairs.values())
    return Rows(lax.cond(anywhere.any(), first, lambda: list(wants)))


def after(ahead: Rows, served: PerPE) -> Rows:
    """The sets once those in `served`, a set itself, have been served."""
    others = ~served
    rows: list[PerPE] = []
    for number, before in enumerate(ahead):
        is_served = (served >> number & 1) != 0
        # Who was not served in this cycle was so before it, or never.
        lower = jnp.array(_lower(number), served.dtype)
        last = others | served & lower
        rows.append(jnp.where(is_served, last, before & others))
    return Rows(rows)


def _lower(number: int) -> int:
    return (1 << number) - 1


__all__ = ["after", "as_set", "in_order", "mask_dtype", "settled"]
