"""What the compiled step of a program depends on: how many of everything, who may meet whom.

PEs are flattened, `y * width + x`. A *channel* is one queue of a router: a color that receives
from a single direction at every PE has one, any other has one per direction it receives from.
"""

import dataclasses
import itertools
from collections.abc import Iterable

import numpy as np

from emu.wse.fabric.directions import PORTS, RAMP, has, several
from emu.wse.fabric.encoding.encode import Encoded
from emu.wse.fabric.encoding.instructions import (
    ACTIVATE,
    BLOCK,
    NONE,
    UNBLOCK,
    Instruction,
)
from emu.wse.fabric.program import Color, is_static

Pairs = tuple[tuple[int, int], ...]


@dataclasses.dataclass(frozen=True)
class Shape:
    """What the compiled step depends on; programs of equal shape share one compilation.

    Attributes:
      height, width: PEs.
      channels: (color, receive direction) of each channel; direction NONE if it is any.
      sides: directions in which some router sends, per color.
      positions: switch positions of each color.
      control: whether any control wavelets are sent.
      link_pairs, ramp_pairs: colors that may want one link, or the ramp out of one PE.
      threads: microthreads in use, the main one included.
      taking_pairs, sending_pairs: threads that may take words of one color, or send on one.
      data_tasks: (task, color) of each data task.
      tasked: whether tasks are activated, blocked or unblocked as the program runs.
      stamps, tasks, instructions: how many; of the last, the next power of two.
      kinds: kinds of instruction in use.
      taken_words, sent_words: most wavelets that one issue takes, or sends.
      paced: whether any operation moves several wavelets an issue, or sits out after one.
      router_places, input_places, output_places: most wavelets in a queue of a router, or at a PE's
        ramp, and on the way into it.
      hop_cycles, ramp_cycles, task_switch_cycles, async_cycles: of the device.
    """

    height: int
    width: int
    channels: tuple[tuple[int, int], ...]
    sides: tuple[tuple[int, ...], ...]
    positions: tuple[int, ...]
    control: bool
    link_pairs: Pairs
    ramp_pairs: Pairs
    threads: int
    taking_pairs: Pairs
    sending_pairs: Pairs
    data_tasks: tuple[tuple[int, int], ...]
    tasked: bool
    stamps: int
    tasks: int
    instructions: int
    kinds: tuple[int, ...]
    taken_words: int
    sent_words: int
    paced: bool
    router_places: int
    input_places: int
    output_places: int
    hop_cycles: int
    ramp_cycles: int
    task_switch_cycles: int
    async_cycles: int

    @property
    def colors(self) -> int:
        return len(self.sides)

    @property
    def pes(self) -> int:
        return self.height * self.width

    @property
    def one_channel_each(self) -> bool:
        """Whether no router ever has to choose between two directions of a color."""
        return all(direction == NONE for _, direction in self.channels)

    @property
    def hearings(self) -> tuple[int, ...]:
        """Directions of which some color has a channel, NONE first; queues are kept by these."""
        return tuple(sorted({direction for _, direction in self.channels}))

    def hear(self, direction: int) -> int:
        """The set of colors that have a channel of one of `hearings`."""
        return sum(1 << color for color, heard in self.channels if heard == direction)

    @property
    def used_sides(self) -> tuple[int, ...]:
        """Directions in which some router sends any color."""
        used = {side for sides in self.sides for side in sides}
        return tuple(sorted(used))


