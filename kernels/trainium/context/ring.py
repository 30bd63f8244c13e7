"""Ring attention: queries stay, keys and values travel the ring while the last ones are used.

The hops of the ring are those of a plan (`kernels.trainium.context.plan`): distances at which no
rank has anything to attend to are passed over in one longer shift, and a rank whose block nobody
further on needs does not send it. Keys and values are sent once for all query heads of a group, as
transfers of their own, and not at all after the last hop.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
from jax import lax

from emu.trainium.engines.memory import hbm
from emu.trainium.links.chip_collectives import chip_broadcast
from emu.trainium.links.neuronlink import send
from kernels.trainium.context.attend import attend_source
from kernels.trainium.context.finish import finish
from kernels.trainium.context.sizes import ContextTiling
from kernels.trainium.context.state import State, empty_state
from kernels.trainium.tiles import part

Block = Any  # pytree of HBM buffers that travel


def same(block: Block) -> Block:
    """A block that is keys and values already."""
    return block


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


def ring_attention(
    q: Any,
    block: Block,
    work: Any,
    patterns: Any,
    s: ContextTiling,
    ring: Ring,
    *,
    expand: Callable[[Block], Any] = same,
    transposed: bool = False,
    logsumexp: bool = False,
) -> Any:
    """Attention of a sequence spread over a ring of ranks.

    Args:
      q: HBM queries of this rank, in the form that `attend_source` takes.
      block: HBM, what travels: keys and values in that form, or what `expand` makes them from.
      work: known integers of this rank: `hops`, by hop as in `attend_source`, besides `shift
        [hops]`, how far blocks are sent on after a hop, and `live [hops]`, whether this rank's is
        needed there; `replicated`, likewise for each of the ring's roots.
      patterns: HBM, see `attend_source`.
      s: sizes.
      ring: where and how.
      expand: block to keys and values, on every rank that it comes to.
      transposed, logsumexp: see `finish`.

    Returns:
      As `finish`.

    Pseudocode:
      for hop: send block on (not last) | attend(q, expand(block)); take what arrived
    """
    state = attend_ring(q, block, work, patterns, s, ring, expand, logsumexp=logsumexp)
    return finish(state, s, transposed=transposed, logsumexp=logsumexp)


def attend_ring(
    q: Any,
    block: Block,
    work: Any,
    patterns: Any,
    s: ContextTiling,
    ring: Ring,
    expand: Callable[[Block], Any] = same,
    logsumexp: bool = True,
) -> State:
    """The hops of `ring_attention`; without `logsumexp` the state's maxima are left unfinished."""

    def use(
        held: Block, done: State, now: Any, *, first: bool = False, last: bool = False
    ) -> State:
        last = last and not logsumexp

        def attend(held: Block, done: State) -> State:
            return attend_source(
                q, expand(held), done, now, patterns, s, first=first, last=last
            )

        if first or expand is same:
            return attend(held, done)
        return lax.cond(now["needed"] != 0, attend, lambda held, done: done, held, done)

    def own() -> State:
        alone = ring.hops == 1 and not ring.roots
        done = use(block, empty_state(s), at(0), first=True, last=alone)
        last = ring.hops == 1 and not logsumexp
        return _replicated(
            q, block, work["replicated"], patterns, s, ring, done, expand, last
        )

    def pass_on(landing: Block, held: Block, now: Any) -> Block:
        move = lambda dst, src: send(  # noqa: E731
            dst, src, now["shift"], now["live"], axis=ring.axis, chips=ring.chips
        )
        return jax.tree.map(move, landing, held)

    def hop(carry: Any, now: Any) -> tuple[Any, None]:
        held, spare, done = carry
        if ring.overlap:
            arriving = pass_on(spare, held, now)
            return (arriving, held, use(held, done, now)), None
        done = use(held, done, now)
        return (pass_on(held, held, now), spare, done), None

    hops = work["hops"]
    at = lambda n: jax.tree.map(lambda x: x[n], hops)  # noqa: E731
    if ring.hops == 1:
        return own()
    slots = [
        jax.tree.map(lambda x: hbm(*x.shape, dtype=x.dtype), block) for _ in range(2)
    ]
    if ring.overlap:
        held = pass_on(slots[0], block, at(0))
        done = own()
    else:
        done = own()
        held = pass_on(slots[0], block, at(0))
    carry, last = (held, slots[1], done), ring.hops - 1
    if ring.unroll:
        for n in range(1, last):
            carry, _ = hop(carry, at(n))
    elif last > 1:
        carry, _ = lax.scan(hop, carry, jax.tree.map(lambda x: x[1:last], hops))
    held, _, done = carry
    return use(held, done, at(last), last=True)


def _replicated(
    q: Any,
    block: Block,
    work: Any,
    patterns: Any,
    s: ContextTiling,
    ring: Ring,
    done: State,
    expand: Callable[[Block], Any],
    last: bool,
) -> State:
    """Attends to the key tiles that every rank is sent; `last` if nothing follows."""
    single = dataclasses.replace(s, key_tiles=1)
    for n, (root, tile) in enumerate(ring.roots):

        def spread(x: Any, root: int = root, tile: int = tile) -> Any:
            each = x.shape[0] // s.key_tiles
            own = part(x, tile * each, each, 0)
            return chip_broadcast(
                hbm(*own.shape, dtype=x.dtype),
                own,
                root,
                axis=ring.axis,
                chips=ring.chips,
            )

        now = jax.tree.map(lambda x, n=n: x[n], work)
        held = jax.tree.map(spread, block)
        done = attend_source(
            q,
            expand(held),
            done,
            now,
            patterns,
            single,
            first=False,
            last=last and n == len(ring.roots) - 1,
        )
    return done


__all__ = ["Ring", "attend_ring", "ring_attention", "same"]
