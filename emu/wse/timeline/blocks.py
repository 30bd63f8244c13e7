"""What gather and scatter share: one PE holds a block for each PE of its line."""

import numpy as np

from emu.datasheet import Device
from emu.errors import LimitExceeded
from emu.instruction import Cost, Operand
from emu.tracing.jaxpr import caller
from emu.wse.pe.laws import move_cycles, on_datapath, operation_cycles
from emu.wse.spaces import Sram
from emu.wse.timeline.calls import begin, role


def own_block_cycles(device: Device, block: Operand) -> float:
    """What the first PE's copy of its own block takes; its addresses are loaded already."""
    return float(move_cycles(device, block.nbytes, descriptors=0))


def blocks_cost(
    device: Device,
    block: Operand,
    words: int,
    index: Operand,
    group: int,
    *,
    first_sends: bool,
) -> Cost:
    """The first PE copies its own block and takes or sends all others; the others do one each.

    Args:
      device: the wafer.
      block: one PE's.
      words: wavelets of it.
      index: of the PE along the axis, known.
      group: PEs of a line.
      first_sends: whether the first PE sends, as in a scatter.
    """
    first = role(index, [place == 0 for place in range(group)])
    one_of_firsts = operation_cycles(device, words, sends=first_sends)
    one_of_others = operation_cycles(device, words, sends=not first_sends)
    own = own_block_cycles(device, block)
    # One datapath, so its operations follow one another; the other PEs wait for theirs meanwhile,
    # which is the arrival formula's to tell, and no cost.
    all_of_firsts = own + (group - 1) * one_of_firsts
    cycles = np.where(first, all_of_firsts, one_of_others)
    all_blocks_nbytes = np.where(first, group * block.nbytes, 0)
    # A scatter's first PE reads all blocks, and every PE writes one; a gather's the other way.
    many = "sram_read" if first_sends else "sram_write"
    one = "sram_write" if first_sends else "sram_read"
    return on_datapath(
        begin(device, True) + cycles,
        moved_bytes={many: all_blocks_nbytes, one: block.nbytes},
        # A block crosses as many links as its PE is away from the first, whichever of them sends.
        counts={"wavelet_hops": words * role(index, range(group))},
    )


def check_blocks(name: str, blocks: Sram, block: Sram, pes: int) -> None:
    """Raises `LimitExceeded` unless `blocks` is a block for each of two or more PEs."""
    if blocks.shape != (pes, *block.shape) or pes < 2:
        raise LimitExceeded(
            f"{name}: blocks {list(block.shape)} of {pes} PEs and a tile {list(blocks.shape)}, "
            f"must be {[pes, *block.shape]}, and 2 PEs or more",
            caller(),
        )


__all__ = ["blocks_cost", "check_blocks", "own_block_cycles"]
