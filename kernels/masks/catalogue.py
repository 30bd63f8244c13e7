"""Attention masks in FlexAttention's convention: `mask(b, h, q, k)` of global token positions.

A mask says whether query `q` may attend to key `k`. It takes integer scalars, or integer arrays
of one shape, and is made of plain operators, so it can be called on numbers, vectorised and
traced. Positions are never negative. Names and meanings follow FlexAttention's `mask_mod`
(PyTorch documentation of `torch.nn.attention.flex_attention`) and its catalogue attention-gym.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

Mask = Callable[[Any, Any, Any, Any], Any]


def _named(name: str, mask: Mask) -> Mask:
    mask.__name__ = mask.__qualname__ = name
    return mask


def _positive(what: str, n: int) -> int:
    if n < 1:
        raise ValueError(f"{what} is at least 1, not {n}")
    return int(n)


def full(b: Any, h: Any, q: Any, k: Any) -> Any:
    """Every query attends to every key."""
    return (q >= 0) & (k >= 0)


def causal(b: Any, h: Any, q: Any, k: Any) -> Any:
    """A query attends to itself and to what came before."""
    return k <= q


def block_causal(size: int) -> Mask:
    """Causal between blocks of `size` tokens, full inside one."""
    size = _positive("block_causal: size", size)
    return _named(f"block_causal({size})", lambda b, h, q, k: k // size <= q // size)


def window(size: int) -> Mask:
    """The last `size` tokens, itself included (Mistral's sliding window)."""
    size = _positive("window: size", size)
    return _named(f"window({size})", lambda b, h, q, k: (k <= q) & (q - k < size))


def sinks(count: int, size: int) -> Mask:
    """The last `size` tokens and the first `count` of the sequence (StreamingLLM)."""
    size = _positive("sinks: size", size)
    return _named(
        f"sinks({count}, {size})",
        lambda b, h, q, k: (k <= q) & ((q - k < size) | (k < count)),
    )


def prefix(length: int) -> Mask:
    """Prefix LM: everyone sees the first `length` tokens, the rest is causal."""
    return _named(f"prefix({length})", lambda b, h, q, k: (k < length) | (k <= q))


def chunked(size: int) -> Mask:
    """Causal inside chunks of `size` tokens (Llama 4's local layers)."""
    size = _positive("chunked: size", size)
    return _named(
        f"chunked({size})", lambda b, h, q, k: (k <= q) & (q // size == k // size)
    )


def dilated(step: int) -> Mask:
    """Every `step`-th token back from the query, itself included."""
    step = _positive("dilated: step", step)
    return _named(
        f"dilated({step})", lambda b, h, q, k: (k <= q) & ((q - k) % step == 0)
    )


def documents(lengths: Sequence[int]) -> Mask:
    """Packed documents, causal within each.

    Args:
      lengths: tokens of each document, in order. Tokens after the last one belong to none: they
        attend to nothing and nothing attends to them.
    """
    ends = np.cumsum([0, *(_positive("documents: a length", n) for n in lengths)])
    total = int(ends[-1])
    count = len(lengths)
    table = np.append(np.repeat(np.arange(count), lengths), count).astype(np.int32)

    def mask(b: Any, h: Any, q: Any, k: Any) -> Any:
        of_q, of_k = (jnp.asarray(table)[jnp.minimum(x, total)] for x in (q, k))
        return (k <= q) & (of_q == of_k) & (of_q < count)

    return _named(f"documents({count} of {total} tokens)", mask)


def both(*masks: Mask) -> Mask:
    """Pairs that every mask allows."""

    def mask(b: Any, h: Any, q: Any, k: Any) -> Any:
        allowed = masks[0](b, h, q, k)
        for other in masks[1:]:
            allowed = allowed & other(b, h, q, k)
        return allowed

    return _named(f"both({', '.join(name(m) for m in masks)})", mask)


def either(*masks: Mask) -> Mask:
    """Pairs that any mask allows."""

    def mask(b: Any, h: Any, q: Any, k: Any) -> Any:
        allowed = masks[0](b, h, q, k)
        for other in masks[1:]:
            allowed = allowed | other(b, h, q, k)
        return allowed

    return _named(f"either({', '.join(name(m) for m in masks)})", mask)


def negate(mask: Mask) -> Mask:
    """Pairs that `mask` forbids."""
    return _named(
        f"negate({name(mask)})", lambda b, h, q, k: jnp.logical_not(mask(b, h, q, k))
    )


def name(mask: Mask) -> str:
    """A readable name of any mask."""
    return getattr(mask, "__name__", type(mask).__name__)
