"""Kernels of schemes that are not a ring of keys: gathered, by heads, tiled, passing queries.

All of them attend by `attend_source`, so what they cost besides is what they move.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from emu.trainium.engines.memory import hbm
from emu.trainium.links.chip_collectives import chip_all_gather, chip_all_to_all
from emu.trainium.links.neuronlink import send
from kernels.trainium.context.attend import attend_source
from kernels.trainium.context.combine import combine
from kernels.trainium.context.finish import finish
from kernels.trainium.context.ring import Ring, attend_ring
from kernels.trainium.context.sizes import ContextTiling
from kernels.trainium.context.state import State, empty_state
from kernels.trainium.tiles import index


def _at(work: Any, n: Any) -> Any:
    return jax.tree.map(lambda x: index(x, n), work)


def _gathered(tree: Any, ranks: int, axis: str, chips: tuple[str, ...]) -> Any:
    """Every leaf's first dimension from all ranks of an axis."""

    def one(x: Any) -> Any:
        whole = hbm(ranks * x.shape[0], *x.shape[1:], dtype=x.dtype)
        return chip_all_gather(whole, x, axis=axis, chips=chips)

    return jax.tree.map(one, tree)


def _swapped(x: Any, ranks: int, axis: str, chips: tuple[str, ...], split: int) -> Any:
    """Dimension `split` dealt out over the ranks of an axis, dimension 0 joined from all."""
    shape = list(x.shape)
    shape[split] //= ranks
    shape[0] *= ranks
    dst = hbm(*shape, dtype=x.dtype)
    return chip_all_to_all(dst, x, axis=axis, chips=chips, split=split, join=0)


def all_gather(
    q: Any,
    k: Any,
    v: Any,
    work: Any,
    patterns: Any,
    *,
    s: ContextTiling,
    ranks: int,
    axis: str,
) -> Any:
    """Every rank has all keys and values before it begins; sequence-long buffers in HBM.

    Args:
      q, k, v: HBM, of this rank, as `attend_source` takes them.
      work: known integers of one source, all ranks' key tiles one after another.
      patterns: see `attend_source`.
      s: sizes of one rank.
      ranks: of the mesh axis `axis`.

    Returns:
      Output and log-sum-exp, see `finish`.
    """
    block = _gathered((k, v), ranks, axis, (axis,))
    whole = dataclasses.replace(s, key_tiles=s.key_tiles * ranks)
    done = attend_source(
        q, block, empty_state(s), _at(work, 0), patterns, whole, first=True
    )
    return finish(done, s, transposed=False, logsumexp=True)


def headwise(s: ContextTiling, inner: int) -> ContextTiling:
    """Sizes of a rank that has `inner` ranks' tokens of its part of the heads.

    Raises:
      ValueError: heads that the ranks do not divide.
    """
    if s.heads % inner or s.kv_heads % inner:
        raise ValueError(
            f"ulysses: {s.heads} query heads and {s.kv_heads} KV heads over {inner} ranks: must "
            "be multiples of them; use fewer inner ranks, or repeat KV heads"
        )
    return dataclasses.replace(
        s,
        heads=s.heads // inner,
        kv_heads=s.kv_heads // inner,
        tiles=s.tiles * inner,
        key_tiles=s.key_tiles * inner,
    )


def ulysses(
    q: Any,
    k: Any,
    v: Any,
    work: Any,
    patterns: Any,
    *,
    s: ContextTiling,
    inner: int,
    axis: str,
    headwise: ContextTiling,
    ring: Ring,
) -> Any:
    """Heads instead of tokens are spread over the inner ranks while attention runs on the ring.

    Args:
      q, k, v: HBM, of this rank's tokens and all heads, as `attend_source` takes them.
      work, patterns: see `ring_attention`, for the tokens of all inner ranks.
      s: sizes of one rank's tokens.
      inner: ranks of the mesh axis `axis`.
      headwise: sizes of its heads.
      ring: over the outer ranks; its mesh axes hold both.

    Returns:
      Output and log-sum-exp, see `finish`.
    """
    chips = ring.chips
    heads_at = {"q": 1, "k": 1, "v": 1 if s.mx else 2}
    q, k, v = (
        jax.tree.map(lambda x, d=dim: _swapped(x, inner, axis, chips, d), tree)
        for tree, dim in zip((q, k, v), heads_at.values(), strict=True)
    )
    state = attend_ring(q, (k, v), work, patterns, headwise, ring)
    results = finish(state, headwise, transposed=False, logsumexp=True)
    return tuple(_swapped(x, inner, axis, chips, 1) for x in results)


