"""All queries of a rank attend to the keys and values of one source, as far as a table says."""

import functools
from typing import Any

import jax.numpy as jnp
from jax import lax

from emu.trainium.isa import tensor_tensor
from emu.trainium.memory import dma_load, sbuf
from emu.trainium.sheet import LOAD_QUEUES
from kernels.trainium.context import operands as plain
from kernels.trainium.context import operands_mx
from kernels.trainium.context.operands import KEYS
from kernels.trainium.context.sizes import ContextTiling
from kernels.trainium.context.state import Lane as Row
from kernels.trainium.context.state import (
    State,
    begin,
    closed,
    lane_tiles,
    load,
    merge,
    opened,
    store,
)
from kernels.trainium.flash_steps import Attended, empty, step_banks
from kernels.trainium.lanes import Lane, abreast
from kernels.trainium.tiling import divide, index


def operands(s: ContextTiling) -> Any:
    """The module that knows the form of queries, keys and values."""
    return operands_mx if s.mx else plain


def attend_source(
    q: Any, block: Any, state: State, work: Any, patterns: Any, s: ContextTiling, *,
    first: bool, last: bool = False, base: Any = 0,
) -> State:  # fmt: skip
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
            return _fetch(tiles, q, state, (g, b), _places(g, b, base, s), wanted, s, first)

        def some(carry: Any, b: Any) -> tuple[Any, None]:
            state, (queries, own), spare = carry
            alive = index(work["some"], b) != 0
            over = functools.partial(_over_keys, queries, block, work, patterns, g, b, s, last)
            own = lax.cond(alive, over, lambda own: own, own)
            # Fetched before this block is stored: its state does not wait for that.
            after = jnp.minimum(b + 1, s.blocks - 1)
            wanted = (index(work["some"], after) != 0) & (b < s.blocks - 1)
            ahead = fetch(spare, state, after, wanted)
            put = functools.partial(_store, at=_places(g, b, base, s), last=last)
            if first:  # what is dead here must hold nothing when it comes to life
                state = put(state, own)
            else:
                state = lax.cond(alive, put, lambda state, own: state, state, own)
            return (state, ahead, (queries, own)), None

        begin = jnp.int32(0)
        now = fetch(_block_tiles(s), state, begin, index(work["some"], begin) != 0)
        blocks = jnp.arange(s.blocks, dtype=jnp.int32)
        return lax.scan(some, (state, now, _block_tiles(s)), blocks)[0][0], None

    return lax.scan(group, state, jnp.arange(s.groups, dtype=jnp.int32))[0]


# --- one block: query tiles and their state ---


def _block_tiles(s: ContextTiling) -> tuple[Any, list[Row]]:
    """SBUF for a block: each head's queries, and a state a lane."""
    queries = [operands(s).query_tiles(s) for _ in range(s.block_heads)]
    return queries, [lane_tiles(s) for _ in range(s.block_heads * s.block_tiles)]


def _places(g: Any, b: Any, base: Any, s: ContextTiling) -> list[Any]:
    """Places in the state of a block's lanes, head by head."""
    heads = [g * s.block_heads + h for h in range(s.block_heads)]
    first = base + b * s.block_tiles
    return [h * s.tiles + first + n for h in heads for n in range(s.block_tiles)]


def _fetch(
    tiles: Any, q: Any, state: State, at: tuple[Any, Any], places: list[Any], wanted: Any,
    s: ContextTiling, first: bool,
) -> Any:  # fmt: skip
    """Brings the queries and state of block `at` into SBUF, if they are `wanted`."""

    def fetch(queries: Any, own: Any) -> Any:
        (g, b), load_queries = at, operands(s).load_queries
        first = b * s.block_tiles
        heads = ((x, g * s.block_heads + h, LOAD_QUEUES[h % 2]) for h, x in enumerate(queries))
        return [load_queries(x, q, first, head, queue) for x, head, queue in heads], own

    def fetch_all(queries: Any, own: Any) -> Any:
        queries, own = fetch(queries, own)
        return queries, [load(x, state, n) for x, n in zip(own, places, strict=True)]

    queries, own = tiles
    if first:
        own = [begin(x) for x in own]
    get = fetch if first else fetch_all
    return lax.cond(wanted, get, lambda queries, own: (queries, own), queries, own)


def _store(state: State, own: list[Row], *, at: list[Any], last: bool) -> State:
    for x, place in zip(own, at, strict=True):
        state = store(state, x, place, last=last)
    return state


# --- its key tiles ---


def _over_keys(
    queries: Any, kv_block: Any, work: Any, patterns: Any, g: Any, b: Any, s: ContextTiling,
    last: bool, own: list[Row],
) -> list[Row]:  # fmt: skip
    """Attends a block's lanes to the source's live key tiles."""
    kind = operands(s)
    tiles = [kind.query_of(x, n, s) for x in queries for n in range(s.block_tiles)]
    sharing = len(tiles) // s.block_kv_heads  # lanes of one KV head
    kv_head, _ = divide(g * s.block_heads, s.group)
    status, pattern = index(work["status"], b), work["pattern"]

    def key(lanes: list[Attended], j: Any) -> tuple[Any, None]:
        def use(lanes: list[Attended], masked: bool) -> list[Attended]:
            kv = [kind.load_kv(kv_block, kv_head + n, j, s) for n in range(s.block_kv_heads)]
            masks = _masks(pattern, patterns, b, j, s) if masked else [None] * s.block_tiles
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

    merging = s.recipe != "fp32"
    begun = [empty(s.step) if merging else opened(x, s) for x in own]
    done, _ = lax.scan(key, begun, jnp.arange(s.key_tiles, dtype=jnp.int32))
    pairs = zip(own, done, strict=True)
    if merging:
        return [merge(x, (out, peak, total), s, last=last) for x, (out, (peak, total, _)) in pairs]
    return [closed(x, y, last=last) for x, y in pairs]


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