def shape_of(encoded: Encoded) -> Shape:
    """The static shape of an encoded program."""
    device = encoded.device
    instructions = encoded.instructions
    colors = list(encoded.program.colors.values())
    # Two colors may meet in one position of their switches only. Which positions they are in is not
    # known before the run, so any in which they could meet makes them a pair.
    sent = [_in_any_position(color.send) for color in colors]
    received = [_in_any_position(color.receive) for color in colors]
    from_ramp = [has(directions, RAMP) for directions in received]
    threads = [instruction.thread for instruction in instructions]
    kinds = {instruction.kind for instruction in instructions}
    height, width = encoded.program.shape
    most_cycles = max(int(device.hop_cycles), int(device.ramp_cycles))
    return Shape(
        height=height,
        width=width,
        channels=tuple(
            (color.index, direction)
            for color in colors
            for direction in _channel_directions(color)
        ),
        sides=tuple(_used(color.send) for color in colors),
        positions=tuple(len(color.receive) for color in colors),
        control=any(instruction.control for instruction in instructions),
        link_pairs=_pairs(sent),
        ramp_pairs=_pairs(from_ramp),
        threads=1 + max(threads, default=0),
        taking_pairs=_thread_pairs(
            [(instruction.inward, instruction.thread) for instruction in instructions]
        ),
        sending_pairs=_thread_pairs(
            [(instruction.outward, instruction.thread) for instruction in instructions]
        ),
        data_tasks=_data_tasks(encoded),
        tasked=_tasked(encoded),
        stamps=len(encoded.stamps),
        tasks=len(encoded.entry),
        instructions=_power_of_two(len(instructions)),
        kinds=tuple(sorted(kinds)),
        taken_words=_words(
            instruction for instruction in instructions if instruction.inward != NONE
        ),
        sent_words=_words(
            instruction for instruction in instructions if instruction.outward != NONE
        ),
        paced=any(
            instruction.time.words > 1 or instruction.time.interval_cycles > 1
            for instruction in instructions
        ),
        # A way holds a wavelet for each cycle that it takes.
        router_places=int(device.router_queue_words) + most_cycles,
        input_places=max(device.input_queue_words) + int(device.ramp_cycles),
        output_places=max(device.output_queue_words) + 1,
        hop_cycles=int(device.hop_cycles),
        ramp_cycles=int(device.ramp_cycles),
        task_switch_cycles=int(device.task_switch_cycles),
        async_cycles=int(device.async_cycles),
    )


def _power_of_two(count: int) -> int:
    """The next one, so that a few instructions more need no new compilation."""
    # 5 to 8 instructions give 8: `count - 1` is 4 to 7, of three bits.
    return 1 << max(0, count - 1).bit_length()


def _words(instructions: Iterable[Instruction]) -> int:
    """Most wavelets that an issue of these moves."""
    return max((instruction.time.words for instruction in instructions), default=1)


def _in_any_position(sets: np.ndarray) -> np.ndarray:
    """`[positions, height, width]` to `[height, width]`."""
    return np.bitwise_or.reduce(sets, axis=0)


def _used(sets: np.ndarray) -> tuple[int, ...]:
    """Directions that are in any of the sets."""
    return tuple(direction for direction in PORTS if has(sets, direction).any())


def _channel_directions(color: Color) -> tuple[int, ...]:
    """Receive directions that need a channel each; NONE alone if one serves."""
    # One channel serves a static color even if its direction differs from PE to PE.
    return (NONE,) if is_static(color) else _used(color.receive)


def _pairs(wants: list[np.ndarray]) -> Pairs:
    """Pairs of colors that want the same on some PE: a common direction, or both at all."""
    found: list[tuple[int, int]] = []
    for first, second in itertools.combinations(range(len(wants)), 2):
        # Of 24 colors there are 276 pairs, and the compiled step arbitrates between every one in
        # this list. Colors that share no link on any PE need none of it.
        common = wants[first] & wants[second]
        if common.any():
            found.append((first, second))
    return tuple(found)


def _thread_pairs(uses: list[tuple[int, int]]) -> Pairs:
    """Threads of which operations use one color, from (color, thread) of each instruction."""
    threads_of: dict[int, set[int]] = {}
    for color, thread in uses:
        if color != NONE:
            threads_of.setdefault(color, set()).add(thread)
    # Threads on different colors never mix words, and need no watching.
    pairs: set[tuple[int, int]] = set()
    for threads in threads_of.values():
        pairs.update(itertools.combinations(sorted(threads), 2))
    return tuple(sorted(pairs))


def _data_tasks(encoded: Encoded) -> tuple[tuple[int, int], ...]:
    program = encoded.program
    found: set[tuple[int, int]] = set()
    for number, declared in enumerate(program.tasks.values()):
        for task in declared:
            if task.color is not None:
                color = program.colors[task.color]
                found.add((number, color.index))
    return tuple(sorted(found))


def _tasked(encoded: Encoded) -> bool:
    """Whether which task is next is a matter of time: several at the start, or set on the way."""
    if several(encoded.started).any() or encoded.blocked.any():
        return True
    for instruction in encoded.instructions:
        if instruction.kind in (ACTIVATE, BLOCK, UNBLOCK):
            return True
        if instruction.activate != NONE or instruction.unblock != NONE:
            return True
    return False


__all__ = ["Shape", "shape_of"]
