"""Sums and maxima along a line of PEs, by any tree, in the order in which the machine adds."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from emu.datasheet import Device
from emu.errors import LimitExceeded
from emu.instruction import Cost, Crossing, Operand, caller, instruction
from emu.wse import trees
from emu.wse.collectives.reduce import arrival as of_trees
from emu.wse.collectives.reduce.arrival import Batch
from emu.wse.pe.isa import SPACE
from emu.wse.pe.laws import known, on_datapath, words
from emu.wse.timeline.roles import (
    Ticks,
    at_place,
    begin,
    crossed,
    group_size,
    join,
    line_words,
    role,
)
from emu.wse.timeline.wires import operation_cycles, wires
from emu.wse.trees import Tree

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
    w, nbytes = words(n, x.dtype), x.dtype.itemsize * n
    added = role(index, [len(own) for own in tree.children])
    sends = role(index, [not own for own in tree.streamed]) & (tree.pes > 1)
    stored = [
        len(tree.children[i] if i == tree.root else a) for i, a in enumerate(tree.aside)
    ]
    cycles = added * operation_cycles(device, w) + sends * operation_cycles(
        device, w, sends=True
    )
    return on_datapath(
        begin(device, call) + cycles,
        added * n,
        moved_bytes={
            "sram_read": (added + sends) * nbytes,
            "sram_write": role(index, stored) * nbytes,
        },
        counts={"wavelet_hops": role(index, tree.hops) * w},
    )


def _arrival(
    device: Device,
    mesh: Mapping[str, int],
    crossing: Crossing,
    dst: Operand,
    x: Operand,
    index: Operand,
    elements: Operand,
    *,
    axis: str,
    op: str,
    tree: Tree,
    call: bool,
) -> Ticks:
    lines = crossed(mesh, axis, tree.pes, crossing, elements)
    armed = lines.take(crossing.start_ticks) + begin(device, call)
    w = line_words(lines, elements, x.dtype)
    done = lines.put(of_trees.reduce(armed, w, tree, wires(device)))
    return done, done


@instruction(
    "wse.reduce",
    cost=_cost,
    reads=(SPACE, "count", "count"),
    writes=SPACE,
    arrival=_arrival,
)
def _reduce(
    dst: Any,
    x: Any,
    index: Any,
    elements: Any,
    *,
    axis: str,
    op: str,
    tree: Tree,
    call: bool,
) -> Any:
    line = x.reshape(-1, tree.pes, *x.shape[1:])
    sums, at = line[:, :0], {}  # the streams of heads of chains, and where they are
    for batch in of_trees.batches(tree):
        heads = _chain_sums(op, line, sums, at, batch)
        at |= {int(i): len(at) + n for n, i in enumerate(batch.members[:, 0])}
        sums = jnp.concatenate([sums, heads], axis=1)
    return at_place(sums[:, at[tree.root]], tree.pes, tree.root).astype(dst.dtype)


def _chain_sums(op: str, line: Any, sums: Any, at: dict[int, int], batch: Batch) -> Any:
    """What the head of each chain sends, `[groups, chains, ...]`."""
    (_, length), most = batch.members.shape, batch.side.shape[2]
    if max(length, most) > UNROLL:
        return _long_chain_sums(op, line, sums, at, batch)
    acc = None
    for n in reversed(range(length)):
        own = _pick(line, batch.members[:, n])
        for k in range(most):
            own = _add_side(op, own, sums, at, batch.side[:, n, k])
        acc = own if acc is None else join(op, own, acc)
    return acc


def _long_chain_sums(
    op: str, line: Any, sums: Any, at: dict[int, int], batch: Batch
) -> Any:
    own = jnp.moveaxis(line[:, batch.members], 2, 0)  # [length, groups, chains, ...]
    if batch.side.size:
        place = np.vectorize(lambda i: at.get(i, 0), otypes=[int])(batch.side)
        steps = jnp.asarray(np.moveaxis(place, (2, 1), (0, 1)), jnp.int32)
        there = jnp.asarray(np.moveaxis(batch.side >= 0, (2, 1), (0, 1)))

        def add(own: Any, step: Any) -> Any:
            index, some = step  # [length, chains]
            side = jnp.moveaxis(sums[:, index], 1, 0)
            mask = some.reshape(len(some), 1, -1, *[1] * (own.ndim - 3))
            return jnp.where(mask, join(op, own, side), own), None

        own, _ = lax.scan(add, own, (steps, there))
    return lax.scan(
        lambda acc, x: (join(op, x, acc), None), own[-1], own[:-1], reverse=True
    )[0]


def _add_side(
    op: str, own: Any, sums: Any, at: dict[int, int], child: np.ndarray
) -> Any:
    """`own` and the streams of these children of it, where there are any."""
    if (child < 0).all():
        return own
    joined = join(op, own, _pick(sums, np.array([at.get(int(c), 0) for c in child])))
    if (child >= 0).all():
        return joined
    return jnp.where((child >= 0).reshape(1, -1, *[1] * (own.ndim - 2)), joined, own)


def _pick(x: Any, index: np.ndarray) -> Any:
    """`x[:, index]`, as a slice where it is one: XLA fuses slices and copies what it gathers."""
    steps = np.diff(index)
    if index.size == 1 or (steps == steps[0]).all() and steps[0] > 0:
        step = int(steps[0]) if index.size > 1 else 1
        return lax.slice_in_dim(x, int(index[0]), int(index[-1]) + 1, step, axis=1)
    return x[:, index]


def reduce(
    dst: Any,
    x: Any,
    *,
    axis: str,
    tree: Tree | None = None,
    op: str = "add",
    group: int | None = None,
    elements: Any = None,
    call: bool = True,
) -> Any:
    """Sums (or takes the max) along `axis` into the root of each group; NaN elsewhere.

    Every partial sum is rounded to the tile's dtype: a PE adds the streams of its children to its
    own tile one after the other.

    Args:
      dst: tile like `x`.
      x: float tile in SRAM.
      axis: mesh axis.
      tree: over the PEs of a group; default a chain to its first PE.
      op: `"add"` or `"max"`.
      group: consecutive PEs that share a root, a divisor of the axis; default all.
      elements: known number of elements sent, where it is less than the whole tile.
      call: whether it begins a call of its own.
    """
    size = group_size(axis, group)
    tree = trees.chain(size) if tree is None else tree
    if tree.pes != size:
        raise LimitExceeded(
            f"wse.reduce: the tree has {tree.pes} PEs, a group has {size}; build it for {size}",
            caller(),
        )
    n = x.size if elements is None else elements
    return _reduce(
        dst, x, lax.axis_index(axis), n, axis=axis, op=op, tree=tree, call=call
    )


__all__ = ["reduce"]
