"""Dense float64 attention under any mask, the masks of the tests, and programs that they share."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from emu import Known
from kernels import masks
from kernels.tokens.placement import PLACEMENTS
from kernels.trainium.context.attention import AUTO, ContextAttention
from tests.kernels.trainium.reference import draw, wide

EVERY_PLACEMENT = (*PLACEMENTS, AUTO)

# Scores are of order 1 and sums have at most some thousand terms of random sign, as many roundings
# of 6e-8 each: 2e-6 of the largest value leaves room for about 30 that add up.
FLOAT32 = 2e-6
# Roundings to 8 bits by 2**-9: of queries and keys, of weights, of values, of the output.
BFLOAT16 = 4 * 2**-9
# Roundings of queries, keys, weights and values to 4 bits, by 2**-5 on average; those of many keys
# average out.
FLOAT8 = 2 * 2**-5
FLOAT64 = 1e-12


def masks_of(tokens):
    """Masks by name, of sizes that fit no tile; the last leaves tokens that are of no document."""
    lengths = [max(1, tokens // n) for n in (5, 3, 4)]
    return {
        "full": masks.full,
        "causal": masks.causal,
        "block-causal": masks.block_causal(5),
        "window": masks.window(3),
        "long window": masks.window(tokens // 2 + 1),
        "sinks": masks.sinks(3, 6),
        "prefix": masks.prefix(tokens // 4 + 1),
        "chunked": masks.chunked(tokens // 3 + 1),
        "dilated": masks.dilated(3),
        "documents": masks.documents([*lengths, 1]),
    }


MASKS = tuple(masks_of(9))


def dense(mask, q, k, v):
    """Attention in float64; the queries are the last of the sequence.

    Args:
      mask: on positions in the sequence.
      q: `[queries, heads, head_dim]`.
      k: `[tokens, kv_heads, head_dim]`.
      v: `[tokens, kv_heads, value_dim]`.

    Returns:
      `[queries, heads, value_dim]`, 0 where a row attends to nothing, and log-sum-exp `[queries,
      heads]`, -inf there.
    """
    q, k, v = wide(q), wide(k), wide(v)
    k, v = (np.repeat(x, q.shape[1] // k.shape[1], axis=1) for x in (k, v))
    scores = np.einsum("qhd,khd->hqk", q, k) / np.sqrt(q.shape[-1])
    scores = np.where(allowed(mask, len(q), len(k)), scores, -np.inf)
    highest = scores.max(-1, keepdims=True)
    p = np.exp(scores - np.where(np.isfinite(highest), highest, 0))
    total = p.sum(-1, keepdims=True)
    out = np.einsum("hqk,khd->qhd", p / np.where(total > 0, total, 1), v)
    with np.errstate(divide="ignore"):
        return out, (highest + np.log(total))[..., 0].T


def allowed(mask, queries, tokens):
    """The mask of the last queries and all keys, bool `[queries, tokens]`."""
    q, k = np.mgrid[tokens - queries : tokens, :tokens].astype(np.int32)
    return np.asarray(mask(0, 0, q, k))


def qkv(a):
    """Random queries, keys and values of a `ContextAttention`, in the order of the sequence."""
    shapes = (
        (a.queries or a.tokens, a.heads, a.head_dim),
        (a.tokens, a.kv_heads, a.head_dim),
        (a.tokens, a.kv_heads, a.value_dim or a.head_dim),
    )
    return tuple(draw(n, *shape) for n, shape in enumerate(shapes))


SMALL: dict[str, Any] = dict(
    tokens=61, ranks=4, heads=4, kv_heads=2, head_dim=8, columns=4, lanes=2
)


def context(mask=masks.causal, **sizes: Any):
    """Attention of a few heads and lanes over four ranks, and whatever else is said."""
    return ContextAttention(mask=mask, **(SMALL | sizes))


def errors(actual, expected, v):
    """Largest error of the output over the largest value, and of the log-sum-exp.

    The log-sum-exp is as large as the largest score, and errs by that much; where rows attend to
    nothing, both readings must say so.
    """
    (out, lse), (dense_out, dense_lse) = (map(wide, x) for x in (actual, expected))
    assert out.shape == dense_out.shape and lse.shape == dense_lse.shape
    nothing = np.isneginf(dense_lse)
    np.testing.assert_array_equal(np.isneginf(lse), nothing)
    assert not out[nothing].any()
    lse, dense_lse = (np.where(nothing, 0, x) for x in (lse, dense_lse))
    scale = max(1.0, np.abs(dense_lse).max())
    return np.abs(out - dense_out).max() / np.abs(v).max(), np.abs(
        lse - dense_lse
    ).max() / scale


def assert_attends(a, within=FLOAT32, *, exact=False):
    """Runs attention and compares it with the oracle."""
    q, k, v = qkv(a)
    actual = (a.exact if exact else a.run)(q, k, v)
    found = errors(actual, dense(a.mask, q, k, v), v)
    bound = FLOAT64 if exact else within
    assert max(found) <= bound, (found, bound)


# --- one program for all masks and placements ---


@dataclasses.dataclass(frozen=True)
class Grid:
    """Every mask on every placement on `ranks` ranks, through one compiled program.

    With every hop kept and room for as many masks, only sizes are in the program; which tiles are
    live, and how, is in its arguments.
    """

    ranks: int
    lanes: int = 2

    @property
    def tokens(self):
        """Four key tiles a rank (two from 16 ranks on), the last of which are not full."""
        return self.ranks * (16 if self.ranks < 16 else 8) - 3

    def attention(self, mask, placement):
        return context(
            masks_of(self.tokens)[mask],
            tokens=self.tokens,
            ranks=self.ranks,
            value_dim=6,
            placement=placement,
            lanes=self.lanes,
            every_hop=True,
            masks=128,
        )

    @functools.cached_property
    def program(self):
        return self.attention("full", "contiguous").program

    @functools.cached_property
    def inputs(self):
        return qkv(self.attention("full", "contiguous"))

    @functools.cache
    def expected(self, mask):
        return dense(masks_of(self.tokens)[mask], *self.inputs)

    def errors(self, mask, placement, *, exact=False):
        """As `errors`, of this combination."""
        a = self.attention(mask, placement)
        run = self.program.exact if exact else self.program.run
        actual = a.results(run(*a.arguments(*self.inputs)))
        return errors(actual, self.expected(mask), self.inputs[2])


grid = functools.cache(Grid)


def unwrapped(arguments):
    """A program's arguments as plain arrays, for other ways to call it than `run`."""
    is_known = lambda x: isinstance(x, Known)  # noqa: E731
    return jax.tree.map(
        lambda x: jnp.asarray(x.value if is_known(x) else x),
        arguments,
        is_leaf=is_known,
    )


def live_tiles(mask, positions, tokens, rows, columns):
    """Which tiles hold a pair that the mask allows, by looking at every pair.

    Args:
      mask: on positions in the sequence.
      positions: `[ranks, slots]`, from `tokens` on padding.
      tokens: of the sequence.
      rows, columns: tokens of a query and of a key tile.

    Returns:
      bool `[ranks, query tiles, ranks, key tiles]`.
    """
    q, k = positions.reshape(-1, 1), positions.reshape(1, -1)
    pairs = (
        np.asarray(mask(0, 0, *np.broadcast_arrays(q, k))) & (q < tokens) & (k < tokens)
    )
    ranks = len(positions)
    return pairs.reshape(
        ranks, -1, rows, ranks, positions.shape[1] // columns, columns
    ).any((2, 5))


__all__ = [
    "BFLOAT16",
    "EVERY_PLACEMENT",
    "FLOAT32",
    "FLOAT64",
    "FLOAT8",
    "MASKS",
    "Grid",
    "allowed",
    "assert_attends",
    "context",
    "dense",
    "errors",
    "grid",
    "live_tiles",
    "masks_of",
    "qkv",
    "unwrapped",
]
