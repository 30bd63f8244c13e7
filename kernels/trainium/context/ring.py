"""Ring attention: queries stay, keys and values travel the ring while the last ones are used.

The hops of the ring are those of `kernels.trainium.context.hops`: distances at which no rank has
anything to attend to are passed over in one longer shift, and a rank whose block nobody further on
needs does not send it. Keys and values are sent once for all query heads of a group, as transfers
of their own, and not at all after the last hop.

Three buffers hold a rank's block of keys and values: its own, which stays, and two that take turns
to receive and to be used. On three ranks, with `k0` what rank 0 set out with, rank 2 has

    hop   used   arriving meanwhile
    0     k2     k1 in the first
    1     k1     k0 in the second
    2     k0     -
"""

import dataclasses
import functools
from typing import Literal, TypeAlias, overload

import jax
from jax import lax

from emu.annotations import PyTree
from emu.tracing.once import once
from emu.trainium.engines.memory import hbm
from emu.trainium.links.chip_collectives import chip_broadcast
from emu.trainium.links.neuronlink import send
from emu.trainium.spaces import Hbm
from kernels.trainium.context.attend import RankOperands, attend_source
from kernels.trainium.context.finish import Finished, finish
from kernels.trainium.context.sizes import ContextTiling
from kernels.trainium.context.state import State, empty_state
from kernels.trainium.context.work import HopWork, RingWork, SourceWork, Work
from kernels.trainium.tiles import part

Block: TypeAlias = PyTree
"""HBM buffers that travel."""

Carry: TypeAlias = tuple[Block, Block, State]
"""What a rank holds, a spare buffer for what arrives, and what queries attended to so far."""


@dataclasses.dataclass(frozen=True)
class Ring:
    """Where the ring runs and how.

    Attributes:
      axis: mesh axis of its ranks.
      chips: mesh axes over chips, outermost first.
      hops: how many sources each rank meets, its own included.
      roots: key tiles that all ranks are sent ahead of the ring, `(rank, key tile)`.
      overlap: whether a hop's transfer runs beside the computation on the last one. False lets it
        land in the buffer that was just read, so that it waits.
      unroll: writes every hop out instead of a loop over hops.
    """

    axis: str
    chips: tuple[str, ...]
    hops: int
    roots: tuple[tuple[int, int], ...] = ()
    overlap: bool = True
    unroll: bool = False

    def pass_on(self, landing: Block, held: Block, work: HopWork) -> Block:
        """Sends what is held on to the next rank that needs it; gives what landed."""

        def move(dst: Hbm, src: Hbm) -> Hbm:
            return send(
                dst,
                src,
                work.shift,
                work.sends,
                axis=self.axis,
                chips=self.chips,
            )

        return jax.tree.map(move, landing, held)


@overload
def ring_attention(
    operands: RankOperands,
    work: RingWork,
    tiling: ContextTiling,
    ring: Ring,
    *,
    transposed: bool = False,
    logsumexp: Literal[False] = False,
) -> Hbm: ...


@overload
def ring_attention(
    operands: RankOperands,
    work: RingWork,
    tiling: ContextTiling,
    ring: Ring,
    *,
    transposed: bool = False,
    logsumexp: Literal[True],
) -> Finished: ...


def ring_attention(
    operands: RankOperands,
    work: RingWork,
    tiling: ContextTiling,
    ring: Ring,
    *,
    transposed: bool = False,
    logsumexp: bool = False,
) -> Hbm | Finished:
    """Attention of a sequence spread over a ring of ranks.

    Args:
      operands: of this rank. What travels is the block: keys and values in the form that
        `attend_source` takes, or what its projections make them of.
      work: known integers of this rank.
      tiling: sizes.
      ring: where and how.
      transposed, logsumexp: see `finish`.

    Returns:
      As `finish`.

    Pseudocode:
      for hop: send block on (not last) | attend(q, made of block); take what arrived
    """
    # A user's last step may read the maxima, as a log-sum-exp does.
    maxima = logsumexp or operands.finishing is not None
    state = attend_ring(operands, work, tiling, ring, logsumexp=maxima)
    results = finish(
        state,
        tiling,
        transposed=transposed,
        logsumexp=logsumexp,
        finishing=operands.finishing,
    )
    return operands.projections.output(results, tiling)


