"""The best few of many numbers that are dealt to PEs: each PE counts what it holds, and sums do it.

Numbers are dealt twice: a PE of column c holds those that are its column's, and those that are its
row's. How many of its column's come before each of its row's is a part of their ranks, and a sum
along the row of PEs makes ranks of the parts. Six numbers on 2 rows and 3 columns:

    numbers 4 9 1 9 0 7          row 0: 4 9 1    row 1: 9 0 7
                                 column 0: 4 9   column 1: 1 9   column 2: 0 7
    before those of row 0        (1, 0, 2)       (1, 0, 1)       (1, 0, 1)      ranks 3, 0, 4
    before those of row 1        (1, 2, 1)       (0, 1, 1)       (0, 2, 0)      ranks 1, 5, 2

Of equal numbers the one that stands first comes before the other, as in a stable sort, so ranks are
whole numbers from 0 on, each of them once. Everything is scalar code in loops over elements.
"""

import jax
import jax.numpy as jnp
import numpy as np

from emu import given
from emu.annotations import KnownInt
from emu.datasheet import Device
from emu.instruction import Cost, Operand, instruction
from emu.wse.pe.isa import SPACE, single
from emu.wse.pe.laws import (
    Count,
    Cycles,
    known,
    loop_cycles,
    move_cycles,
    on_datapath,
)
from emu.wse.spaces import Sram

FLOAT32_BYTES = 4


def _check(name: str, **counts: int) -> None:
    """Raises `LimitExceeded` for a parameter that is no whole number of at least 1."""
    for what, value in counts.items():
        given.whole(f"{name}: {what}", value, 1)


def _shared(first_a: Count, a: int, first_b: Count, b: int) -> np.ndarray:
    """How many numbers two ranges have in common, of so many numbers each."""
    end = np.minimum(np.asarray(first_a) + a, np.asarray(first_b) + b)
    return np.maximum(end - np.maximum(first_a, first_b), 0)


def _numbers(first: KnownInt, x: Sram) -> jax.Array:
    """Which of all numbers those of a PE are: `[n]`, from the first on."""
    return jnp.asarray(first + jnp.arange(x.shape[0]))


def _zeros_cycles(device: Device, dst: Operand) -> Cycles:
    """Of filling a tile that only some numbers are put into."""
    return move_cycles(device, dst.nbytes, descriptors=1)


def _each_cycles(device: Device, x: Operand, operations: int) -> Cycles:
    """Of a loop over numbers, with so many scalar operations for each and one branch."""
    each = operations * device.scalar_cycles + device.branch_cycles
    return loop_cycles(device, x.size, each)


def _pairs(a: np.ndarray, b: np.ndarray, block: int) -> np.ndarray:
    """Pairs of one of the first `a` numbers and one of the first `b` that are of one block.

    Of 5 and 7 numbers in blocks of 4: 4 x 4 in the first block, and 1 x 3 in the second.
    """
    fewer, more = np.minimum(a, b), np.maximum(a, b)
    whole = fewer // block
    first = whole * block
    return first * block + (fewer - first) * (np.minimum(more, first + block) - first)


def _outranked_cost(
    device: Device,
    dst: Operand,
    own: Operand,
    others: Operand,
    first_own: Operand,
    first_others: Operand,
    *,
    count: int,
    block: int,
) -> Cost:
    """A compare, a branch and an add for each two numbers of one block."""
    begin, start = known(first_own), known(first_others)
    end = begin + own.size
    stop = np.maximum(np.minimum(start + others.size, count), start)
    pairs = _pairs(end, stop, block) - _pairs(begin, stop, block)
    pairs = pairs - _pairs(end, start, block) + _pairs(begin, start, block)
    cycles = loop_cycles(device, pairs, 2 * device.scalar_cycles + device.branch_cycles)
    # What a number is compared with is read again for each.
    moved = {
        "sram_read": FLOAT32_BYTES * (pairs + own.size),
        "sram_write": dst.nbytes,
    }
    return on_datapath(cycles, 2 * pairs, moved_bytes=moved)


