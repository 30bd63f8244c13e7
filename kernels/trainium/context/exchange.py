"""Kernels of schemes that are not a ring of keys: gathered, by heads, tiled, passing queries.

All of them attend by `attend_source`, so what they cost besides is what they move. They take the
operands of a rank with its own keys and values as the block, `(k, v)`, or with what its projections
make these of.
"""

import dataclasses
from typing import TypeAlias, TypeVar

import jax
import jax.numpy as jnp
from jax import lax

from emu.annotations import KnownInt, PyTree
from emu.tracing.loop import loop
from emu.trainium.engines.memory import hbm
from emu.trainium.links.chip_collectives import chip_all_gather, chip_all_to_all
from emu.trainium.links.neuronlink import send
from emu.trainium.spaces import Hbm
from kernels.refusal import refuse
from kernels.trainium.context.attend import RankOperands, attend_source
from kernels.trainium.context.combine import combine
from kernels.trainium.context.finish import Finished, finish
from kernels.trainium.context.ring import Ring, attend_ring, like
from kernels.trainium.context.sizes import ContextTiling
from kernels.trainium.context.state import State, empty_state
from kernels.trainium.context.work import HopWork, RingWork, SourceWork
from kernels.trainium.tiles import index

Tree = TypeVar("Tree")

Carry: TypeAlias = tuple[PyTree, PyTree, State]
"""What a rank holds, a spare buffer for what arrives, and what queries attended to so far."""


@dataclasses.dataclass(frozen=True)
class Exchange:
    """The ranks that exchange something.

    Attributes:
      axis: their mesh axis.
      ranks: its size.
      chips: all mesh axes over chips, outermost first.
    """

    axis: str
    ranks: int
    chips: tuple[str, ...]

    def gathered(self, tree: Tree) -> Tree:
        """Every leaf's first dimension from all ranks, one after another."""

        def gather(own: Hbm) -> Hbm:
            first, *rest = own.shape
            whole = hbm(self.ranks * first, *rest, dtype=own.dtype)
            return chip_all_gather(whole, own, axis=self.axis, chips=self.chips)

        return jax.tree.map(gather, tree)

    def swapped(self, tree: Tree, split: int) -> Tree:
        """Dimension `split` of every leaf dealt out over the ranks, dimension 0 joined from all.

        Of 4 ranks with `[tiles, 8 heads, ...]` each gets 2 heads of all tiles, `[4 · tiles, 2
        heads, ...]`; with `split` 0 each gets a fourth of the first dimension from everybody.
        """

        def swap(own: Hbm) -> Hbm:
            shape = list(own.shape)
            shape[split] //= self.ranks
            shape[0] *= self.ranks
            received = hbm(*shape, dtype=own.dtype)
            return chip_all_to_all(
                received,
                own,
                axis=self.axis,
                chips=self.chips,
                split=split,
                join=0,
            )

        return jax.tree.map(swap, tree)


def _at(tree: Tree, place: KnownInt) -> Tree:
    """Every leaf at a place of its first dimension, a view."""
    return jax.tree.map(lambda x: index(x, place), tree)


def all_gather(
    operands: RankOperands,
    work: SourceWork,
    *,
    tiling: ContextTiling,
    across: Exchange,
) -> Finished:
    """Every rank has all keys and values before it begins; sequence-long buffers in HBM.

    Args:
      operands: of this rank.
      work: known integers of one source, all ranks' key tiles one after another.
      tiling: sizes of one rank.
      across: all ranks.

    Returns:
      Output and log-sum-exp, see `finish`.
    """
    gathered = across.gathered(operands.block)
    everything = operands.asking(tiling).meeting(gathered, tiling)
    key_tiles = tiling.key_tiles * across.ranks
    whole = dataclasses.replace(tiling, key_tiles=key_tiles)
    state = empty_state(tiling)
    only_source = _at(work, 0)
    # The same step as a hop of a ring, with one long source, so no state is carried between
    # sources.
    done = attend_source(everything, only_source, state, whole, first=True)
    return _finished(done, operands, tiling)


