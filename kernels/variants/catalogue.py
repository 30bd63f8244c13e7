"""Every variant of the catalogue, for given sizes: what reports and tests go through."""

import dataclasses
from collections.abc import Callable

import jax.numpy as jnp
import numpy as np

from kernels.attention.protocol import AttentionVariant
from kernels.attention.variant import Variant
from kernels.variants.alibi import alibi
from kernels.variants.block_causal import block_causal
from kernels.variants.block_diffusion import block_diffusion
from kernels.variants.causal import causal
from kernels.variants.chunked import chunked
from kernels.variants.cross import cross
from kernels.variants.differential import differential
from kernels.variants.dilated_window import dilated_window
from kernels.variants.fp8_cache import fp8_cache
from kernels.variants.full import full
from kernels.variants.gated import gated
from kernels.variants.global_local import global_local
from kernels.variants.grouped import grouped
from kernels.variants.head_temperature import head_temperature
from kernels.variants.int8_cache import int8_cache
from kernels.variants.learned_sink import learned_sink
from kernels.variants.mla import mla
from kernels.variants.mxfp8_cache import mxfp8_cache
from kernels.variants.neighborhood import neighborhood
from kernels.variants.off_by_one import off_by_one
from kernels.variants.packed_documents import packed_documents
from kernels.variants.paged import paged
from kernels.variants.prefix_lm import prefix_lm
from kernels.variants.relative_bias import relative_bias
from kernels.variants.shared_prefix import shared_prefix
from kernels.variants.sigmoid import sigmoid
from kernels.variants.sinks_window import sinks_window
from kernels.variants.sliding_window import sliding_window
from kernels.variants.soft_cap import soft_cap
from kernels.variants.tree import tree

GATES = 64


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Sizes of one attention.

    Attributes:
      tokens: queries, in number a multiple of 16.
      heads: of queries.
      kv_heads: of keys and values.
      head_dim: of each head.
      batch: sequences.
      keys: None: as many as queries.
    """

    tokens: int
    heads: int
    kv_heads: int
    head_dim: int
    batch: int = 1
    keys: int | None = None

    @property
    def shapes(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Of the queries, and of the keys and values."""
        keys = self.tokens if self.keys is None else self.keys
        return (
            (self.batch, self.heads, self.tokens, self.head_dim),
            (self.batch, self.kv_heads, keys, self.head_dim),
        )


@dataclasses.dataclass(frozen=True)
class Entry:
    """A variant of the catalogue.

    Attributes:
      make: it, for sizes; what it learns is drawn at random, and what it counts is in proportion to
        the tokens where a paper leaves that open.
      sizes: of what it is made, of those asked for.
      own_operands: whether it takes others than the queries, keys and values of `Sizes.shapes`; see
        `kernels.variants.draw`.
    """

    make: Callable[[Sizes], AttentionVariant]
    sizes: Callable[[Sizes], Sizes] = lambda asked: asked
    own_operands: bool = False


def _relative_bias(sizes: Sizes) -> Variant:
    bias = np.random.default_rng(0).normal(size=(32, sizes.heads))
    return relative_bias(bias.astype(np.float32))


def _head_temperature(sizes: Sizes) -> Variant:
    temperatures = np.random.default_rng(0).uniform(0.5, 2, sizes.heads)
    return head_temperature(temperatures.astype(np.float32))


def _learned_sink(sizes: Sizes) -> Variant:
    sinks = np.random.default_rng(0).normal(size=sizes.heads)
    return learned_sink(sinks.astype(np.float32))


def _int8_cache(sizes: Sizes) -> Variant:
    _, (batch, kv_heads, keys, _) = sizes.shapes
    return int8_cache(*_scales(batch, kv_heads, keys), sizes.heads)


def _fp8_cache(sizes: Sizes) -> Variant:
    return fp8_cache(*_scales(sizes.batch, sizes.kv_heads), sizes.heads)


def _scales(*shape: int) -> tuple[np.ndarray, np.ndarray]:
    """Of keys and values, as of codes that are about 1."""
    rng = np.random.default_rng(0)
    k, v = (rng.uniform(0.5, 1.5, shape).astype(np.float32) for _ in range(2))
    return k, v


def _gated(sizes: Sizes) -> Variant:
    """Gates that come again every `GATES` tokens: those of a long prompt are many."""
    shape = sizes.batch, sizes.heads, GATES, sizes.head_dim
    gates = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    return gated(lambda b, h, q, d: jnp.asarray(gates)[b, h, q % GATES, d])


def _packed_documents(sizes: Sizes) -> Variant:
    # A sixteenth of the tokens, twice, four times and nine times that.
    part = sizes.tokens // 16
    return packed_documents([0, part, 3 * part, 7 * part, 16 * part])