def attend_ring(
    operands: RankOperands,
    work: RingWork,
    tiling: ContextTiling,
    ring: Ring,
    *,
    logsumexp: bool = True,
) -> State:
    """The hops of `ring_attention`; without `logsumexp` the state's maxima are left unfinished."""
    operands = operands.asking(tiling)

    def use(
        held: Block,
        done: State,
        source: SourceWork,
        *,
        first: bool = False,
        last: bool = False,
    ) -> State:
        def attend(held: Block, done: State) -> State:
            met = operands.meeting(held, tiling)
            return attend_source(met, source, done, tiling, first=first, last=last)

        def pass_by(held: Block, done: State) -> State:
            return done

        if first or not operands.projections.makes_block:
            return attend(held, done)
        # A rank that attends to nothing of a block makes no keys and values of it either.
        needed = source.needed != 0
        return lax.cond(needed, attend, pass_by, held, done)

    use_next = once(use)
    # The log-sum-exp wants the row maxima of the very last source too.
    use_last = use_next if logsumexp else functools.partial(use, last=True)

    def use_own() -> State:
        only_hop = ring.hops == 1
        done = use(
            operands.block,
            empty_state(tiling),
            at(0).source,
            first=True,
            # Replicated tiles come after a rank's own block, and still need its maxima.
            last=only_hop and not ring.roots and not logsumexp,
        )
        last = only_hop and not logsumexp
        return _replicated(operands, work.replicated, tiling, ring, done, last)

    def hop(carry: Carry, now: HopWork) -> tuple[Carry, None]:
        held, spare, done = carry
        if ring.overlap:
            # Sent before it is used: the transfer runs beside the computation.
            arriving = ring.pass_on(spare, held, now)
            done = use_next(held, done, now.source)
            # What arrived is used next, and what was used is where the block after that lands.
            return (arriving, held, done), None
        done = use_next(held, done, now.source)
        # Lands in what was just read, so that it waits.
        arriving = ring.pass_on(held, held, now)
        return (arriving, spare, done), None

    def at(place: int) -> HopWork:
        return _at(work.hops, place)

    if ring.hops == 1:
        return use_own()
    # The first hop apart: a rank's own block stays, so it goes to a third buffer.
    own = operands.block
    landing = like(own)
    spare = like(own)
    if ring.overlap:
        held = ring.pass_on(landing, own, at(0))
        done = use_own()
    else:
        done = use_own()
        held = ring.pass_on(landing, own, at(0))
    carry = held, spare, done
    last = ring.hops - 1
    if ring.unroll:
        for place in range(1, last):
            carry, _ = hop(carry, at(place))
    elif last > 1:
        # One loop body for all of these hops: what differs between them is in their integers.
        middle = jax.tree.map(lambda table: table[1:last], work.hops)
        carry, _ = lax.scan(hop, carry, middle)
    # The last block is used and not sent on.
    held, _, done = carry
    return use_last(held, done, at(last).source)


def _at(work: Work, place: int) -> Work:
    """Known integers of one hop, or of one source."""
    return jax.tree.map(lambda table: table[place], work)


def like(block: Block) -> Block:
    """Fresh buffers of the same shapes."""
    return jax.tree.map(lambda x: hbm(*x.shape, dtype=x.dtype), block)


def _replicated(
    operands: RankOperands,
    work: SourceWork,
    tiling: ContextTiling,
    ring: Ring,
    done: State,
    last: bool,
) -> State:
    """Attends to the key tiles that every rank is sent; `last` if nothing follows."""
    # A source of one key tile, for which the query side is cut as ever.
    single = dataclasses.replace(tiling, key_tiles=1)
    last_root = len(ring.roots) - 1
    for place, (root, key_tile) in enumerate(ring.roots):
        # A tile of keys is several pieces, and so is its part of every buffer of the block.
        def spread(x: Hbm, root: int = root, key_tile: int = key_tile) -> Hbm:
            pieces = x.shape[0] // tiling.key_tiles
            # Every rank reads this place of its own block, but only what the root read is sent.
            first = key_tile * pieces
            own = part(x, first, pieces, 0)
            received = hbm(*own.shape, dtype=x.dtype)
            return chip_broadcast(
                received,
                own,
                root,
                axis=ring.axis,
                chips=ring.chips,
            )

        now = _at(work, place)
        held = jax.tree.map(spread, operands.block)
        done = attend_source(
            operands.meeting(held, single),
            now,
            done,
            single,
            first=False,
            last=last and place == last_root,
        )
    return done


__all__ = ["Ring", "attend_ring", "like", "ring_attention"]