def headwise(tiling: ContextTiling, inner: int) -> ContextTiling:
    """Sizes of a rank that has `inner` ranks' tokens of its part of the heads.

    Raises:
      LimitExceeded: heads that the ranks do not divide.
    """
    if tiling.heads % inner or tiling.value_heads % inner:
        refuse(
            f"ulysses: {tiling.heads} query heads and {tiling.value_heads} KV heads over {inner} "
            "ranks: must be multiples of them; use fewer inner ranks, or repeat KV heads"
        )
    return dataclasses.replace(
        tiling,
        # As much work as before: 4 ranks with a fourth of the heads each, and four times the
        # tokens.
        heads=tiling.heads // inner,
        kv_heads=tiling.kv_heads // inner,
        tiles=tiling.tiles * inner,
        key_tiles=tiling.key_tiles * inner,
    )


def ulysses(
    operands: RankOperands,
    work: RingWork,
    *,
    tiling: ContextTiling,
    among: Exchange,
    ring: Ring,
) -> Finished:
    """Heads instead of tokens are spread over the inner ranks while attention runs on the ring.

    Args:
      operands: this rank's tokens and all heads.
      work: see `ring_attention`, for the tokens of all inner ranks.
      tiling: sizes of one rank's tokens.
      among: the inner ranks.
      ring: over the outer ranks.

    Returns:
      Output and log-sum-exp, see `finish`.
    """
    # All stand as [tiles, heads, ...], but values in one dtype: [pieces, keys, heads · value_dim].
    heads = 1
    heads_of_values = 1 if tiling.mx else 2
    # Queries change hands too, which a ring spares them; in return all ranks of a group have the
    # same part of the mask.
    q = among.swapped(operands.q, heads)
    if operands.projections.makes_block:
        block = among.swapped(operands.block, heads)
    else:
        own_k, own_v = operands.block
        k = among.swapped(own_k, heads)
        v = among.swapped(own_v, heads_of_values)
        block = k, v
    finishing = operands.finishing
    if finishing is not None:
        own = among.swapped(finishing.own, heads)
        finishing = dataclasses.replace(finishing, own=own)
    mine = dataclasses.replace(operands, q=q, block=block, finishing=finishing)
    sizes = headwise(tiling, among.ranks)
    state = attend_ring(mine, work, sizes, ring)
    results = _finished(state, mine, sizes)
    # Back from some heads of all tokens, `[heads, tiles, ...]`, to all heads of own tokens.
    of_tokens = 1
    return among.swapped(results, of_tokens)


def tiles(
    operands: RankOperands,
    work: SourceWork,
    *,
    tiling: ContextTiling,
    down: Exchange,
    along: Exchange,
) -> Finished:
    """A rank has one tile of the score matrix: queries of its mesh row, keys of its mesh column.

    Args:
      operands: of this rank.
      work: known integers; source n is the queries of column n of the mesh, against the keys of
        all rows one after another.
      tiling: sizes of one rank.
      down: the ranks of a mesh column, as many as rows.
      along: those of a mesh row, as many as columns.

    Returns:
      Output and log-sum-exp, see `finish`.
    """
    columns = along.ranks

    def split_by_column(x: Hbm) -> Hbm:
        _, *rest = x.shape
        # Gathered in the order of ranks, so a column's queries stand together.
        return x.reshape(columns, -1, *rest)

    asking = operands.asking(tiling)
    row_of_queries = along.gathered(asking.q)
    by_column = jax.tree.map(split_by_column, row_of_queries)
    # Together, row by column, all ranks of the mesh meet every pair of queries and keys once.
    column_of_keys = down.gathered(operands.block)
    everything = asking.meeting(column_of_keys, tiling)
    key_tiles = tiling.key_tiles * down.ranks
    whole = dataclasses.replace(tiling, key_tiles=key_tiles)

    def attend(done: State, column: KnownInt) -> State:
        queries = _at(by_column, column)
        theirs = dataclasses.replace(everything, q=queries)
        now = _at(work, column)
        # Every column's queries have a part of the state of their own, which holds nothing yet.
        base = column * tiling.units
        return attend_source(theirs, now, done, whole, first=True, base=base)

    state = empty_state(tiling, columns)
    done = loop(attend, state, columns)
    return _returned(done, operands, tiling, along)


