"""Collectives between chips, one rank a chip, over the links of their system.

`emu.trainium.links.chip_plans` has the steps each is made of, `emu.trainium.links.chip_steps` their
times. A rank goes on as soon as its own step is done, so a late core delays those that wait for it
and no others. Sums are in float32, or wider where the input is; integers stay. The sum of chunk c
begins with rank c + 1 and goes up around the ring, rank c last.
"""

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from emu import given, numerics
from emu.datasheet import Device
from emu.instruction import Cost, Crossing, Instruction, Operand, instruction
from emu.trainium.engines.memory import f32
from emu.trainium.links import chip_plans
from emu.trainium.links.chip_steps import Group, Leg, Steps, arrival, cost, steps
from emu.trainium.links.collectives import long_dimension, same_shape
from emu.trainium.links.neuronlink import over, rank
from emu.trainium.spaces import Hbm

# (device, group, dst, src, root, **params) -> legs
Plan: TypeAlias = Callable[..., list[Leg]]


def _collective(
    name: str, plan: Plan
) -> Callable[[Callable[..., Hbm]], Instruction[..., Hbm]]:
    """Declares a meaning over stacked ranks as an instruction whose legs `plan` gives."""

    def legs(
        device: Device,
        dst: Operand,
        src: Operand,
        *,
        axis: str,
        chips: tuple[str, ...],
        sizes: tuple[int, ...],
        root: int,
        **params: int,
    ) -> list[Steps]:
        group = Group(sizes, chips.index(axis))
        found = plan(device, group, dst, src, root, **params)
        if group.number == 1:
            return []
        return [steps(device, group, leg) for leg in found]

    def price(
        device: Device, dst: Operand, src: Operand, place: Operand, **params: Any
    ) -> Cost:
        return cost(device, place.known, legs(device, dst, src, **params))

    def arrive(
        device: Device,
        mesh: Mapping[str, int],
        crossing: Crossing,
        dst: Operand,
        src: Operand,
        place: Operand,
        *,
        axis: str,
        root: int,
        **params: Any,
    ) -> tuple[np.ndarray, np.ndarray]:
        found = legs(device, dst, src, axis=axis, root=root, **params)
        return arrival(list(mesh).index(axis), crossing, place.known, found, root)

    reads = ("hbm", "count")
    return instruction(name, cost=price, reads=reads, writes="hbm", arrival=arrive)


def _call(
    inst: Instruction,
    dst: Hbm,
    src: Hbm,
    axis: str,
    chips: tuple[str, ...] | None,
    root: int = 0,
    **params: int,
) -> Hbm:
    names, sizes = over(axis, chips)
    mesh = dict(axis=axis, chips=names, sizes=sizes, root=root)
    return inst(dst, src, rank(names), **mesh, **params)


# --- all-gather ---


@_collective("trn.chip_all_gather", chip_plans.gather_legs)
def _all_gather(dst: Hbm, src: Hbm, place: jax.Array, **_: Any) -> Hbm:
    dim = long_dimension(dst.shape, src.shape)
    # Ranks right before the dimension along which they join: `[..., ranks, n, ...]` is `[..., ranks
    # · n, ...]` in memory. `dim` counts the stacked ranks, which leave the front: hence less 1.
    whole = jnp.moveaxis(src, 0, dim - 1).reshape(dst.shape[1:])
    return numerics.cast(jnp.broadcast_to(whole[None], dst.shape), dst.dtype)


def chip_all_gather(
    dst: Hbm, src: Hbm, *, axis: str, chips: tuple[str, ...] | None = None
) -> Hbm:
    """`dst` on every rank of `axis` is their `src`, one behind the other.

    Args:
      dst: HBM, one dimension N times as long as `src`'s: the one along which they are joined.
      src: HBM.
      axis: mesh axis over N chips.
      chips: every mesh axis over chips, outermost first, as for `neuronlink.send`.

    Raises:
      LimitExceeded: shapes that do not fit, or ranks as for `neuronlink.send`.
    """
    return _call(_all_gather, dst, src, axis, chips)


# --- reduce-scatter and all-reduce ---


@_collective("trn.chip_reduce_scatter", chip_plans.scatter_legs)
def _reduce_scatter(dst: Hbm, src: Hbm, place: jax.Array, **_: Any) -> Hbm:
    by_chunk = _cut(src, long_dimension(src.shape, dst.shape))
    return numerics.cast(_ring_sum(by_chunk), dst.dtype)


def _cut(src: jax.Array, dim: int) -> jax.Array:
    """`[ranks, ...]` with `dim` in as many parts as there are ranks: `[ranks, part, ...]`."""
    parts = src.reshape(*src.shape[:dim], len(src), -1, *src.shape[dim + 1 :])
    return jnp.moveaxis(parts, dim, 1)


@_collective("trn.chip_all_reduce", chip_plans.reduce_legs)
def _all_reduce(dst: Hbm, src: Hbm, place: jax.Array, **_: Any) -> Hbm:
    number = len(src)
    batch = place.shape[1:]
    flat = src.reshape(number, *batch, -1)
    size = flat.shape[-1]
    # The last chunk may be short: it is padded to the others' length, and cut again after.
    # 10 elements for 4 ranks: 2 are missing, for 4 chunks of 3.
    missing = -size % number
    padding = [(0, 0)] * (flat.ndim - 1) + [(0, missing)]
    padded = jnp.pad(flat, padding)
    chunks = padded.reshape(number, *batch, number, -1)
    sums = _ring_sum(jnp.moveaxis(chunks, -2, 1))
    joined = jnp.moveaxis(sums, 0, -2).reshape(*batch, -1)
    total = joined[..., :size].reshape(1, *src.shape[1:])
    return numerics.cast(jnp.broadcast_to(total, dst.shape), dst.dtype)


