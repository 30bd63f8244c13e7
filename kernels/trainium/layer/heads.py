"""A token tile's heads, from one projection of all to stored queries, keys and values: norms, RoPE,
transposes."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from emu.annotations import KnownInt
from emu.trainium.datasheets.sheet import LOAD_QUEUES
from emu.trainium.engines.memory import dma_load, dma_store, psum, sbuf
from emu.trainium.isa import nc_transpose, tensor_copy, tensor_scalar, tensor_tensor
from emu.trainium.spaces import Hbm, Sbuf
from kernels.formats.formats import Format
from kernels.trainium.layer.cached import CodedPart, stored_in_codes
from kernels.trainium.layer.form import Positions, PrefillForm
from kernels.trainium.layer.norm import head_norm, wide_norm
from kernels.trainium.tiles import PARTITIONS, index, largest_divisor, split


@dataclasses.dataclass(frozen=True)
class HeadSizes:
    """Of one core's heads.

    Attributes:
      rows: tokens of a tile.
      heads, kv_heads: of the core.
      head_dim: features of each.
      eps: of RMSNorm.
      norm_widths, cache: see `LayerTiling`.
    """

    rows: int
    heads: int
    kv_heads: int
    head_dim: int
    eps: float
    norm_widths: tuple[int, int] | None = None
    cache: Format | None = None

    @property
    def width(self) -> int:
        """Columns of queries, keys and values side by side."""
        return (self.heads + 2 * self.kv_heads) * self.head_dim


class HeadNorms(NamedTuple):
    """Weights of the norms of queries and keys, in HBM; None where they have none.

    Attributes:
      q, k: `[1, head_dim]`, of each head.
      wide_q, wide_k: `[1, heads · head_dim]` and `[1, kv_heads · head_dim]`, of all together.
    """

    q: Hbm | None = None
    k: Hbm | None = None
    wide_q: Hbm | None = None
    wide_k: Hbm | None = None


class StoredHeads(NamedTuple):
    """A tile's, in HBM.

    Attributes:
      q: `[heads, head_dim, rows]`.
      k: `[kv_heads, head_dim, rows]`.
      v: `[rows, kv_heads · head_dim]`.
      coded_k, coded_v: both as a cache in codes holds them; None: it is in none.
    """

    q: Hbm
    k: Hbm
    v: Hbm
    coded_k: CodedPart | None = None
    coded_v: CodedPart | None = None


def rope(x: Sbuf, cos: Sbuf, sin: Sbuf, *, buffers: int = 1) -> Sbuf:
    """Rotates pairs `(i, i + n)` of the first `2 n` features of every head.

    Args:
      x: SBUF `[rows, heads, head_dim]`.
      cos, sin: SBUF float32 `[rows, n]`, one row per token.
      buffers: depth of every ring of tiles.

    Returns:
      SBUF, shape and dtype of `x`; products in float32.

    Pseudocode:
      y[first] = x[first] · cos - x[second] · sin; y[second] = x[second] · cos + x[first] · sin
      y[other features] = x[other features]
    """
    rows, heads, size = x.shape
    middle = cos.shape[1]
    end = 2 * middle
    # Halves, not neighbours: Llama's checkpoints in Hugging Face's order pair feature i with i +
    # head_dim/2, which makes each operand one contiguous view.
    first = lax.slice_in_dim(x, 0, middle, axis=2)
    second = lax.slice_in_dim(x, middle, end, axis=2)
    # Views: every head turns by its token's angles.
    row, _, feature = range(3)
    wide_cos = lax.broadcast_in_dim(cos, first.shape, (row, feature))
    wide_sin = lax.broadcast_in_dim(sin, first.shape, (row, feature))

    def half() -> Sbuf:
        return sbuf(rows, heads, middle, buffers=buffers)

    kept = tensor_tensor(half(), first, wide_cos, op="multiply")
    turned = tensor_tensor(half(), second, wide_sin, op="multiply")
    # Both products are float32, and only their difference is rounded.
    out = sbuf(*x.shape, dtype=x.dtype, buffers=buffers)
    out = tensor_tensor.at[..., :middle](out, kept, turned, op="subtract")

    kept = tensor_tensor(half(), second, wide_cos, op="multiply")
    turned = tensor_tensor(half(), first, wide_sin, op="multiply")
    out = tensor_tensor.at[..., middle:end](out, kept, turned, op="add")
    if end == size:
        return out
    rest = lax.slice_in_dim(x, end, size, axis=2)
    # By the Scalar Engine, as all else here is the Vector Engine's.
    return tensor_copy.at[..., end:](out, rest, engine="scalar")


def store_transposed(x: Sbuf) -> Hbm:
    """Puts each head's features on partitions and stores it: SBUF `[rows, heads, head_dim]` to HBM
    `[heads, head_dim, rows]`, as many heads a transpose as fill 128 partitions.

    32 heads of 64 features are 16 transposes of two heads; of 128 features, 32 of one; of 256, 64
    of half a head.
    """
    rows, all_heads, head_dim = x.shape
    parts, size = split(head_dim, PARTITIONS)
    heads = all_heads * parts
    # A transpose takes as long for 64 rows of the result as for 128.
    heads_together = largest_divisor(heads, PARTITIONS // size)
    features = heads_together * size
    groups = heads // heads_together
    grouped = x.reshape(rows, groups, features)

    def store_group(group: KnownInt) -> Hbm:
        bank = psum(features, rows, dtype=x.dtype)
        own = index(grouped, group, 1)
        bank = nc_transpose(bank, own)
        copy = sbuf(*bank.shape, dtype=x.dtype, buffers=2)
        copy = tensor_copy(copy, bank)
        return dma_store(copy)

    numbers = jnp.arange(groups, dtype=jnp.int32)
    out = lax.map(store_group, numbers)
    return out.reshape(all_heads, head_dim, rows)


def split_heads(
    fused: Sbuf,
    positions: Positions,
    norms: HeadNorms,
    sizes: HeadSizes,
    form: PrefillForm,
    squares: Sbuf | None = None,
) -> StoredHeads:
    """Queries, keys and values of one token tile, as attention takes them.

    Args:
      fused: SBUF `[rows, columns]`, of all heads side by side.
      positions: of the tile's tokens.
      norms: of queries and keys.
      sizes: of the heads.
      form: what is done to queries and keys.
      squares: SBUF float32 `[rows, 2]`, sums of the squares of a token's queries and of its keys,
        on all cores together, for a norm over all of them.
    """
    rows = sizes.rows
    head_dim = sizes.head_dim

    def loaded(table: Hbm | None, queue: str) -> Sbuf:
        assert table is not None
        tile = sbuf(rows, table.shape[-1])
        return dma_load(tile, table, queue=queue)

    # By two queues, so that neither table waits for the other.
    first_queue, second_queue = LOAD_QUEUES
    own_cos = own_sin = None
    if form.turns:
        own_cos = loaded(positions.cos, first_queue)
        own_sin = loaded(positions.sin, second_queue)
    # With 4 query heads over 2 KV heads of 16 features the columns are q 0-63, k 64-95, v 96-127.
    q_end = sizes.heads * head_dim
    k_end = q_end + sizes.kv_heads * head_dim
    v_end = k_end + sizes.kv_heads * head_dim
    q = lax.slice_in_dim(fused, 0, q_end, axis=1)
    k = lax.slice_in_dim(fused, q_end, k_end, axis=1)
    v = lax.slice_in_dim(fused, k_end, v_end, axis=1)
    if squares is not None:
        assert sizes.norm_widths is not None
        assert norms.wide_q is not None and norms.wide_k is not None
        of_q, of_k = squares[:, 0:1], squares[:, 1:2]
        q_width, k_width = sizes.norm_widths
        q = wide_norm(q, of_q, norms.wide_q, size=q_width, eps=sizes.eps)
        k = wide_norm(k, of_k, norms.wide_k, size=k_width, eps=sizes.eps)
    q = q.reshape(rows, sizes.heads, head_dim)
    k = k.reshape(rows, sizes.kv_heads, head_dim)
    # Qwen3's norm is before RoPE: its weights differ by feature, and after it they would scale what
    # is mixed.
    if form.qk_norm == "head":
        q = head_norm(q, norms.q, eps=sizes.eps)
        k = head_norm(k, norms.k, eps=sizes.eps)

    def positioned(x: Sbuf) -> Sbuf:
        if own_cos is not None and own_sin is not None:
            x = rope(x, own_cos, own_sin)
        # Llama 4's is after it.
        return head_norm(x, None, eps=sizes.eps) if form.qk_norm == "unit" else x

    q = positioned(q)
    if form.has_temperature:
        own_factor = loaded(positions.temperature, first_queue)
        warmed = sbuf(*q.shape, dtype=q.dtype)
        q = tensor_scalar(warmed, q, own_factor, op="multiply")
    stored_q = store_transposed(q)
    k = positioned(k)
    stored_k = store_transposed(k)
    # A value has no position.
    stored_v = dma_store(v)
    if sizes.cache is None:
        return StoredHeads(stored_q, stored_k, stored_v)
    by_head = v.reshape(rows, sizes.kv_heads, head_dim)
    in_codes = (stored_in_codes(x, sizes.cache) for x in (k, by_head))
    return StoredHeads(stored_q, stored_k, stored_v, *in_codes)


def joined_tiles(by_block: StoredHeads) -> StoredHeads:
    """`[blocks, tiles, ...]` of each to `[token tiles, ...]`."""

    def joined(stored: Hbm) -> Hbm:
        blocks, tiles, *rest = stored.shape
        return stored.reshape(blocks * tiles, *rest)

    return jax.tree.map(joined, by_block)


__all__ = [
    "HeadNorms",
    "HeadSizes",
    "StoredHeads",
    "joined_tiles",
    "rope",
    "split_heads",
    "store_transposed",
]
