"""All queries of a rank attend to the keys and values of one source, as far as a table says."""

import functools
from typing import Any

import jax.numpy as jnp
from jax import lax

from emu.trainium.datasheets.sheet import LOAD_QUEUES
from emu.trainium.engines.memory import dma_load, sbuf
from emu.trainium.isa import tensor_tensor
from kernels.trainium.context import operands as plain
from kernels.trainium.context import operands_mx
from kernels.trainium.context.operands import KEYS
from kernels.trainium.context.sizes import ContextTiling
from kernels.trainium.context.state import (
    Packed,
    State,
    closed,
    load,
    merge,
    nothing,
    opened,
    packed_tiles,
    stepped,
    stepping,
    store,
)
from kernels.trainium.flash.lanes import Lane, abreast
from kernels.trainium.flash.step import Attended, empty, step_banks
from kernels.trainium.tiles import divide, index


def operands(s: ContextTiling) -> Any:
    """The module that knows the form of queries, keys and values."""
    return operands_mx if s.mx else plain


def attend_source(
    q: Any,
    block: Any,
    state: State,
    work: Any,
    patterns: Any,
    s: ContextTiling,
    *,
    first: bool,
    last: bool = False,
    base: Any = 0,
) -> State:
    """Attends a rank's queries to one source.

    Args:
      q: HBM queries, as `load_queries` of the operands takes them.
      block: HBM keys and values of the source, as their `load_kv` does.
      state: from `empty_state`, or after the source before.
      work: known integers of this rank and source: `some [blocks]`, whether a block has any live
        key tile; `status [blocks, key tiles]`, 0 dead, 1 masked, 2 whole; `pattern [tiles, key
        tiles]`, which of `patterns` masks a query tile and a key tile.
      patterns: HBM bfloat16 `[patterns, rows, columns]`, added to scores: 0, or `MASKED`.
      s: sizes.
      first: the state holds nothing yet.
      last: nobody needs the row maxima any more, so they are not stored.
      base: known integer, where in the state the queries' part begins.

    Returns:
      The state, in the same buffers.

    Pseudocode:
      for group of heads, block of query tiles: if any key tile is live:
        load q and state; for key tile, if live: load k, v (and masks); for lane: flash step
        store state
    """

    def group(state: State, g: Any) -> tuple[State, None]:
        def fetch(tiles: Any, state: State, b: Any, wanted: Any) -> Any:
            return _fetch(tiles, q, state, (g, b), base, wanted, s, first)

        def some(carry: Any, b: Any) -> tuple[Any, None]:
            state, (queries, own), spare = carry
            alive = index(work["some"], b) != 0
            over = functools.partial(
                _over_keys, queries, block, work, patterns, g, b, s, first, last
            )
            # What is dead at first must hold nothing when it comes to life.
            rest = functools.partial(nothing, s=s) if first else lambda own: own
            own = lax.cond(alive, over, rest, own)
            # Fetched before this block is stored: its state does not wait for that.
            after = jnp.minimum(b + 1, s.blocks - 1)
            wanted = (index(work["some"], after) != 0) & (b < s.blocks - 1)
            ahead = fetch(spare, state, after, wanted)
            put = functools.partial(store, unit=base + g * s.blocks + b)
            keep = put if first else lambda state, own: state
            state = lax.cond(alive, put, keep, state, own)
            return (state, ahead, (queries, own)), None

        begin = jnp.int32(0)
        now = fetch(_block_tiles(s), state, begin, index(work["some"], begin) != 0)
        blocks = jnp.arange(s.blocks, dtype=jnp.int32)
        return lax.scan(some, (state, now, _block_tiles(s)), blocks)[0][0], None

    return lax.scan(group, state, jnp.arange(s.groups, dtype=jnp.int32))[0]


# --- one block: query tiles and their state ---