@instruction(
    "wse.outranked",
    cost=_outranked_cost,
    reads=(SPACE, SPACE, "count", "count"),
    writes=SPACE,
)
def outranked(
    dst: Sram,
    own: Sram,
    others: Sram,
    first_own: KnownInt,
    first_others: KnownInt,
    *,
    count: int,
    block: int,
) -> Sram:
    """How many of `others` come before each of `own` in a stable sort, the greatest first.

    Args:
      dst: float32 `[n]`, whole numbers.
      own: float32 `[n]`, numbers `first_own` to `first_own + n - 1` of all.
      others: float32 `[m]`, numbers from `first_others` on.
      first_own, first_others: known.
      count: of all numbers; what lies behind is padding, and comes before nothing.
      block: numbers of one block side by side are compared with each other only; `count` for all.
    """
    _check("wse.outranked", count=count, block=block)
    number = _numbers(first_own, own)[:, None]
    other = _numbers(first_others, others)[None]
    mine, theirs = single(own)[:, None], single(others)[None]
    is_before = (theirs > mine) | ((theirs == mine) & (other < number))
    counts = is_before & (other // block == number // block) & (other < count)
    return counts.sum(1).astype(dst.dtype)


def _renumbered_cost(
    device: Device,
    dst: Operand,
    x: Operand,
    first: Operand,
    first_of_x: Operand,
) -> Cost:
    """Zeros, and a copy of the part that is there."""
    part = _shared(known(first), dst.size, known(first_of_x), x.size)
    zeros = _zeros_cycles(device, dst)
    copied = np.where(part > 0, move_cycles(device, FLOAT32_BYTES * part), 0)
    moved = {
        "sram_read": FLOAT32_BYTES * part,
        "sram_write": dst.nbytes + FLOAT32_BYTES * part,
    }
    return on_datapath(zeros + copied, moved_bytes=moved)


@instruction(
    "wse.renumbered",
    cost=_renumbered_cost,
    reads=(SPACE, "count", "count"),
    writes=SPACE,
)
def renumbered(dst: Sram, x: Sram, first: KnownInt, first_of_x: KnownInt) -> Sram:
    """Those numbers of `x` that are also of `dst`, where `dst` has them; 0 for its others.

    A sum over the PEs that hold all numbers between them then deals them anew: from columns to
    rows.

    Args:
      dst: float32 `[n]`, numbers `first` to `first + n - 1` of all.
      x: float32 `[m]`, numbers from `first_of_x` on.
      first, first_of_x: known.
    """
    place = _numbers(first, dst) - first_of_x
    is_there = (place >= 0) & (place < x.shape[0])
    found = jnp.take(single(x), jnp.clip(place, 0, x.shape[0] - 1))
    return jnp.where(is_there, found, 0).astype(dst.dtype)


def _best_sums_cost(
    device: Device,
    dst: Operand,
    x: Operand,
    rank: Operand,
    first: Operand,
    *,
    best: int,
    block: int,
) -> Cost:
    """Zeros; for each number a compare, a branch, the address of its block's sum and an add."""
    moved = {"sram_read": x.nbytes + rank.nbytes, "sram_write": dst.nbytes}
    cycles = _zeros_cycles(device, dst) + _each_cycles(device, x, operations=3)
    return on_datapath(cycles, 2 * x.size, moved_bytes=moved)


@instruction(
    "wse.best_sums",
    cost=_best_sums_cost,
    reads=(SPACE, SPACE, "register"),
    writes=SPACE,
)
def best_sums(
    dst: Sram, x: Sram, rank: Sram, first: KnownInt, *, best: int, block: int
) -> Sram:
    """The sum of each block's numbers that have a rank below `best` in it, of those in this PE.

    Args:
      dst: float32 `[blocks]`.
      x: float32 `[n]`, numbers `first` to `first + n - 1` of all; behind the last block is padding.
      rank: float32 `[n]`, in their blocks, see `outranked`.
      first: known.
      best: of each block.
      block: numbers in a block.
    """
    _check("wse.best_sums", best=best, block=block)
    of_block = _numbers(first, x) // block
    blocks = jnp.arange(dst.shape[0])[:, None]
    counts = (of_block[None] == blocks) & (single(rank)[None] < best)
    return jnp.where(counts, single(x)[None], 0).sum(1).astype(dst.dtype)


def _of_best_blocks_cost(
    device: Device,
    dst: Operand,
    x: Operand,
    rank: Operand,
    first: Operand,
    *,
    best: int,
    block: int,
) -> Cost:
    """For each number the address of its block's rank, a compare, a branch and a move."""
    moved = {
        "sram_read": x.nbytes + FLOAT32_BYTES * x.size,
        "sram_write": dst.nbytes,
    }
    cycles = _each_cycles(device, x, operations=3)
    return on_datapath(cycles, x.size, moved_bytes=moved)


@instruction(
    "wse.of_best_blocks",
    cost=_of_best_blocks_cost,
    reads=(SPACE, SPACE, "register"),
    writes=SPACE,
)
def of_best_blocks(
    dst: Sram, x: Sram, rank: Sram, first: KnownInt, *, best: int, block: int
) -> Sram:
    """Numbers whose block has a rank below `best`; minus infinity for the others.

    Args:
      dst, x: float32 `[n]`, numbers `first` to `first + n - 1` of all.
      rank: float32 `[blocks]`, of each block among all.
      first: known.
      best: how many blocks count.
      block: numbers in a block.
    """
    _check("wse.of_best_blocks", best=best, block=block)
    of_block = _numbers(first, x) // block
    last = rank.shape[0] - 1
    of_rank = jnp.take(single(rank), jnp.clip(of_block, 0, last))
    return jnp.where(of_rank < best, single(x), -jnp.inf).astype(dst.dtype)


def _listed_cost(
    device: Device,
    dst: Operand,
    x: Operand,
    rank: Operand,
    first: Operand,
    *,
    count: int,
) -> Cost:
    """Zeros; for each number a compare, a branch, an address, a conversion and two moves."""
    moved = {"sram_read": x.nbytes + rank.nbytes, "sram_write": dst.nbytes}
    cycles = _zeros_cycles(device, dst) + _each_cycles(device, x, operations=5)
    return on_datapath(cycles, x.size, moved_bytes=moved)


@instruction(
    "wse.listed",
    cost=_listed_cost,
    reads=(SPACE, SPACE, "register"),
    writes=SPACE,
)
def listed(dst: Sram, x: Sram, rank: Sram, first: KnownInt, *, count: int) -> Sram:
    """The best numbers in the order of their ranks, of those in this PE; 0 for the others'.

    Args:
      dst: float32 `[2, best]`: which number has each of the ranks from 0 on, and the number.
      x: float32 `[n]`, numbers `first` to `first + n - 1` of all.
      rank: float32 `[n]`, each rank once among all PEs that sum their lists.
      first: known.
      count: of all numbers; what lies behind is padding.
    """
    _check("wse.listed", count=count)
    number = _numbers(first, x)
    places = jnp.arange(dst.shape[1], dtype=jnp.float32)[:, None]
    is_it = (single(rank)[None] == places) & (number < count)[None]
    which = jnp.where(is_it, number[None], 0).sum(1)
    found = jnp.where(is_it, single(x)[None], 0).sum(1)
    return jnp.stack([which.astype(found.dtype), found]).astype(dst.dtype)


__all__ = ["best_sums", "listed", "of_best_blocks", "outranked", "renumbered"]
