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


def name(mask: Mask) -> str:
    """A readable name of any mask."""
    return getattr(mask, "__name__", type(mask).__name__)


class NamedMask:
    """A mask with a name, which composes: `window(4096) & ~prefix(16) | causal`.

    Args:
      name: in errors and reports.
      mask: the function.
    """

    def __init__(self, name: str, mask: Mask):
        # As functions have them, so that a mask is known by its name whatever it is.
        self.__name__ = self.__qualname__ = name
        self.__doc__ = mask.__doc__
        self.__wrapped__ = mask

    def __call__(
        self, b: Positions, h: Positions, q: Positions, k: Positions
    ) -> Allowed:
        return self.__wrapped__(b, h, q, k)

    def __and__(self, other: Mask) -> "NamedMask":
        return and_masks(self, other)

    def __rand__(self, other: Mask) -> "NamedMask":
        return and_masks(other, self)

    def __or__(self, other: Mask) -> "NamedMask":
        return or_masks(self, other)

    def __ror__(self, other: Mask) -> "NamedMask":
        return or_masks(other, self)

    def __invert__(self) -> "NamedMask":
        return negate(self)

    def __repr__(self) -> str:
        return f"<mask {self.__name__}>"


def named(mask: Mask) -> NamedMask:
    """A mask of its own name, as a decorator of a function."""
    return NamedMask(name(mask), mask)


@named
def full(b: Positions, h: Positions, q: Positions, k: Positions) -> Allowed:
    """Every query attends to every key."""
    # Not just True: of arrays the answer must have their shape.
    return (q >= 0) & (k >= 0)


@named
def causal(b: Positions, h: Positions, q: Positions, k: Positions) -> Allowed:
    """A query attends to itself and to what came before."""
    return k <= q


def block_causal(size: int) -> NamedMask:
    """Causal between blocks of `size` tokens, full inside one."""
    size = _positive("block_causal: size", size)

    def mask(b: Positions, h: Positions, q: Positions, k: Positions) -> Allowed:
        # With 4 tokens a block query 5 sees all that came before, and keys 6 and 7 of its own block
        # too.
        return k // size <= q // size

    return NamedMask(f"block_causal({size})", mask)


def window(size: int) -> NamedMask:
    """The last `size` tokens, itself included (Mistral's sliding window)."""
    size = _positive("window: size", size)

    def mask(b: Positions, h: Positions, q: Positions, k: Positions) -> Allowed:
        return (k <= q) & (q - k < size)

    return NamedMask(f"window({size})", mask)


def sinks(count: int, size: int) -> NamedMask:
    """The last `size` tokens and the first `count` of the sequence (StreamingLLM)."""
    size = _positive("sinks: size", size)

    def mask(b: Positions, h: Positions, q: Positions, k: Positions) -> Allowed:
        # Sinks stay visible when the window has moved on; dropping them is what breaks long
        # generation.
        near_or_sink = (q - k < size) | (k < count)
        return (k <= q) & near_or_sink

    return NamedMask(f"sinks({count}, {size})", mask)


def prefix(length: int) -> NamedMask:
    """Prefix LM: everyone sees the first `length` tokens, the rest is causal."""

    def mask(b: Positions, h: Positions, q: Positions, k: Positions) -> Allowed:
        return (k < length) | (k <= q)

    return NamedMask(f"prefix({length})", mask)