def _block_tiles(s: ContextTiling) -> tuple[Any, Packed]:
    """SBUF for a block: each head's queries, and the state of its lanes."""
    return [operands(s).query_tiles(s) for _ in range(s.block_heads)], packed_tiles(s)


def _fetch(
    tiles: Any,
    q: Any,
    state: State,
    at: tuple[Any, Any],
    base: Any,
    wanted: Any,
    s: ContextTiling,
    first: bool,
) -> Any:
    """Brings the queries and state of block `at` into SBUF, if they are `wanted`."""
    g, b = at

    def fetch(queries: Any, own: Packed) -> Any:
        load_queries = operands(s).load_queries
        tile = b * s.block_tiles
        heads = (
            (x, g * s.block_heads + h, LOAD_QUEUES[h % 2])
            for h, x in enumerate(queries)
        )
        queries = [load_queries(x, q, tile, head, queue) for x, head, queue in heads]
        return queries, own if first else load(own, state, base + g * s.blocks + b)

    return lax.cond(wanted, fetch, lambda queries, own: (queries, own), *tiles)


# --- its key tiles ---


def _over_keys(
    queries: Any,
    kv_block: Any,
    work: Any,
    patterns: Any,
    g: Any,
    b: Any,
    s: ContextTiling,
    first: bool,
    last: bool,
    own: Packed,
) -> Packed:
    """Attends a block's lanes to the source's live key tiles."""
    kind = operands(s)
    tiles = [kind.query_of(x, n, s) for x in queries for n in range(s.block_tiles)]
    sharing = len(tiles) // s.block_kv_heads  # lanes of one KV head
    kv_head, _ = divide(g * s.block_heads, s.group)
    status = index(work["status"], b)
    pattern = work["pattern"]

    def key(lanes: list[Attended], j: Any) -> tuple[Any, None]:
        def use(lanes: list[Attended], masked: bool) -> list[Attended]:
            kv = [
                kind.load_kv(kv_block, kv_head + n, j, s)
                for n in range(s.block_kv_heads)
            ]
            masks = (
                _masks(pattern, patterns, b, j, s) if masked else [None] * s.block_tiles
            )
            banks = step_banks(s.step)
            return abreast(
                kind.step(x, kv[n // sharing], lane, masks[n % s.block_tiles], banks, s)
                for n, (x, lane) in enumerate(zip(tiles, lanes, strict=True))
            )

        cases = (
            lambda lanes: lanes,
            functools.partial(use, masked=True),
            functools.partial(use, masked=False),
        )
        return lax.switch(index(status, j).astype(jnp.int32), cases, lanes), None

    lanes = range(s.block_lanes)
    fresh = first or s.recipe != "fp32"
    begun = [empty(s.step) if fresh else stepping(opened(own, n, s), s) for n in lanes]
    done, _ = lax.scan(key, begun, jnp.arange(s.key_tiles, dtype=jnp.int32))
    after = [stepped(x) for x in done]
    if fresh and not first:
        after = [merge(opened(own, n, s), x, s) for n, x in enumerate(after)]
    return closed(own, after, last=last)


def _masks(pattern: Any, patterns: Any, b: Any, j: Any, s: ContextTiling) -> list[Any]:
    """How each query tile of the block masks key tile j."""

    def mask(n: int) -> Any:
        which = index(index(pattern, b * s.block_tiles + n), j)
        bias = sbuf(*patterns.shape[1:], dtype=patterns.dtype, buffers=s.buffers)
        bias = dma_load(bias, index(patterns, which), queue=KEYS)
        return functools.partial(_biased, bias=bias, s=s)

    return [mask(n) for n in range(s.block_tiles)]


def _biased(x: Any, bias: Any, s: ContextTiling) -> Lane:
    """Adds a mask to scores, out of PSUM into SBUF."""
    y = tensor_tensor(sbuf(*x.shape, buffers=s.buffers), x, bias, op="add")
    yield
    return y


__all__ = ["attend_source"]