def _neighborhood(sizes: Sizes) -> Variant:
    """Of an image as wide as it is high, or twice."""
    height = 2 ** (int(np.log2(sizes.tokens)) // 2)
    width = sizes.tokens // height
    return neighborhood(height, width, min(7, height - 1 + height % 2))


def _tree(sizes: Sizes) -> Variant:
    """Two continuations of every token, up to sixty-three tokens, behind all others."""
    count = min(63, sizes.tokens // 2)
    parents = [(token - 1) // 2 if token else -1 for token in range(count)]
    return tree(parents, sizes.tokens - count)


def _shared_prefix(sizes: Sizes) -> Variant:
    return shared_prefix(sizes.tokens // 2, [sizes.tokens // 8] * 4)


def _cross(sizes: Sizes) -> Variant:
    _, (batch, _, keys, _) = sizes.shapes
    return cross([keys - keys // 4 * (b % 2) for b in range(batch)])


def _paged(sizes: Sizes) -> AttentionVariant:
    """Causal, of sequences that have grown together, so that their pages take turns."""
    size = min(128, max(1, sizes.tokens // 4))
    of_each = -(-sizes.tokens // size)
    table = np.arange(of_each) * sizes.batch + np.arange(sizes.batch)[:, None]
    return paged(causal(), table, size, sizes.tokens)


def _lambda(sizes: Sizes) -> np.ndarray:
    return np.random.default_rng(0).uniform(0.2, 0.8, sizes.heads).astype(np.float32)


def _halves(asked: Sizes) -> Sizes:
    """Half as many heads, each of two maps, so that there are as many scores."""
    of_maps = {"heads": asked.heads // 2, "kv_heads": max(1, asked.kv_heads // 2)}
    return dataclasses.replace(asked, **of_maps)


def _one_kind_of_heads(asked: Sizes) -> Sizes:
    """Latents are of all heads."""
    return dataclasses.replace(asked, kv_heads=asked.heads)


def _four_sequences(asked: Sizes) -> Sizes:
    """As many tokens, in four sequences."""
    return dataclasses.replace(asked, batch=4, tokens=asked.tokens // 4)


CATALOGUE: dict[str, Entry] = {
    "full": Entry(lambda sizes: full()),
    "causal": Entry(lambda sizes: causal()),
    "grouped": Entry(
        lambda sizes: grouped(),
        lambda asked: dataclasses.replace(asked, kv_heads=max(1, asked.heads // 4)),
    ),
    "multi_query": Entry(
        lambda sizes: grouped(), lambda asked: dataclasses.replace(asked, kv_heads=1)
    ),
    "sliding_window": Entry(lambda sizes: sliding_window(_at_most(sizes, 4096))),
    "sinks_window": Entry(lambda sizes: sinks_window(4, _at_most(sizes, 4096))),
    "dilated_window": Entry(lambda sizes: dilated_window(_at_most(sizes, 512), 4)),
    "global_local": Entry(lambda sizes: global_local(4, _at_most(sizes, 256))),
    "chunked": Entry(lambda sizes: chunked(_at_most(sizes, 8192))),
    "block_causal": Entry(lambda sizes: block_causal(_at_most(sizes, 512))),
    "prefix_lm": Entry(lambda sizes: prefix_lm(sizes.tokens // 4)),
    "packed_documents": Entry(_packed_documents),
    "shared_prefix": Entry(_shared_prefix),
    "tree": Entry(_tree),
    "block_diffusion": Entry(
        lambda sizes: block_diffusion(sizes.tokens // 2, _at_most(sizes, 32))
    ),
    "neighborhood": Entry(_neighborhood),
    "cross": Entry(
        _cross, lambda asked: dataclasses.replace(asked, keys=asked.tokens // 2)
    ),
    "alibi": Entry(lambda sizes: alibi(sizes.heads)),
    "relative_bias": Entry(_relative_bias),
    "soft_cap": Entry(lambda sizes: soft_cap()),
    "head_temperature": Entry(_head_temperature),
    "learned_sink": Entry(_learned_sink),
    "off_by_one": Entry(lambda sizes: off_by_one()),
    "gated": Entry(_gated),
    "sigmoid": Entry(lambda sizes: sigmoid(sizes.tokens)),
    "int8_cache": Entry(_int8_cache),
    "fp8_cache": Entry(_fp8_cache),
    "differential": Entry(
        lambda sizes: differential(_lambda(sizes)), _halves, own_operands=True
    ),
    "mxfp8_cache": Entry(
        lambda sizes: mxfp8_cache(causal(), min(32, sizes.head_dim)), own_operands=True
    ),
    "mla_expanded": Entry(
        lambda sizes: mla("expanded"), _one_kind_of_heads, own_operands=True
    ),
    "mla_absorbed": Entry(
        lambda sizes: mla("absorbed"), _one_kind_of_heads, own_operands=True
    ),
    "paged": Entry(_paged, _four_sequences, own_operands=True),
}


def _at_most(sizes: Sizes, count: int) -> int:
    """A count of a paper's, or a quarter of the tokens if that is less."""
    return min(count, sizes.tokens // 4)


def make(name: str, asked: Sizes) -> tuple[AttentionVariant, Sizes]:
    """A variant of the catalogue, and of what sizes it is."""
    entry = CATALOGUE[name]
    sizes = entry.sizes(asked)
    return entry.make(sizes), sizes
