"""Products with the cache, keys times queries and weights times values; bytes are made wide first.

A cache of 8-bit codes is half as long as one of 16-bit numbers only if it is not made wide as a
whole. So it is gone through in pieces of slots, each in a tile that the next one takes again: of
5,000 slots 16 pieces of 314, whose numbers are a sixteenth of what they would be. A piece has no
fewer than some dozens of slots, as each begins a few vector operations.
"""

from collections.abc import Iterator

import jax.numpy as jnp
from jax import lax

from emu.annotations import KnownInt
from emu.wse import score_map, sram_tile, value_map, widen_live
from emu.wse.pe.packed import is_code
from emu.wse.spaces import Sram
from kernels.wse.decode.mapping import share_of

PIECES, PIECE_SLOTS = 16, 64
"""The most pieces, and the fewest slots of one."""


def piece_slots(slots: int) -> int:
    """Slots that are made wide at a time."""
    pieces = min(PIECES, max(1, slots // PIECE_SLOTS))
    # Whole words of two codes.
    return min(slots, 2 * share_of(share_of(slots, pieces), 2))


def add_scores(scores: Sram, k: Sram, q: Sram, live: KnownInt) -> Sram:
    """Adds `q . k` to the first `live` slots, as `score_map` does.

    Dimensions: `scores` `[queries, slots]`, `k` `[dims, slots]`, `q` `[queries, dims]`.
    """
    if not is_code(k.dtype):
        return score_map(scores, k, q, live)
    for first, count, of_piece in _pieces(k.shape[1], live):
        piece = lax.slice_in_dim(k, first, first + count, axis=1)
        wide = sram_tile(shape=piece.shape, dtype=q.dtype.name)
        wide = widen_live(wide, piece, of_piece, axis=1)
        scores = score_map(scores, wide, q, of_piece, first=first)
    return scores


def add_values(out: Sram, v: Sram, p: Sram, live: KnownInt) -> Sram:
    """Adds the weighted values of the first `live` slots, as `value_map` does.

    Dimensions: `out` `[queries, value_dims]`, `v` `[slots, value_dims]`, `p` `[queries, slots]`.
    """
    if not is_code(v.dtype):
        return value_map(out, v, p, live)
    for first, count, of_piece in _pieces(v.shape[0], live):
        piece = lax.slice_in_dim(v, first, first + count, axis=0)
        weights = lax.slice_in_dim(p, first, first + count, axis=1)
        wide = sram_tile(shape=piece.shape, dtype=p.dtype.name)
        wide = widen_live(wide, piece, of_piece, axis=0)
        out = value_map(out, wide, weights, of_piece)
    return out


def _pieces(slots: int, live: KnownInt) -> Iterator[tuple[int, int, KnownInt]]:
    """First slot, slots and live slots of each piece."""
    size = piece_slots(slots)
    for first in range(0, slots, size):
        count = min(size, slots - first)
        of_piece = lax.clamp(jnp.int32(0), live - jnp.int32(first), jnp.int32(count))
        yield first, count, of_piece


__all__ = ["add_scores", "add_values", "piece_slots"]
