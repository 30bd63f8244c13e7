"""Which queue at each PE's ramp serves each color: given out, counted, refused by name.

A PE has a few input queues and a few output queues, and each serves one color. Which colors need
one is a matter of the PE: those that its tasks take words of, and those that they send on. Colors
whose queue is FREE get the next one that is, from `FIRST_QUEUE` on:

    a PE that takes words of     red (FREE)    green (3)    blue (FREE)
    their input queues are       2             3            4

A WSE-3 can also give a queue that has run empty to another color as a program runs, which a WSE-2
cannot. What that costs has not been published, so there is no such operation here, and a PE that
uses more colors than it has queues is refused on both. A program that says `reassigns_queues` is
taken at its word that it costs nothing: at each PE its colors take the queues from `FIRST_QUEUE` on
in turn, and words of a color wait there as if the queue were its own.
"""

import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np

from emu.datasheet import Device
from emu.errors import LimitExceeded
from emu.wse.fabric.encoding.instructions import NONE, Instruction
from emu.wse.fabric.errors import FabricError, first_of
from emu.wse.fabric.program import (
    FIRST_QUEUE,
    FREE,
    FabricProgram,
    QueueNumber,
    Task,
)

INPUT, OUTPUT = "input", "output"


@dataclasses.dataclass(frozen=True)
class Use:
    """That a task on some PEs takes words of a color, or sends on it.

    Attributes:
      color: its index.
      place: `bool[height, width]`.
      where: the line that declared the task.
    """

    color: int
    place: np.ndarray
    where: str


@dataclasses.dataclass(frozen=True)
class Side:
    """The input queues, or the output queues, of all PEs.

    Attributes:
      side: INPUT or OUTPUT.
      number: `int8[colors, height, width]`, the queue that serves each color; NONE where no task
        uses it.
      words: `int16[colors, height, width]`, the depth of that queue. Where no task uses a color it
        is that of the queue which the program gives it, or of the first: what is delivered there
        is never read, however long the queue.
    """

    side: str
    number: np.ndarray
    words: np.ndarray

    @property
    def flat_words(self) -> np.ndarray:
        """`int64[colors, PEs]`."""
        colors = len(self.words)
        return self.words.reshape(colors, -1).astype(np.int64)


def sides(
    program: FabricProgram,
    device: Device,
    tasks: Iterable[tuple[Task, Sequence[Instruction]]],
) -> tuple[Side, Side]:
    """The queues of every PE, for what it takes and for what it sends.

    Raises:
      FabricError: two colors of a PE are given one queue.
      LimitExceeded: a PE uses more colors than it has queues.
    """
    taken: list[Use] = []
    sent: list[Use] = []
    for task, instructions in tasks:
        inward = {instruction.inward for instruction in instructions}
        outward = {instruction.outward for instruction in instructions}
        if task.color is not None:
            # A data task takes the word that starts it, even if none of its operations reads the
            # color.
            inward.add(program.colors[task.color].index)
        for color in sorted(inward - {NONE}):
            taken.append(Use(color, task.place, task.where))
        for color in sorted(outward - {NONE}):
            sent.append(Use(color, task.place, task.where))
    colors = list(program.colors.values())
    inputs: list[QueueNumber] = [color.input_queue for color in colors]
    outputs: list[QueueNumber] = [color.output_queue for color in colors]
    return (
        _side(program, device, INPUT, inputs, device.input_queue_words, taken),
        _side(program, device, OUTPUT, outputs, device.output_queue_words, sent),
    )


