"""What the programs of gather and scatter share: one PE holds a block for each of its line."""

from emu import given
from emu.wse.fabric.layout.line import Line
from emu.wse.fabric.ops import Buffer, Memory


def check_blocks(name: str, line: Line, blocks: Buffer, block: Memory) -> None:
    """Raises `LimitExceeded` unless `blocks` is a block for each of two or more PEs."""
    if not isinstance(blocks, Buffer) or not isinstance(block, Memory):
        given.refuse(
            f"{name}: blocks are {given.told(blocks)}, must be a buffer, and a PE's "
            f"{given.told(block)}, must be memory"
        )
    needed = line.pes * block.elements
    if blocks.elements != needed or line.pes < 2:
        given.refuse(
            f"{name}: blocks of {block.elements} elements on {line.pes} PEs and '{blocks.name}' of "
            f"{blocks.elements}, must be {needed}, and 2 PEs or more"
        )


def block_of(blocks: Buffer, place: int, elements: int) -> Memory:
    """The block of the PE at a place."""
    first = place * elements
    return blocks[first : first + elements]


__all__ = ["block_of", "check_blocks"]
