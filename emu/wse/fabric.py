"""Sums, broadcasts, shifts and arg-max along a line of PEs, in the order the routers deliver.

A wavelet carries 32 bits: one float32 or two 16-bit elements. Each collective is a synchronous
operation of the main thread on every PE that takes part.
"""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from emu.datasheet import Device
from emu.errors import LimitExceeded
from emu.instruction import Cost, Crossing, Operand, instruction
from emu.wse import arrival
from emu.wse.isa import SPACE, single
from emu.wse.laws import issue_cycles, known, on_datapath, words

UNROLL = 32  # longer chains are a loop, so that XLA compiles them in constant time
_ADD = {"add": jnp.add, "max": jnp.maximum}
Ticks = tuple[np.ndarray, np.ndarray]


def setup_cycles(device: Device, descriptors: int = 3) -> int:
    """Descriptor loads, issue, and the branch that picks the PE's role."""
    loads = descriptors * device.descriptor_load_cycles
    return loads + issue_cycles(device) + device.branch_cycles


def _group(axis: str, group: int | None, stride: int = 1) -> int:
    size = lax.axis_size(axis)
    group = group or size
    if size % group or group % stride:
        raise LimitExceeded(
            f"wse.fabric: axis '{axis}' of {size} PEs, group {group} and stride {stride} must "
            "divide one another"
        )
    return group


# --- chain reduce ---


def _chain_cost(
    device: Device, dst: Operand, x: Operand, index: Operand, elements: Operand,
    *, axis: str, op: str, group: int, stride: int,
) -> Cost:  # fmt: skip
    place, n = known(index) % group, known(elements)
    member, root, far = place % stride == 0, place == 0, place == group - stride
    w = words(n, x.dtype)
    nbytes = x.dtype.itemsize * n
    return on_datapath(
        member * (setup_cycles(device) + w),
        (member & ~far) * n,
        moved_bytes={"sram_read": member * nbytes, "sram_write": root * nbytes},
        counts={"wavelet_hops": (member & ~root) * w * stride},
    )


def _chain_arrival(
    device: Device, mesh: Mapping[str, int], crossing: Crossing, dst: Operand, x: Operand,
    index: Operand, elements: Operand, *, axis: str, op: str, group: int, stride: int,
) -> Ticks:  # fmt: skip
    lines = arrival.Lines(mesh, axis, group, stride)
    armed = lines.take(crossing.start_ticks) + setup_cycles(device)
    w = lines.take(words(known(elements), x.dtype)).max(axis=1, keepdims=True)
    stage = arrival.chain_stage_cycles(device, stride)
    sent, free = arrival.chain(armed, w, stage, arrival.queue_words(device))
    ready = np.maximum(sent, free)
    return lines.put(crossing.start_ticks, ready), lines.put(crossing.start_ticks, free)


