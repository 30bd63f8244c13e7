"""Products with the cache, keys times queries and weights times values; bytes are made wide first.

A cache of 8-bit codes is half as long as one of 16-bit numbers only if it is not made wide as a
whole. So it is gone through in pieces of slots, each in a tile that the next one takes again: of
5,000 slots 16 pieces of 314, whose numbers are a sixteenth of what they would be. A piece has no
fewer than some dozens of slots, as each begins a few vector operations.

Codes may have powers of two besides, one for a block of features of a key or value, as the OCP
Microscaling Formats (MX) 1.0 have one for 32. Of 128 features on 8 columns each PE has 16, half of
a block, and a power for each slot; on 2 columns 64, and two. Scores of a block are multiplied by
its powers, and so are the weights of its values.
"""

import itertools
from collections.abc import Iterator
from typing import NamedTuple

import jax.numpy as jnp
from jax import lax

from emu import old
from emu.annotations import KnownInt
from emu.wse import copy, fill, score_map, sram_tile, value_map, vector_live, widen_live
from emu.wse.pe.packed import is_code
from emu.wse.spaces import Sram
from kernels.wse.decode.mapping import share_of, stride_of

PIECES, PIECE_SLOTS, LATENT_PIECE_SLOTS = 16, 64, 32
"""The most pieces, and the fewest slots of one; of latents, of which a PE has at most 127 slots."""