def _ring_sum(parts: jax.Array) -> jax.Array:
    """`[ranks, chunks, ...] -> [chunks, ...]`: chunk c from rank c + 1 up around the ring.

    Example: of three ranks, chunk 0 is `(x1 + x2) + x0`, chunk 1 `(x2 + x0) + x1`.
    """
    number = len(parts)
    if jnp.issubdtype(parts.dtype, jnp.floating) and parts.dtype.itemsize < 4:
        parts = f32(parts)
    # Floating-point sums depend on their order, so the order is the ring's own.
    ranks = np.arange(number)
    # Row s: the rank that each chunk's sum takes in at step s.
    source = np.add.outer(ranks, ranks + 1) % number
    # Of 3 ranks the rows are 1 2 0, 2 0 1 and 0 1 2: column 0, the sum of chunk 0, is 1 2 0.
    others = (1,) * (parts.ndim - 2)
    index = jnp.asarray(source).reshape(number, number, *others)
    turned = jnp.take_along_axis(parts, index, 0)

    # A scan, since XLA may add a reduction's operands in any order.
    def add(total: jax.Array, part: jax.Array) -> tuple[jax.Array, None]:
        return total + part, None

    total, _ = lax.scan(add, turned[0], turned[1:])
    # Here, where it stands once, and not on every rank that gets it.
    return numerics.rounded(total)


def chip_reduce_scatter(
    dst: Hbm, src: Hbm, *, axis: str, chips: tuple[str, ...] | None = None
) -> Hbm:
    """`dst` on rank i of `axis` is part i of N of the sum of their `src`.

    Args:
      dst: HBM.
      src: HBM, one dimension N times as long as `dst`'s: the one that is split.
      axis, chips: as for `chip_all_gather`.

    Raises:
      LimitExceeded: as for `chip_all_gather`.
    """
    return _call(_reduce_scatter, dst, src, axis, chips)


def chip_all_reduce(
    dst: Hbm, src: Hbm, *, axis: str, chips: tuple[str, ...] | None = None
) -> Hbm:
    """`dst` on every rank of `axis` is the sum of their `src`.

    Args:
      dst: HBM `[...]`.
      src: HBM, of the same shape; its elements in row-major order are cut into N chunks, the last
        of which may be short.
      axis, chips: as for `chip_all_gather`.

    Raises:
      LimitExceeded: ranks as for `neuronlink.send`.
    """
    same_shape("trn.chip_all_reduce", dst, src)
    return _call(_all_reduce, dst, src, axis, chips)


# --- all-to-all and broadcast ---


@_collective("trn.chip_all_to_all", chip_plans.exchange_legs)
def _all_to_all(
    dst: Hbm, src: Hbm, place: jax.Array, *, split: int, join: int, **_: Any
) -> Hbm:
    first = place.ndim  # of the payload's dimensions
    by_receiver = _cut(src, first + split)  # [from, to, ...]
    received = jnp.swapaxes(by_receiver, 0, 1)
    joined = jnp.moveaxis(received, 1, first + join)
    return numerics.cast(joined.reshape(dst.shape), dst.dtype)


def chip_all_to_all(
    dst: Hbm,
    src: Hbm,
    *,
    axis: str,
    chips: tuple[str, ...] | None = None,
    split: int = 0,
    join: int = 0,
) -> Hbm:
    """Part j of `dst` on rank i of `axis` is part i of `src` on rank j.

    Args:
      dst: HBM, `src`'s shape with dimension `split` an N-th as long and `join` N times as long.
      src: HBM, cut into N parts along dimension `split`.
      axis, chips: as for `chip_all_gather`.
      split, join: dimensions along which `src` is cut, and the parts that arrive are joined.

    Raises:
      LimitExceeded: as for `chip_all_gather`.
    """
    for what, dimension in (("split", split), ("join", join)):
        given.whole(f"trn.chip_all_to_all: {what}", dimension, 0, src.ndim - 1)
    return _call(_all_to_all, dst, src, axis, chips, split=split, join=join)


@_collective("trn.chip_broadcast", chip_plans.broadcast_legs)
def _broadcast(dst: Hbm, src: Hbm, place: jax.Array, *, root: int, **_: Any) -> Hbm:
    return numerics.cast(jnp.broadcast_to(src[root][None], dst.shape), dst.dtype)


def chip_broadcast(
    dst: Hbm, src: Hbm, root: int, *, axis: str, chips: tuple[str, ...] | None = None
) -> Hbm:
    """`dst` on every rank of `axis` is `src` of rank `root`.

    Args:
      dst: HBM `[...]`.
      src: HBM, of the same shape.
      root: rank along `axis`.
      axis, chips: as for `chip_all_gather`.

    Raises:
      LimitExceeded: no such root, or as for `chip_all_gather`.
    """
    same_shape("trn.chip_broadcast", dst, src)
    return _call(_broadcast, dst, src, axis, chips, root)


__all__ = [
    "chip_all_gather",
    "chip_all_reduce",
    "chip_all_to_all",
    "chip_broadcast",
    "chip_reduce_scatter",
]