@instruction(
    "wse.chain_reduce", cost=_chain_cost, reads=(SPACE, "count", "count"), writes=SPACE,
    arrival=_chain_arrival,
)  # fmt: skip
def _chain_reduce(
    dst: Any, x: Any, index: Any, elements: Any, *, axis: str, op: str, group: int, stride: int
) -> Any:
    line = x.reshape(-1, group // stride, stride, *x.shape[1:])[:, :, 0]
    join = lambda a, b: _ADD[op](single(a), single(b)).astype(x.dtype)  # noqa: E731
    acc, n = line[:, -1], line.shape[1] - 1
    if n > UNROLL:
        rest = jnp.moveaxis(line[:, :-1], 1, 0)
        acc, _ = lax.scan(lambda a, b: (join(b, a), None), acc, rest, reverse=True)
    else:
        for i in reversed(range(n)):
            acc = join(line[:, i], acc)
    return _at_roots(acc, group).reshape(x.shape).astype(dst.dtype)


def _at_roots(sums: Any, group: int) -> Any:
    """`[groups, ...]` as `[1, groups, group, ...]`: each group's sum on its first PE, NaN behind.

    A padding in the shape in which the next phase or the multicast slices it: XLA then drops the
    NaNs that nobody reads, and works out each sum once instead of once per PE.
    """
    behind = [(0, group - 1 if i == 2 else 0, 0) for i in range(sums.ndim + 2)]
    return lax.pad(sums[None, :, None], jnp.array(jnp.nan, sums.dtype), behind)


def chain_reduce(
    dst: Any, x: Any, *, axis: str, op: str = "add", group: int | None = None, stride: int = 1,
    elements: Any = None,
) -> Any:  # fmt: skip
    """Sums (or takes the max) along `axis` into the first PE of each group; NaN elsewhere.

    The far end sends its vector; each PE on the way adds its own to what passes and sends that on:
    `x[0] + (x[1] + (... + x[n-1]))`, each sum rounded to the tile's dtype.

    Args:
      dst: tile like `x`.
      x: float tile in SRAM.
      axis: mesh axis.
      op: `"add"` or `"max"`.
      group: consecutive PEs that share a root, a divisor of the axis; default all.
      stride: only every `stride`-th PE of a group takes part, the others pass wavelets on; a
        second phase over the roots of groups of `stride`.
      elements: known number of elements sent, where it is less than the whole tile.
    """
    group, n = _group(axis, group, stride), x.size if elements is None else elements
    index = lax.axis_index(axis)
    return _chain_reduce(dst, x, index, n, axis=axis, op=op, group=group, stride=stride)


# --- multicast ---


def _multicast_cost(
    device: Device, dst: Operand, x: Operand, index: Operand, elements: Operand,
    *, axis: str, group: int,
) -> Cost:  # fmt: skip
    root, n = known(index) % group == 0, known(elements)
    w = words(n, x.dtype)
    nbytes = x.dtype.itemsize * n
    return on_datapath(
        setup_cycles(device, 2) + w,
        moved_bytes={"sram_read": root * nbytes, "sram_write": nbytes + 0 * root},
        counts={"wavelet_hops": ~root * w},
    )


def _multicast_arrival(
    device: Device, mesh: Mapping[str, int], crossing: Crossing, dst: Operand, x: Operand,
    index: Operand, elements: Operand, *, axis: str, group: int,
) -> Ticks:  # fmt: skip
    lines = arrival.Lines(mesh, axis, group)
    armed = lines.take(crossing.start_ticks) + setup_cycles(device, 2)
    w = lines.take(words(known(elements), x.dtype)).max(axis=1, keepdims=True)
    hop, ramp = device.hop_cycles, device.ramp_cycles
    ready = arrival.multicast(armed, w, hop, ramp, arrival.queue_words(device))
    ready = lines.put(crossing.start_ticks, ready)
    return ready, ready


@instruction(
    "wse.multicast", cost=_multicast_cost, reads=(SPACE, "count", "count"), writes=SPACE,
    arrival=_multicast_arrival,
)  # fmt: skip
def _multicast(dst: Any, x: Any, index: Any, elements: Any, *, axis: str, group: int) -> Any:
    line = x.reshape(-1, group, *x.shape[1:])[:, :1]
    line = lax.optimization_barrier(line)  # or XLA sums once per receiver
    return jnp.broadcast_to(line, (line.shape[0], group, *x.shape[1:])).reshape(x.shape)


def multicast(
    dst: Any, x: Any, *, axis: str, group: int | None = None, elements: Any = None
) -> Any:
    """Sends the first PE's tile of each group along `axis` to every PE of the group.

    Args:
      dst: tile like `x`.
      x: tile in SRAM; only the first PE's is sent.
      axis: mesh axis.
      group: consecutive PEs in a group, a divisor of the axis; default all.
      elements: known number of elements sent, where it is less than the whole tile.
    """
    group, n = _group(axis, group), x.size if elements is None else elements
    return _multicast(dst, x, lax.axis_index(axis), n, axis=axis, group=group)


__all__ = ["chain_reduce", "multicast", "setup_cycles"]
