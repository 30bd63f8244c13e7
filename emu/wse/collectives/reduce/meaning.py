"""Sums and maxima along a line of PEs, by any tree, in the order in which the machine adds."""

import jax.numpy as jnp
import numpy as np
from jax import lax

from emu import given, numerics
from emu.annotations import KnownInt
from emu.datasheet import Device
from emu.errors import LimitExceeded
from emu.instruction import Cost, Operand, instruction
from emu.tracing.jaxpr import caller
from emu.wse import trees
from emu.wse.collectives.reduce.arrival import arrival
from emu.wse.collectives.reduce.chains import NOBODY, Chains, chains_of
from emu.wse.pe.isa import SPACE
from emu.wse.pe.laws import known, on_datapath, operation_cycles
from emu.wse.spaces import Sram
from emu.wse.timeline.calls import begin, elements_of, group_size, role
from emu.wse.timeline.tiles import OPS, at_place, join
from emu.wse.trees.tree import Tree
from emu.wse.wavelets import words

UNROLL = 32  # longer chains are a loop, so that XLA compiles them in constant time


def _cost(
    device: Device,
    dst: Operand,
    x: Operand,
    index: Operand,
    elements: Operand,
    *,
    axis: str,
    op: str,
    tree: Tree,
    call: bool,
) -> Cost:
    n = known(elements)
    sent_words = words(n, x.dtype)
    nbytes = x.dtype.itemsize * n
    adds = role(index, [len(children) for children in tree.children])
    # Who streams its last child through sends as it adds.
    from_memory = role(index, [not streamed for streamed in tree.streamed])
    sends = from_memory & (tree.pes > 1)
    into_memory = [len(children) for children in tree.into_memory]
    into_memory[tree.root] = len(tree.children[tree.root])
    add_cycles = operation_cycles(device, sent_words)
    send_cycles = operation_cycles(device, sent_words, sends=True)
    return on_datapath(
        begin(device, call) + (adds * add_cycles + sends * send_cycles),
        adds * n,
        moved_bytes={
            "sram_read": (adds + sends) * nbytes,
            "sram_write": role(index, into_memory) * nbytes,
        },
        counts={"wavelet_hops": role(index, tree.hops) * sent_words},
    )


@instruction(
    "wse.reduce",
    cost=_cost,
    reads=(SPACE, "count", "count"),
    writes=SPACE,
    arrival=arrival,
)
def _reduce(
    dst: Sram,
    x: Sram,
    index: KnownInt,
    elements: KnownInt,
    *,
    axis: str,
    op: str,
    tree: Tree,
    call: bool,
) -> Sram:
    tiles = x.reshape(-1, tree.pes, *x.shape[1:])
    sums = _Sums(op, tiles)
    for chains in chains_of(tree):
        sums.add(chains)
    # Rounded here, where it stands once: of what is padded XLA would round every PE's.
    total = numerics.rounded(sums.of(tree.root))
    whole = at_place(total, tree.pes, tree.root)
    return whole.astype(dst.dtype)