def chunked(size: int) -> NamedMask:
    """Causal inside chunks of `size` tokens (Llama 4's local layers)."""
    size = _positive("chunked: size", size)

    def mask(b: Positions, h: Positions, q: Positions, k: Positions) -> Allowed:
        return (k <= q) & (q // size == k // size)

    return NamedMask(f"chunked({size})", mask)


def dilated(step: int) -> NamedMask:
    """Every `step`-th token back from the query, itself included."""
    step = _positive("dilated: step", step)

    def mask(b: Positions, h: Positions, q: Positions, k: Positions) -> Allowed:
        # Behind `k <= q` the difference is never negative, so it does not matter how `%` rounds.
        return (k <= q) & ((q - k) % step == 0)

    return NamedMask(f"dilated({step})", mask)


def documents(lengths: Sequence[int]) -> NamedMask:
    """Packed documents, causal within each.

    Args:
      lengths: tokens of each document, in order. Tokens after the last one belong to none: they
        attend to nothing and nothing attends to them.
    """
    known = [_positive("documents: a length", length) for length in lengths]
    bounds = np.concatenate([[0], np.cumsum(known)]).astype(np.int32)

    def mask(b: Positions, h: Positions, q: Positions, k: Positions) -> Allowed:
        return (k <= q) & _in_one_sequence(bounds, q, k)

    return NamedMask(f"documents({len(known)} of {bounds[-1]} tokens)", mask)


def packed(cu_seqlens: Sequence[int] | np.ndarray, mask: Mask = causal) -> NamedMask:
    """Packed sequences, each with a mask of its own positions, which begin at 0 in each.

    Args:
      cu_seqlens: where each sequence begins, and where the last one ends: 0, 3, 5 for sequences of
        three tokens and of two, as FlashAttention's variable lengths. Tokens after the last one
        attend to nothing.
      mask: within a sequence.
    """
    bounds = bounds_of(cu_seqlens)

    def inside(b: Positions, h: Positions, q: Positions, k: Positions) -> Allowed:
        begin = jnp.asarray(bounds)[sequence_of(bounds, q)]
        allowed = mask(b, h, q - begin, k - begin)
        return _in_one_sequence(bounds, q, k) & allowed

    count = len(bounds) - 1
    return NamedMask(f"packed({count} of {bounds[-1]} tokens, {name(mask)})", inside)


def and_masks(*masks: Mask) -> NamedMask:
    """Pairs that every mask allows; `a & b` for two."""
    first, *others = masks

    def mask(b: Positions, h: Positions, q: Positions, k: Positions) -> Allowed:
        # Starts from a mask, not from True, so that the answer has its type and shape.
        allowed = first(b, h, q, k)
        for other in others:
            allowed = allowed & other(b, h, q, k)
        return allowed

    return NamedMask(" & ".join(map(_as_operand, masks)), mask)


def or_masks(*masks: Mask) -> NamedMask:
    """Pairs that any mask allows; `a | b` for two."""
    first, *others = masks

    def mask(b: Positions, h: Positions, q: Positions, k: Positions) -> Allowed:
        allowed = first(b, h, q, k)
        for other in others:
            allowed = allowed | other(b, h, q, k)
        return allowed

    return NamedMask(" | ".join(map(_as_operand, masks)), mask)


def negate(mask: Mask) -> NamedMask:
    """Pairs that `mask` forbids; `~mask`."""

    def forbidden(b: Positions, h: Positions, q: Positions, k: Positions) -> Allowed:
        # On plain numbers a mask gives Python's True, of which `~` makes −2: true again.
        return jnp.logical_not(mask(b, h, q, k))

    return NamedMask(f"~{_as_operand(mask)}", forbidden)


def _as_operand(mask: Mask) -> str:
    """The name within an expression."""
    found = name(mask)
    is_compound = " & " in found or " | " in found
    return f"({found})" if is_compound else found


def sequence_of(bounds: np.ndarray, position: Positions) -> jax.Array:
    """The number of the packed sequence in which a position lies.

    Args:
      bounds: as `bounds_of` gives them; positions beyond the last one have the number of a sequence
        more.
      position: in all of them together.
    """
    count = len(bounds) - 1
    numbers = np.repeat(np.arange(count), np.diff(bounds))
    # One more entry, of the number that no sequence has, stands for all tokens beyond: lengths
    # 3 and 2 make 0 0 0 1 1 2, of which every position from 5 on reads the 2.
    table = np.append(numbers, count).astype(np.int32)
    total = int(bounds[-1])
    return jnp.asarray(table)[jnp.minimum(position, total)]


def _in_one_sequence(bounds: np.ndarray, q: Positions, k: Positions) -> Allowed:
    of_q = sequence_of(bounds, q)
    of_k = sequence_of(bounds, k)
    # Tokens beyond the last sequence share its follower's number; without the last term they
    # would attend to each other.
    return (of_q == of_k) & (of_q < len(bounds) - 1)


def bounds_of(cu_seqlens: Sequence[int] | np.ndarray) -> np.ndarray:
    """Where packed sequences begin, and where the last one ends, int32 `[sequences + 1]`.

    Raises:
      LimitExceeded: no whole numbers that begin with 0 and never decrease.
    """
    bounds = np.asarray(cu_seqlens)
    is_list = bounds.ndim == 1 and len(bounds) > 1 and bounds.dtype.kind in "iu"
    if not is_list or bounds[0] != 0 or np.any(np.diff(bounds) < 0):
        refuse(
            f"packed: cu_seqlens is {given.told(cu_seqlens)}, must be whole numbers that begin "
            "with 0 and never decrease"
        )
    return bounds.astype(np.int32)


def _positive(what: str, size: int) -> int:
    if not given.is_whole(size, 1):
        refuse(f"{what} is {given.told(size)}, must be {given.whole_number(1)}")
    return int(size)