def _side(
    program: FabricProgram,
    device: Device,
    side: str,
    given: Sequence[QueueNumber],
    depths: Sequence[int],
    uses: list[Use],
) -> Side:
    shape = (len(given), *program.shape)
    used = np.zeros(shape, bool)
    for use in uses:
        used[use.color] |= use.place
    # Two views of one thing: `number` says which queue a color has, `holder` which color a queue
    # has. The second finds out in one look whether a queue is free.
    number = np.full(shape, NONE, np.int8)
    holder = np.full((len(depths), *program.shape), NONE, np.int8)
    # Those with a number come first, whatever the order of the colors, so that no color that takes
    # what is free takes one that the program has given away.
    for color, queue in enumerate(given):
        if queue == FREE:
            continue
        twice = used[color] & (holder[queue] != NONE)
        if twice.any():
            other = int(holder[queue][twice][0])
            raise _shared(program, device, side, queue, (other, color), twice, uses)
        number[color][used[color]] = queue
        holder[queue][used[color]] = color
    # From the third on by turns; the first two are those that the host's copies take, so last.
    order = [*range(FIRST_QUEUE, len(depths)), *range(min(FIRST_QUEUE, len(depths)))]
    if program.reassigns_queues:
        _take_turns(program, device, given, used, number, len(depths))
    for color, queue in enumerate(given):
        if queue != FREE or program.reassigns_queues:
            continue
        left = used[color].copy()
        for candidate in order:
            if not left.any():
                break
            # PEs use different colors, so one color may be served by queue 2 on some and by queue 4
            # on others.
            gets = left & (holder[candidate] == NONE)
            number[color][gets] = candidate
            holder[candidate][gets] = color
            left &= ~gets
        if left.any():
            raise _too_many(program, device, side, len(depths), used, left, uses)
    by_default = [FIRST_QUEUE if queue == FREE else queue for queue in given]
    depth_of = np.array(depths, np.int16)
    # Which queue it would be does not matter to colors that no task of the PE uses.
    default = np.array(by_default, np.int64).reshape(-1, 1, 1)
    words = depth_of[np.where(number == NONE, default, number)]
    return Side(side=side, number=number, words=words)


def _take_turns(
    program: FabricProgram,
    device: Device,
    given: Sequence[QueueNumber],
    used: np.ndarray,
    number: np.ndarray,
    queues: int,
) -> None:
    """Gives each PE's colors that are FREE its queues from `FIRST_QUEUE` on, in turn."""
    if not device.reassigns_queues:
        raise LimitExceeded(
            f"fabric program: {device.name} cannot give a queue to another color as a program "
            "runs; leave out reassigns_queues"
        )
    free = np.array([queue == FREE for queue in given])
    nth = np.cumsum(used & free[:, None, None], axis=0) - 1
    turn = FIRST_QUEUE + nth % (queues - FIRST_QUEUE)
    number[:] = np.where(used & free[:, None, None], turn, number)


def _where(uses: list[Use], color: int, at: np.ndarray) -> str:
    """The line of the task that uses a color at the first PE of a mask."""
    y, x = np.argwhere(at)[0]
    for use in uses:
        if use.color == color and use.place[y, x]:
            return use.where
    return ""


def _shared(
    program: FabricProgram,
    device: Device,
    side: str,
    queue: int,
    both: tuple[int, int],
    at: np.ndarray,
    uses: list[Use],
) -> FabricError:
    names = list(program.colors)
    first, second = (names[color] for color in both)
    return FabricError(
        f"PE {first_of(at)}: colors '{first}' and '{second}' are both on {side} queue {queue}, "
        f"which serves one color; declare one of them with color(name, {side}_queue=...), one of "
        f"{device.name}'s 0 to {_last(device, side)} or 'free'",
        _where(uses, both[1], at),
    )


def _last(device: Device, side: str) -> int:
    depths = device.input_queue_words if side == INPUT else device.output_queue_words
    return len(depths) - 1


def _too_many(
    program: FabricProgram,
    device: Device,
    side: str,
    queues: int,
    used: np.ndarray,
    at: np.ndarray,
    uses: list[Use],
) -> LimitExceeded:
    y, x = np.argwhere(at)[0]
    colors = np.flatnonzero(used[:, y, x])
    names = list(program.colors)
    listed = ", ".join(f"'{names[color]}'" for color in colors)
    does = "takes words of" if side == INPUT else "sends on"
    return LimitExceeded(
        f"PE {first_of(at)} {does} {len(colors)} colors ({listed}), {device.name} has {queues} "
        f"{side} queues of one color each; let streams that come one after another share a color",
        _where(uses, int(colors[-1]), at),
    )


__all__ = ["INPUT", "OUTPUT", "Side", "sides"]