def tiles(
    q: Any,
    k: Any,
    v: Any,
    work: Any,
    patterns: Any,
    *,
    s: ContextTiling,
    rows: int,
    columns: int,
    axes: tuple[str, str],
) -> Any:
    """A rank has one tile of the score matrix: queries of its mesh row, keys of its mesh column.

    Args:
      q, k, v: HBM, of this rank, as `attend_source` takes them.
      work: known integers; source n is the queries of column n of the mesh, against the keys of
        all rows one after another.
      patterns: see `attend_source`.
      s: sizes of one rank.
      rows, columns: of the mesh, along `axes`.

    Returns:
      Output and log-sum-exp, see `finish`.
    """
    across, along = axes
    queries = _gathered(q, columns, along, axes)
    queries = jax.tree.map(lambda x: x.reshape(columns, -1, *x.shape[1:]), queries)
    block = _gathered((k, v), rows, across, axes)
    whole = dataclasses.replace(s, key_tiles=s.key_tiles * rows)

    def attend(done: State, n: Any) -> tuple[State, None]:
        mine = jax.tree.map(lambda x: index(x, n), queries)
        now = _at(work, n)
        return attend_source(
            mine, block, done, now, patterns, whole, first=True, base=n * s.units
        ), None

    steps = jnp.arange(columns, dtype=jnp.int32)
    done, _ = lax.scan(attend, empty_state(s, columns), steps)
    return _returned(done, s, columns, along, axes)


def pass_q(
    q: Any,
    k: Any,
    v: Any,
    work: Any,
    patterns: Any,
    *,
    s: ContextTiling,
    ranks: int,
    axis: str,
) -> Any:
    """Queries travel the ring; keys stay, and what a rank found for others is sent back at the end.

    Args:
      q, k, v: HBM, of this rank, as `attend_source` takes them.
      work: known integers by hop, see `ring_attention`; at hop n the queries of rank `me - n`.
      patterns: see `attend_source`.
      s: sizes of one rank.
      ranks: of the mesh axis `axis`.

    Returns:
      Output and log-sum-exp, see `finish`.
    """
    me = lax.axis_index(axis)
    hops = work["hops"]
    size = jnp.int32(ranks)

    def hop(carry: Any, xs: Any) -> tuple[Any, None]:
        held, spare, done = carry
        n, now = xs
        arriving = jax.tree.map(
            lambda dst, src: send(dst, src, now["shift"], now["live"], axis=axis),
            spare,
            held,
        )
        return (arriving, held, use(held, done, n, now)), None

    def use(held: Any, done: State, n: Any, now: Any) -> State:
        owner = lax.rem(me - n + size, size)
        return attend_source(
            held, (k, v), done, now, patterns, s, first=True, base=owner * s.units
        )

    done = empty_state(s, ranks)
    steps = jnp.arange(ranks, dtype=jnp.int32)
    last = steps[ranks - 1], _at(hops, ranks - 1)
    if ranks == 1:
        return _returned(use(q, done, *last), s, 1, axis, (axis,))
    slots = [jax.tree.map(lambda x: hbm(*x.shape, dtype=x.dtype), q) for _ in range(2)]
    first = _at(hops, 0)
    held = jax.tree.map(
        lambda dst, src: send(dst, src, first["shift"], first["live"], axis=axis),
        slots[0],
        q,
    )
    done = use(q, done, steps[0], first)
    middle = steps[1:-1], jax.tree.map(lambda x: x[1 : ranks - 1], hops)
    (held, _, done), _ = lax.scan(hop, (held, slots[1], done), middle)
    return _returned(use(held, done, *last), s, ranks, axis, (axis,))


def _returned(
    state: State, s: ContextTiling, ranks: int, axis: str, chips: tuple[str, ...]
) -> Any:
    """Partial results of all ranks' queries to their owners, which merge them."""
    state = tuple(_swapped(x, ranks, axis, chips, 0) for x in state)
    return finish(combine(state, s, ranks), s, transposed=False, logsumexp=True)


__all__ = ["all_gather", "headwise", "pass_q", "tiles", "ulysses"]
