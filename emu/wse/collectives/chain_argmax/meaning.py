"""The largest value along a line of PEs and where it is, on the first PE."""

import jax.numpy as jnp
from jax import lax

from emu.annotations import KnownInt
from emu.datasheet import Device
from emu.instruction import Cost, Operand, instruction
from emu.wse.collectives.chain_argmax.arrival import (
    PAIR_WORDS,
    arrival,
    compare_cycles,
)
from emu.wse.pe.isa import SPACE, unset
from emu.wse.pe.laws import on_datapath, operation_cycles
from emu.wse.spaces import Sram
from emu.wse.timeline.calls import axis_size, begin, role

Pair = tuple[Sram, Sram]
"""A value and its index."""


def _cost(
    device: Device,
    top_dst: Operand,
    at_dst: Operand,
    top: Operand,
    at: Operand,
    index: Operand,
    *,
    axis: str,
    size: int,
) -> Cost:
    receives = role(index, [place < size - 1 for place in range(size)])
    sends = role(index, [place > 0 for place in range(size)])
    receive_cycles = operation_cycles(device, PAIR_WORDS) + compare_cycles(device)
    send_cycles = operation_cycles(device, PAIR_WORDS, sends=True)
    return on_datapath(
        begin(device, True) + (receives * receive_cycles + sends * send_cycles),
        counts={"wavelet_hops": sends * PAIR_WORDS},
    )


@instruction(
    "wse.chain_argmax",
    cost=_cost,
    reads=(SPACE, SPACE, "count"),
    writes=(SPACE, SPACE),
    arrival=arrival,
)
def _chain_argmax(
    top_dst: Sram,
    at_dst: Sram,
    top: Sram,
    at: Sram,
    index: KnownInt,
    *,
    axis: str,
    size: int,
) -> Pair:
    def step(best: Pair, own: Pair) -> tuple[Pair, None]:
        return _better(own, best), None

    best, _ = lax.scan(step, (top[-1], at[-1]), (top[:-1], at[:-1]), reverse=True)
    value = jnp.full_like(top, jnp.nan).at[0].set(best[0])
    place = jnp.full_like(at, unset(at.dtype)).at[0].set(best[1])
    return value, place


def _better(own: Pair, best: Pair) -> Pair:
    own_value, own_index = own
    best_value, best_index = best
    equal = own_value == best_value
    wins = (own_value > best_value) | (equal & (own_index < best_index))
    return (
        jnp.where(wins, own_value, best_value),
        jnp.where(wins, own_index, best_index),
    )


def chain_argmax(
    top_dst: Sram,
    at_dst: Sram,
    top: Sram,
    at: Sram,
    *,
    axis: str,
) -> Pair:
    """The largest value along `axis` and its index, on the first PE; the lowest index wins a tie.

    Each PE receives both words into memory, compares them with its own and sends the better pair.

    Args:
      top_dst, at_dst: tiles like `top` and `at`.
      top: `float32[1]`, this PE's candidate.
      at: `int32[1]`, its index in the whole vector.
      axis: mesh axis.
    """
    size = axis_size(axis)
    index = lax.axis_index(axis)
    return _chain_argmax(top_dst, at_dst, top, at, index, axis=axis, size=size)


__all__ = ["chain_argmax"]
