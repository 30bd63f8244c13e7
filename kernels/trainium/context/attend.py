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
from kernels.trainium.context.state import State, begin, lane_tiles, load, merge, store
from kernels.trainium.flash_steps import Attended, empty, step_banks
from kernels.trainium.lanes import Lane, abreast
from kernels.trainium.tiling import divide, index


def operands(s: ContextTiling) -> Any:
    """The module that knows the form of queries, keys and values."""
    return operands_mx if s.mx else plain


def attend_source(
    q: Any, block: Any, state: State, work: Any, patterns: Any, s: ContextTiling, *,
    first: bool, base: Any = 0,
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
      base: known integer, where in `state` the queries' part begins.

    Returns:
      The state, in the same buffers.

    Pseudocode:
      for group of heads, block of query tiles: if any key tile is live:
        load q and state; for key tile, if live: load k, v (and masks); for lane: flash step
        store state
    """
    last = s.groups * s.blocks - 1

    def alive(item: Any) -> Any:
        return index(work["some"], divide(item, s.blocks)[1]) != 0

    def places(item: Any) -> list[Any]:
        return [base + at for at in _items(item, s)]

    def group(carry: Any, g: Any) -> tuple[Any, None]:
        def some(carry: Any, b: Any) -> tuple[Any, None]:
            state, (queries, own), spare = carry
            item = g * s.blocks + b
            over = functools.partial(_over_keys, queries, block, work, patterns, g, b, s)
            own = lax.cond(alive(item), over, lambda own: own, own)
            # Fetched before this block is stored: its state does not wait for that.
            following = jnp.minimum(item + 1, last)
            ahead = _ahead(spare, q, state, following, places(following), alive, s, first)
            put = functools.partial(_store, at=places(item))
            if first:  # what is dead here must hold nothing when it comes to life
                state = put(state, own)
            else:
                state = lax.cond(alive(item), put, lambda state, own: state, state, own)
            return (state, ahead, (queries, own)), None

        return lax.scan(some, carry, jnp.arange(s.blocks, dtype=jnp.int32))[0], None

    now, spare = _work(s), _work(s)
    now = _ahead(now, q, state, jnp.int32(0), places(jnp.int32(0)), alive, s, first)
    groups = jnp.arange(s.groups, dtype=jnp.int32)
    return lax.scan(group, (state, now, spare), groups)[0][0]


# --- one block: query tiles and their state ---


def _work(s: ContextTiling) -> tuple[Any, list[Attended]]:
    """SBUF for a block: queries `[part, tiles, rows]` by head and part, and a state a lane."""
    queries = [operands(s).query_tiles(s) for _ in range(s.block_heads)]
    return queries, [lane_tiles(s) for _ in range(s.block_heads * s.block_tiles)]


def _items(item: Any, s: ContextTiling) -> list[Any]:
    """Places in the state of a block's lanes, head by head."""
    g, b = divide(item, s.blocks)
    heads = [g * s.block_heads + h for h in range(s.block_heads)]
    return [h * s.tiles + b * s.block_tiles + n for h in heads for n in range(s.block_tiles)]


def _ahead(
    work: Any, q: Any, state: State, item: Any, places: list[Any], alive: Any, s: ContextTiling,
    first: bool,
) -> Any:  # fmt: skip
    """Brings a block's queries and state into SBUF, if it has anything to attend to."""

    def fetch(queries: Any, own: Any) -> Any:
        g, b = divide(item, s.blocks)
        load_queries, first = operands(s).load_queries, b * s.block_tiles
        heads = ((x, g * s.block_heads + h, LOAD_QUEUES[h % 2]) for h, x in enumerate(queries))
        return [load_queries(x, q, first, head, queue) for x, head, queue in heads], own

    def fetch_all(queries: Any, own: Any) -> Any:
        queries, own = fetch(queries, own)
        return queries, [load(x, state, at) for x, at in zip(own, places, strict=True)]

    queries, own = work
    if first:
        own = [begin(x) for x in own]
    get = fetch if first else fetch_all
    return lax.cond(alive(item), get, lambda queries, own: (queries, own), queries, own)


def _store(state: State, own: list[Attended], *, at: list[Any]) -> State:
    for x, place in zip(own, at, strict=True):
        state = store(state, x, place)
    return state


# --- its key tiles ---


def _over_keys(
    queries: Any, kv_block: Any, work: Any, patterns: Any, g: Any, b: Any, s: ContextTiling,
    own: list[Attended],
) -> list[Attended]:  # fmt: skip
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

    begun = own if s.recipe == "fp32" else [empty(s.step) for _ in own]
    done, _ = lax.scan(key, begun, jnp.arange(s.key_tiles, dtype=jnp.int32))
    if s.recipe == "fp32":
        return done
    return [merge(x, y, s) for x, y in zip(own, done, strict=True)]


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