def pass_q(
    operands: RankOperands,
    work: RingWork,
    *,
    tiling: ContextTiling,
    across: Exchange,
) -> Finished:
    """Queries travel the ring; keys stay, and what a rank found for others is sent back at the end.

    Args:
      operands: of this rank.
      work: known integers by hop, see `ring_attention`; at hop n the queries of rank `me - n`.
      tiling: sizes of one rank.
      across: all ranks.

    Returns:
      Output and log-sum-exp, see `finish`.
    """
    me = lax.axis_index(across.axis)
    ranks = across.ranks
    size = jnp.int32(ranks)
    last = ranks - 1
    # Made once, before queries travel, and not anew wherever they come to.
    operands = operands.asking(tiling).meeting(operands.block, tiling)

    def pass_on(landing: PyTree, held: PyTree, now: HopWork) -> PyTree:
        def move(dst: Hbm, src: Hbm) -> Hbm:
            return send(
                dst, src, now.shift, now.sends, axis=across.axis, chips=across.chips
            )

        return jax.tree.map(move, landing, held)

    def use(
        held: PyTree,
        done: State,
        place: KnownInt,
        now: HopWork,
    ) -> State:
        # Whose queries these are says where in the state their results go: of 4 ranks, rank 1 has
        # those of rank 3 at hop 2. A remainder of -1 would be -1, so `size` is added first.
        owner = lax.rem(me - place + size, size)
        theirs = dataclasses.replace(operands, q=held)
        return attend_source(
            theirs,
            now.source,
            done,
            tiling,
            # Each owner's part of the state is met at one hop only, so it always starts from
            # nothing.
            first=True,
            base=owner * tiling.units,
        )

    def hop(carry: Carry, at: tuple[KnownInt, HopWork]) -> tuple[Carry, None]:
        held, spare, done = carry
        place, now = at
        # Sent before it is used: the transfer runs beside the computation.
        arriving = pass_on(spare, held, now)
        done = use(held, done, place, now)
        return (arriving, held, done), None

    own = operands.q
    done = empty_state(tiling, ranks)
    places = jnp.arange(ranks, dtype=jnp.int32)
    last_place = places[last]
    last_hop = _at(work.hops, last)
    if ranks == 1:
        done = use(own, done, last_place, last_hop)
        return _returned(done, operands, tiling, across)
    landing = like(own)
    spare = like(own)
    first_hop = _at(work.hops, 0)
    held = pass_on(landing, own, first_hop)
    done = use(own, done, places[0], first_hop)
    # The first hop was written out, and after the last nothing is sent.
    middle_places = places[1:-1]
    middle_hops = jax.tree.map(lambda table: table[1:last], work.hops)
    carry = held, spare, done
    carry, _ = lax.scan(hop, carry, (middle_places, middle_hops))
    held, _, done = carry
    done = use(held, done, last_place, last_hop)
    return _returned(done, operands, tiling, across)


def _returned(
    state: State, operands: RankOperands, tiling: ContextTiling, among: Exchange
) -> Finished:
    """Partial results of all ranks' queries to their owners, which merge them."""
    # Parts stand by owner; dealt out by owner and joined by sender, they are one queries' parts.
    by_owner = 0
    parts = among.swapped(state, by_owner)
    # What ranks found about the same queries has different maxima, so it is merged and not added.
    own = combine(parts, tiling, among.ranks)
    return _finished(own, operands, tiling)


def _finished(state: State, operands: RankOperands, tiling: ContextTiling) -> Finished:
    """Output and log-sum-exp of what was attended to."""
    results = finish(
        state,
        tiling,
        transposed=False,
        logsumexp=True,
        finishing=operands.finishing,
    )
    return operands.projections.output(results, tiling)


__all__ = ["Exchange", "all_gather", "headwise", "pass_q", "tiles", "ulysses"]
