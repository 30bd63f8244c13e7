"""Attention masks in FlexAttention's convention: `mask(b, h, q, k)` of global token positions.

A mask says whether query `q` may attend to key `k`. It takes integer scalars, or integer arrays
of one shape, and is made of plain operators, so it can be called on numbers, vectorised and
traced. Positions are never negative. Names and meanings follow FlexAttention's `mask_mod`
(PyTorch documentation of `torch.nn.attention.flex_attention`) and its catalogue attention-gym.

```python
def mine(b, h, q, k):  # four sinks and a causal window
    return (k <= q) & ((q - k < 4096) | (k < 4))
```
"""

from collections.abc import Callable, Sequence
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from emu import given
from kernels.refusal import refuse

Positions: TypeAlias = jax.Array | np.ndarray | np.integer | int
"""A batch, head or token index, or many of one shape."""

Allowed: TypeAlias = jax.Array | np.ndarray | np.bool_ | bool
"""Whether a query may attend to a key, or whether each of many may."""

Mask: TypeAlias = Callable[[Positions, Positions, Positions, Positions], Allowed]
"""`mask(b, h, q, k)`: batch, head, query and key."""


def full(b: Positions, h: Positions, q: Positions, k: Positions) -> Allowed:
    """Every query attends to every key."""
    # Not just True: of arrays the answer must have their shape.
    return (q >= 0) & (k >= 0)


def causal(b: Positions, h: Positions, q: Positions, k: Positions) -> Allowed:
    """A query attends to itself and to what came before."""
    return k <= q


def block_causal(size: int) -> Mask:
    """Causal between blocks of `size` tokens, full inside one."""
    size = _positive("block_causal: size", size)

    def mask(b: Positions, h: Positions, q: Positions, k: Positions) -> Allowed:
        # With 4 tokens a block query 5 sees all that came before, and keys 6 and 7 of its own block
        # too.
        return k // size <= q // size

    return _named(f"block_causal({size})", mask)


def window(size: int) -> Mask:
    """The last `size` tokens, itself included (Mistral's sliding window)."""
    size = _positive("window: size", size)

    def mask(b: Positions, h: Positions, q: Positions, k: Positions) -> Allowed:
        return (k <= q) & (q - k < size)

    return _named(f"window({size})", mask)


def sinks(count: int, size: int) -> Mask:
    """The last `size` tokens and the first `count` of the sequence (StreamingLLM)."""
    size = _positive("sinks: size", size)

    def mask(b: Positions, h: Positions, q: Positions, k: Positions) -> Allowed:
        # Sinks stay visible when the window has moved on; dropping them is what breaks long
        # generation.
        near_or_sink = (q - k < size) | (k < count)
        return (k <= q) & near_or_sink

    return _named(f"sinks({count}, {size})", mask)


def prefix(length: int) -> Mask:
    """Prefix LM: everyone sees the first `length` tokens, the rest is causal."""

    def mask(b: Positions, h: Positions, q: Positions, k: Positions) -> Allowed:
        return (k < length) | (k <= q)

    return _named(f"prefix({length})", mask)


def chunked(size: int) -> Mask:
    """Causal inside chunks of `size` tokens (Llama 4's local layers)."""
    size = _positive("chunked: size", size)

    def mask(b: Positions, h: Positions, q: Positions, k: Positions) -> Allowed:
        return (k <= q) & (q // size == k // size)

    return _named(f"chunked({size})", mask)


def dilated(step: int) -> Mask:
    """Every `step`-th token back from the query, itself included."""
    step = _positive("dilated: step", step)

    def mask(b: Positions, h: Positions, q: Positions, k: Positions) -> Allowed:
        # Behind `k <= q` the difference is never negative, so it does not matter how `%` rounds.
        return (k <= q) & ((q - k) % step == 0)

    return _named(f"dilated({step})", mask)


def documents(lengths: Sequence[int]) -> Mask:
    """Packed documents, causal within each.

    Args:
      lengths: tokens of each document, in order. Tokens after the last one belong to none: they
        attend to nothing and nothing attends to them.
    """
    count = len(lengths)
    total = sum(_positive("documents: a length", length) for length in lengths)
    numbers = np.repeat(np.arange(count), lengths)
    # One more entry, of the number that no document has, stands for all tokens beyond: lengths
    # 3 and 2 make 0 0 0 1 1 2, of which every position from 5 on reads the 2.
    table = np.append(numbers, count).astype(np.int32)

    def document(position: Positions) -> jax.Array:
        return jnp.asarray(table)[jnp.minimum(position, total)]

    def mask(b: Positions, h: Positions, q: Positions, k: Positions) -> Allowed:
        of_q = document(q)
        of_k = document(k)
        # Tokens beyond the last document share its follower's number; without the last term they
        # would attend to each other.
        return (k <= q) & (of_q == of_k) & (of_q < count)

    return _named(f"documents({count} of {total} tokens)", mask)


def both(*masks: Mask) -> Mask:
    """Pairs that every mask allows."""
    first, *others = masks

    def mask(b: Positions, h: Positions, q: Positions, k: Positions) -> Allowed:
        # Starts from a mask, not from True, so that the answer has its type and shape.
        allowed = first(b, h, q, k)
        for other in others:
            allowed = allowed & other(b, h, q, k)
        return allowed

    return _named(f"both({_names(masks)})", mask)


def either(*masks: Mask) -> Mask:
    """Pairs that any mask allows."""
    first, *others = masks

    def mask(b: Positions, h: Positions, q: Positions, k: Positions) -> Allowed:
        allowed = first(b, h, q, k)
        for other in others:
            allowed = allowed | other(b, h, q, k)
        return allowed

    return _named(f"either({_names(masks)})", mask)


def negate(mask: Mask) -> Mask:
    """Pairs that `mask` forbids."""

    def forbidden(b: Positions, h: Positions, q: Positions, k: Positions) -> Allowed:
        # On plain numbers a mask gives Python's True, of which `~` makes −2: true again.
        return jnp.logical_not(mask(b, h, q, k))

    return _named(f"negate({name(mask)})", forbidden)


def name(mask: Mask) -> str:
    """A readable name of any mask."""
    return getattr(mask, "__name__", type(mask).__name__)


def _names(masks: Sequence[Mask]) -> str:
    return ", ".join(name(mask) for mask in masks)


def _named(name: str, mask: Mask) -> Mask:
    mask.__name__ = mask.__qualname__ = name
    return mask


def _positive(what: str, size: int) -> int:
    if not given.is_whole(size, 1):
        refuse(f"{what} is {given.told(size)}, must be {given.whole_number(1)}")
    return int(size)