class _Sums:
    """The streams that heads of chains send, as far as they are summed.

    Args:
      op: `"add"` or `"max"`.
      tiles: `[groups, pes, ...]`, what each PE adds.
    """

    def __init__(self, op: str, tiles: Sram):
        self.op = op
        self.tiles = tiles
        self.streams = tiles[:, :0]  # `[groups, heads so far, ...]`
        self.place: dict[int, int] = {}  # of a head's stream among them

    def of(self, head: int) -> Sram:
        """`[groups, ...]`, what this head sends."""
        return self.streams[:, self.place[head]]

    def add(self, chains: Chains) -> None:
        """Sums these chains, whose children in memory have been summed before."""
        longest = max(chains.members.shape[1], chains.into_memory.shape[2])
        looped = longest > UNROLL
        sent = self._in_a_loop(chains) if looped else self._unrolled(chains)
        for head in chains.members[:, 0].tolist():
            self.place[head] = len(self.place)
        self.streams = jnp.concatenate([self.streams, sent], axis=1)

    def _unrolled(self, chains: Chains) -> Sram:
        """What the head of each chain sends, `[groups, chains, ...]`."""
        length = chains.members.shape[1]
        streamed = self._total(chains, length - 1)
        for nth in reversed(range(length - 1)):
            streamed = join(self.op, self._total(chains, nth), streamed)
        return streamed

    def _total(self, chains: Chains, nth: int) -> Sram:
        """The nth member's own tile and what it adds in memory, `[groups, chains, ...]`."""
        total = _pick(self.tiles, chains.members[:, nth])
        for k in range(chains.into_memory.shape[2]):
            total = self._with_children(total, chains.into_memory[:, nth, k])
        return total

    def _in_a_loop(self, chains: Chains) -> Sram:
        """The same, over steps that are alike."""
        # [length, groups, chains, ...]
        totals = jnp.moveaxis(self.tiles[:, chains.members], 2, 0)
        if chains.into_memory.size:
            # [most, length, chains]
            children = np.moveaxis(chains.into_memory, (2, 1), (0, 1))
            places = jnp.asarray(self._places(children), jnp.int32)
            present = jnp.asarray(children != NOBODY)
            totals, _ = lax.scan(self._add_children, totals, (places, present))

        def stream_through(streamed: Sram, total: Sram) -> tuple[Sram, None]:
            return join(self.op, total, streamed), None

        sent, _ = lax.scan(stream_through, totals[-1], totals[:-1], reverse=True)
        return sent

    def _add_children(
        self,
        totals: Sram,
        step: tuple[jnp.ndarray, jnp.ndarray],
    ) -> tuple[Sram, None]:
        """One child of each member, where it has so many: `[length, chains]` places."""
        places, present = step
        stream = jnp.moveaxis(self.streams[:, places], 1, 0)
        over_tiles = [1] * (totals.ndim - 3)
        mask = present.reshape(len(present), 1, -1, *over_tiles)
        joined = join(self.op, totals, stream)
        return jnp.where(mask, joined, totals), None

    def _with_children(self, total: Sram, children: np.ndarray) -> Sram:
        """`total` and the streams of these children of it, where there are any."""
        present = children != NOBODY
        if not present.any():
            return total
        streams = _pick(self.streams, self._places(children))
        joined = join(self.op, total, streams)
        if present.all():
            return joined
        over_tiles = [1] * (total.ndim - 2)
        mask = present.reshape(1, -1, *over_tiles)
        return jnp.where(mask, joined, total)

    def _places(self, heads: np.ndarray) -> np.ndarray:
        """Where their streams are; 0 for `NOBODY`."""
        place = np.vectorize(lambda head: self.place.get(head, 0), otypes=[int])
        return place(heads)


def _pick(tiles: Sram, index: np.ndarray) -> Sram:
    """`tiles[:, index]`, as a slice where it is one: XLA fuses slices but copies gathers."""
    first = int(index[0])
    last = int(index[-1])
    step = 1
    if index.size > 1:
        steps = np.diff(index)
        step = int(steps[0])
        is_slice = step > 0 and (steps == step).all()
        if not is_slice:
            return tiles[:, index]
    return lax.slice_in_dim(tiles, first, last + 1, step, axis=1)


def reduce(
    dst: Sram,
    x: Sram,
    *,
    axis: str,
    tree: Tree | None = None,
    op: str = "add",
    group: int | None = None,
    elements: KnownInt | None = None,
    call: bool = True,
) -> Sram:
    """Sums (or takes the max) along `axis` into the root of each group; NaN elsewhere.

    Every partial sum is rounded to the tile's dtype: a PE adds the streams of its children to its
    own tile one after the other.

    ```python
    y = reduce(sram_tile(shape=x.shape, dtype=x.dtype), x, axis="row", tree=trees.two_phase(64, 8))
    ```

    Args:
      dst: tile like `x`.
      x: float tile in SRAM.
      axis: mesh axis.
      tree: over the PEs of a group; default a chain to its first PE.
      op: `"add"` or `"max"`.
      group: consecutive PEs that share a root, a divisor of the axis; default all.
      elements: known number of elements sent, where it is less than the whole tile.
      call: whether it begins a call of its own.

    Raises:
      LimitExceeded: the group does not divide the axis, or the tree is of another size.
    """
    size = group_size(axis, group)
    given.one_of("wse.reduce: op", op, OPS)
    tree = trees.chain(size) if tree is None else tree
    if not isinstance(tree, Tree):
        given.refuse(f"wse.reduce: tree is {given.told(tree)}, must be one of trees")
    if tree.pes != size:
        raise LimitExceeded(
            f"wse.reduce: the tree has {tree.pes} PEs, a group has {size}; build it for {size}",
            caller(),
        )
    index = lax.axis_index(axis)
    count = elements_of(x, elements)
    return _reduce(dst, x, index, count, axis=axis, op=op, tree=tree, call=call)


__all__ = ["reduce"]
