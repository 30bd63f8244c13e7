"""Ring attention: queries stay, keys and values travel the ring while the last ones are used.

Contiguous placement: chip c holds tokens `[c · n, (c + 1) · n)`. At ring step r a chip has the
keys of chip `c - r`, so causally only chips with `c ≥ r` have work; the others pass the data on.
Keys and values are sent once for all query heads of a group, and not at all on the last step.
"""

import functools
from typing import Any

from jax import lax

from emu.trainium.memory import hbm
from emu.trainium.neuronlink import send_next
from kernels.trainium.attention import attend_block, empty_state, finish
from kernels.trainium.tiling import LayerTiling


def ring_attention(q: Any, k: Any, v: Any, s: LayerTiling, *, chips: int, axis: str) -> Any:
    """Causal attention of tokens spread over a ring of chips.

    Args:
      q: HBM `[token tiles, heads, head_dim, rows]` of this chip.
      k: HBM `[token tiles, kv_heads, head_dim, rows]`.
      v: HBM `[token tiles, rows, kv_heads · head_dim]`.
      s: sizes.
      chips: size of the ring.
      axis: mesh axis of the ring.

    Returns:
      HBM `[heads, token tiles, head_dim, rows]`.

    Pseudocode:
      for r in range(chips): send k, v on (not last); if me ≥ r: attend(q, k, v); take what arrived
    """
    me = lax.axis_index(axis)
    state, held = empty_state(s), (k, v)
    landing = [tuple(hbm(*x.shape, dtype=x.dtype) for x in held) for _ in range(min(2, chips - 1))]

    def skip(q: Any, k: Any, v: Any, state: Any) -> Any:
        return state

    for r in range(chips):
        arriving = held
        if r < chips - 1:
            slot = r % 2
            arriving = tuple(
                send_next(d, x, axis=axis) for d, x in zip(landing[slot], held, strict=True)
            )
            landing[slot] = arriving
        if r == 0:
            state = attend_block(q, k, v, state, s, diagonal=True, first=True, last=chips == 1)
        else:
            use = functools.partial(
                attend_block, s=s, diagonal=False, first=False, last=r == chips - 1
            )
            state = lax.cond(me >= r, use, skip, q, *held, state)
        held = arriving
    return finish(state, s)
