"""All-reduce on a ring folded onto the line: a chunk of the vector starts at every place.

A chunk goes round once and every place adds its own to it; then it goes round again as it is. Chunk
c starts one place beyond place c and is whole at place c. Of three places, x1[2] being place 1's
chunk 2 and r[2] the whole sum:

    step   place 0 sends        place 1 sends        place 2 sends
    0      x0[2]                x1[0]                x2[1]
    1      x0[1] + x2[1]        x1[2] + x0[2]        x2[0] + x1[0]
    2      r[0]                 r[1]                 r[2]
    3      r[2]                 r[0]                 r[1]

Place 0 has r[0] after step 1, in which place 2 sends it `x2[0] + x1[0]` and it adds its own:
`x0[0] + (x2[0] + x1[0])`, rounded after each addition.
"""

import jax.numpy as jnp
import numpy as np
from jax import lax

from emu import given, numerics
from emu.annotations import KnownInt
from emu.datasheet import Device
from emu.errors import LimitExceeded
from emu.instruction import Cost, Operand, instruction
from emu.tracing.jaxpr import caller
from emu.wse.collectives.ring_all_reduce.arrival import arrival
from emu.wse.pe.isa import SPACE
from emu.wse.pe.laws import on_datapath, operation_cycles
from emu.wse.spaces import Sram
from emu.wse.timeline.calls import begin, group_size, role
from emu.wse.timeline.folded_ring import places, ring_hops
from emu.wse.timeline.tiles import OPS, join
from emu.wse.wavelets import words


def _cost(
    device: Device,
    dst: Operand,
    x: Operand,
    index: Operand,
    *,
    axis: str,
    op: str,
    group: int,
) -> Cost:
    chunk = x.size // group
    chunk_words = int(words(chunk, x.dtype))
    chunk_nbytes = chunk * x.dtype.itemsize
    rounds = group - 1  # steps of each of the two rounds
    step_cycles = operation_cycles(device, chunk_words, sends=True) + operation_cycles(
        device, chunk_words
    )
    hops = np.empty(group, int)
    hops[places(group)] = ring_hops(group)
    return on_datapath(
        begin(device, True) + 2 * rounds * step_cycles,
        rounds * chunk,
        moved_bytes={
            "sram_read": 3 * rounds * chunk_nbytes,
            "sram_write": 2 * rounds * chunk_nbytes,
        },
        counts={"wavelet_hops": 2 * rounds * chunk_words * role(index, hops)},
    )


@instruction(
    "wse.ring_all_reduce",
    cost=_cost,
    reads=(SPACE, "count"),
    writes=SPACE,
    arrival=arrival,
)
def _ring_all_reduce(
    dst: Sram,
    x: Sram,
    index: KnownInt,
    *,
    axis: str,
    op: str,
    group: int,
) -> Sram:
    chunk = x.shape[-1] // group
    tiles = x.reshape(-1, group, *x.shape[1:-1], group, chunk)
    by_place = tiles[:, places(group)]
    # [place, chunk, groups, ..., elements]
    chunks = jnp.moveaxis(by_place, (1, -2), (0, 1))
    ends = jnp.arange(group)  # a chunk's number is the place where it ends

    def add(partial: Sram, distance: jnp.ndarray) -> tuple[Sram, None]:
        own = chunks[(ends + distance) % group, ends]
        return join(op, own, partial), None

    # A chunk starts one place beyond the one where it ends.
    started = chunks[(ends + 1) % group, ends]
    total, _ = lax.scan(add, started, jnp.arange(2, group + 1))
    total = numerics.rounded(total)  # here, where it stands once
    whole = jnp.moveaxis(total, 0, -2).reshape(-1, 1, *x.shape[1:])
    whole = lax.optimization_barrier(whole)  # or XLA sums once per receiver
    received = jnp.broadcast_to(whole, (whole.shape[0], group, *x.shape[1:]))
    return received.reshape(x.shape)


def ring_all_reduce(
    dst: Sram,
    x: Sram,
    *,
    axis: str,
    op: str = "add",
    group: int | None = None,
) -> Sram:
    """Sum or max of `x` along `axis` on every PE of each group, chunk by chunk around a ring.

    Each PE's tile is cut into as many chunks as there are PEs. A chunk goes round once and every
    PE adds its own to it, `own + what came`, rounded to the tile's dtype; then it goes round again
    as it is. Chunk c ends at place c of the ring and starts one place beyond.

    Args:
      dst: tile like `x`.
      x: `[n]`, float, a multiple of the group's PEs.
      axis: mesh axis.
      op: `"add"` or `"max"`.
      group: consecutive PEs that share a ring, a divisor of the axis; default all.

    Raises:
      LimitExceeded: the group does not divide the axis, or `x` cannot be cut into its chunks.
    """
    size = group_size(axis, group)
    given.one_of("wse.ring_all_reduce: op", op, OPS)
    if x.ndim != 1 or x.size % size:
        raise LimitExceeded(
            f"wse.ring_all_reduce: the tile is {list(x.shape)}, must be [n] with n a multiple of "
            f"the ring's {size} PEs; pad it",
            caller(),
        )
    return _ring_all_reduce(dst, x, lax.axis_index(axis), axis=axis, op=op, group=size)


__all__ = ["ring_all_reduce"]