def piece_slots(slots: int, fewest: int = PIECE_SLOTS) -> int:
    """Slots that are made wide at a time, at least so many if there are."""
    pieces = min(PIECES, max(1, slots // fewest))
    # Whole words of two codes.
    return min(slots, 2 * share_of(share_of(slots, pieces), 2))


class Scaled(NamedTuple):
    """Codes in blocks, and the power of two of each block.

    Attributes:
      codes: as the cache has them: keys `[dims, slots]`, values `[slots, dims]`.
      powers: float8_e8m0fnu `[blocks, slots]`; or float32 scales of any size.
      sizes: features of each block; none: `dims / blocks` each.
    """

    codes: Sram
    powers: Sram
    sizes: tuple[int, ...] = ()

    def bounds(self, dims: int) -> list[tuple[int, int]]:
        """The first feature of each block, and the first one behind it."""
        blocks = self.powers.shape[0]
        sizes = self.sizes or (dims // blocks,) * blocks
        ends = list(itertools.accumulate(sizes))
        return list(zip([0, *ends[:-1]], ends, strict=True))


def add_scores(scores: Sram, k: Sram | Scaled, q: Sram, live: KnownInt) -> Sram:
    """Adds `q . k` to the first `live` slots, as `score_map` does; `scores` are zeros.

    Dimensions: `scores` `[queries, slots]`, `k` `[dims, slots]`, `q` `[queries, dims]`.
    """
    if isinstance(k, Scaled):
        return _add_scaled_scores(scores, k, q, live)
    if not is_code(k.dtype):
        return score_map(scores, k, q, live)
    for first, count, of_piece in _pieces(k.shape[1], live):
        piece = lax.slice_in_dim(k, first, first + count, axis=1)
        wide = sram_tile(shape=piece.shape, dtype=q.dtype.name)
        wide = widen_live(wide, piece, of_piece, axis=1)
        place = slice(first, first + count)
        scores = score_map.at[:, place](scores, wide, q, of_piece)
    return scores


def _add_scaled_scores(scores: Sram, k: Scaled, q: Sram, live: KnownInt) -> Sram:
    bounds = k.bounds(q.shape[1])
    fewest = LATENT_PIECE_SLOTS if k.sizes else PIECE_SLOTS
    for first, count, of_piece in _pieces(k.codes.shape[1], live, fewest):
        place = slice(first, first + count)
        codes = lax.slice_in_dim(k.codes, first, first + count, axis=1)
        wide = sram_tile(shape=codes.shape, dtype=q.dtype.name)
        wide = widen_live(wide, codes, of_piece, axis=1)
        powers = _powers(k, first, count, of_piece, "float32")
        for block, (begin, end) in enumerate(bounds):
            own = lax.slice_in_dim(wide, begin, end, axis=0)
            own_q = lax.slice_in_dim(q, begin, end, axis=1)
            power = lax.slice_in_dim(powers, block, block + 1, axis=0)
            if block == 0:
                scores = score_map.at[:, place](scores, own, own_q, of_piece)
                scores = vector_live.at[:, place](
                    scores, old, power, of_piece, op="mul"
                )
                continue
            part = sram_tile(shape=(q.shape[0], count), dtype="float32")
            part = score_map(fill(part, value=0.0), own, own_q, of_piece)
            part = vector_live(part, part, power, of_piece, op="mul")
            scores = vector_live.at[:, place](scores, old, part, of_piece, op="add")
    return scores


def _powers(x: Scaled, first: int, count: int, live: KnownInt, dtype: str) -> Sram:
    """Powers of a piece of the slots, `[blocks, count]`."""
    powers = lax.slice_in_dim(x.powers, first, first + count, axis=1)
    if powers.dtype == jnp.float32:
        return powers
    tile = sram_tile(shape=powers.shape, dtype=dtype)
    return widen_live(tile, powers, live, axis=1)


def add_values(out: Sram, v: Sram | Scaled, p: Sram, live: KnownInt) -> Sram:
    """Adds the weighted values of the first `live` slots, as `value_map` does.

    Dimensions: `out` `[queries, value_dims]`, `v` `[slots, value_dims]`, `p` `[queries, slots]`.
    """
    if isinstance(v, Scaled):
        return _add_scaled_values(out, v, p, live)
    if not is_code(v.dtype):
        return value_map(out, v, p, live)
    for first, count, of_piece in _pieces(v.shape[0], live):
        piece = lax.slice_in_dim(v, first, first + count, axis=0)
        weights = lax.slice_in_dim(p, first, first + count, axis=1)
        wide = sram_tile(shape=piece.shape, dtype=p.dtype.name)
        wide = widen_live(wide, piece, of_piece, axis=0)
        out = value_map(out, wide, weights, of_piece)
    return out


def _add_scaled_values(out: Sram, v: Scaled, p: Sram, live: KnownInt) -> Sram:
    bounds = v.bounds(out.shape[1])
    for first, count, of_piece in _pieces(v.codes.shape[0], live):
        codes = lax.slice_in_dim(v.codes, first, first + count, axis=0)
        weights = lax.slice_in_dim(p, first, first + count, axis=1)
        wide = sram_tile(shape=codes.shape, dtype=p.dtype.name)
        wide = widen_live(wide, codes, of_piece, axis=0)
        powers = _powers(v, first, count, of_piece, p.dtype.name)
        for block, (begin, end) in enumerate(bounds):
            own = lax.slice_in_dim(wide, begin, end, axis=1)
            power = lax.slice_in_dim(powers, block, block + 1, axis=0)
            if power.dtype != weights.dtype:
                weights = _copied(weights, power.dtype.name)
            scaled = _scaled(weights, power, of_piece, p.dtype.name)
            out = value_map.at[:, begin:end](out, own, scaled, of_piece)
    return out


def _copied(x: Sram, dtype: str) -> Sram:
    return copy(sram_tile(shape=x.shape, dtype=dtype), x)


def _scaled(weights: Sram, power: Sram, live: KnownInt, dtype: str) -> Sram:
    """Weights times what their slots' values share."""
    # A power of two takes no bit of a weight; another scale is rounded with it.
    scaled = sram_tile(shape=weights.shape, dtype=dtype)
    return vector_live(scaled, weights, power, live, op="mul")


def add_values_of_keys(out: Sram, v: Scaled, p: Sram, live: KnownInt) -> Sram:
    """As `add_values`, of values that lie as keys do, `[value_dims, slots]`: latents.

    A value's elements are a row of a piece apart, which is as long as a PE reads at full width.
    """
    slots = v.codes.shape[1]
    for first, count, of_piece in _pieces(slots, live, LATENT_PIECE_SLOTS):
        codes = lax.slice_in_dim(v.codes, first, first + count, axis=1)
        stride = stride_of(count)
        wide = sram_tile(shape=(codes.shape[0], stride), dtype=p.dtype.name)
        wide = widen_live.at[:, :count](wide, codes, of_piece, axis=1)
        weights = lax.slice_in_dim(p, first, first + count, axis=1)
        power = _powers(v, first, count, of_piece, p.dtype.name)
        if power.dtype != weights.dtype:
            weights = _copied(weights, power.dtype.name)
        scaled = _scaled(weights, power, of_piece, p.dtype.name)
        own = lax.slice_in_dim(wide, 0, count, axis=1)
        out = value_map(out, own, scaled, of_piece, stride=stride)
    return out


def _pieces(
    slots: int, live: KnownInt, fewest: int = PIECE_SLOTS
) -> Iterator[tuple[int, int, KnownInt]]:
    """First slot, slots and live slots of each piece."""
    size = piece_slots(slots, fewest)
    for first in range(0, slots, size):
        count = min(size, slots - first)
        of_piece = lax.clamp(jnp.int32(0), live - jnp.int32(first), jnp.int32(count))
        yield first, count, of_piece


__all__ = [
    "Scaled",
    "add_scores",
    "add_values",
    "add_values_of_keys",
    "piece_slots",
]
