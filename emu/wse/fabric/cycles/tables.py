"""An encoded program as the arrays that the compiled step reads."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from emu.errors import LimitExceeded
from emu.wse.fabric import ops
from emu.wse.fabric.cycles import counts, fields, sets
from emu.wse.fabric.cycles.counts import Counts
from emu.wse.fabric.cycles.rows import NO_ROWS, PerPE, Rows
from emu.wse.fabric.cycles.shape import Shape
from emu.wse.fabric.directions import PORTS, RAMP, has
from emu.wse.fabric.encoding.encode import Encoded
from emu.wse.fabric.encoding.instructions import NONE, Instruction
from emu.wse.fabric.encoding.queues import Side
from emu.wse.fabric.program import Color

ByPosition = tuple[Rows, ...]
"""For each position of the switches a set of colors in each of `PORTS`."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Tables:
    """The program, over its instructions and over the PEs.

    Attributes:
      shape: what the compiled step depends on.
      on: `bool[]` that is true, which the compiler cannot know (`rows.unfused`).
      instructions: `fields.WORDS` arrays `int32[instructions]`.
      entry: `int32[tasks, PEs]`, each task's first instruction, or NONE.
      hears: `bool[data tasks, PEs]`, where its color starts each of `Shape.data_tasks`.
      receive, send: the colors that a router receives from, or sends in, each direction.
      last: the highest positions, as `counts.py` has numbers.
      heeds: the colors of which control wavelets move the switch.
      channel_capacity: of each of `Shape.hearings` the wavelets in its channels and on the way into
        them, 0 of a color without one; as `counts.py` has numbers.
      output_capacity, input_capacity: of the queues at the PEs' ramps.
    """

    shape: Shape = dataclasses.field(metadata={"static": True})
    on: jax.Array
    instructions: tuple[jax.Array, ...]
    entry: Rows
    hears: Rows
    receive: ByPosition
    send: ByPosition
    last: Counts
    heeds: PerPE
    channel_capacity: tuple[Counts, ...]
    output_capacity: Counts
    input_capacity: Counts


def tables(encoded: Encoded, shape: Shape) -> Tables:
    """An encoded program's tables, on the device."""
    device = encoded.device
    colors = list(encoded.program.colors.values())
    # A shape may allow for more tasks than the program has; the others have no code anywhere.
    entry = np.full((shape.tasks, shape.pes), NONE, np.int32)
    entry[: len(encoded.entry)] = encoded.entry.reshape(-1, shape.pes)
    words = int(device.router_queue_words)
    return Tables(
        shape=shape,
        # An argument of the compiled step: a constant would be folded, and with it the branch that
        # keeps operations apart.
        on=jnp.asarray(np.bool_(True)),
        instructions=_packed(encoded, shape.instructions),
        entry=Rows.of(entry),
        hears=_hears(encoded, shape),
        receive=_by_position(shape, [color.receive for color in colors]),
        send=_by_position(shape, [color.send for color in colors]),
        last=_last(shape, colors),
        heeds=_heeds(shape, colors),
        channel_capacity=tuple(
            counts.packed(_capacity(shape, colors, hearing, words), shape.router_places)
            for hearing in shape.hearings
        ),
        output_capacity=_capacities(encoded.outputs, 1, shape.output_places),
        input_capacity=_capacities(
            encoded.inputs, shape.ramp_cycles, shape.input_places
        ),
    )


def _hears(encoded: Encoded, shape: Shape) -> Rows:
    """Where each data task is started by its color.

    Tasks of one name on other PEs may hear another color: which one is a matter of the PE.
    """
    heard: dict[tuple[int, int], np.ndarray] = {}
    program = encoded.program
    for number, declared in enumerate(program.tasks.values()):
        for task in declared:
            if task.color is not None:
                key = (number, program.colors[task.color].index)
                nowhere = np.zeros(program.shape, bool)
                heard[key] = heard.get(key, nowhere) | task.place
    if not shape.data_tasks:
        return NO_ROWS
    nowhere = np.zeros(program.shape, bool)
    places = [heard.get(key, nowhere).reshape(-1) for key in shape.data_tasks]
    return Rows.of(np.stack(places))


def _last(shape: Shape, colors: list[Color]) -> Counts:
    grids = [color.last for color in colors]
    most = max(shape.positions, default=1) - 1
    return counts.packed(np.array(grids).reshape(-1, shape.pes), most)


def _heeds(shape: Shape, colors: list[Color]) -> PerPE:
    grids = [color.heeds for color in colors]
    return jnp.asarray(sets.packed(np.array(grids).reshape(-1, shape.pes)))


def _by_position(shape: Shape, routes: list[np.ndarray]) -> ByPosition:
    """Routes `[positions, height, width]` of each color; one with fewer keeps its last."""
    by_position: list[Rows] = []
    for position in range(max(shape.positions, default=0)):
        grids: list[np.ndarray] = []
        for grids_of_color in routes:
            last = len(grids_of_color) - 1
            # Its switch never gets to a position beyond its last, whatever stands there.
            grids.append(grids_of_color[min(position, last)])
        sides = np.stack(grids).reshape(-1, shape.pes)
        by_side = [sets.packed(has(sides, side)) for side in PORTS]
        by_position.append(Rows.of(np.stack(by_side)))
    return tuple(by_position)


def _capacities(side: Side, latency: int, most: int) -> Counts:
    """Of each color's queue, and of the way into it: a wavelet for each cycle that it takes."""
    if not len(side.words):
        return NO_ROWS
    return counts.packed(side.flat_words + latency, most)


def _capacity(
    shape: Shape, colors: list[Color], hearing: int, words: int
) -> np.ndarray:
    """`int64[colors, PEs]`: wavelets in the channels of a direction and on the way into them.

    A way holds a wavelet for each cycle that it takes, so that a stream flows at full rate.
    """
    capacity = np.zeros((len(colors), shape.pes), np.int64)
    for number, color in enumerate(colors):
        if (number, hearing) not in shape.channels:
            continue
        is_ramp = hearing == RAMP
        if hearing == NONE:
            # A static color comes over a link at most PEs and up the ramp at its senders, into one
            # channel.
            is_ramp = has(color.receive[0].reshape(-1), RAMP)
        capacity[number] = words + np.where(
            is_ramp, shape.ramp_cycles, shape.hop_cycles
        )
    return capacity


def _packed(encoded: Encoded, count: int) -> tuple[jax.Array, ...]:
    """The instructions as `fields.py` packs them, and zeros up to `count`."""
    # No PE ever comes to the instructions beyond the program's.
    rows = np.zeros((count, fields.WORDS), np.int64)
    for number, instruction in enumerate(encoded.instructions):
        rows[number] = fields.pack(_fields_of(instruction))
    columns = rows.T.astype(np.int32)
    return tuple(jnp.asarray(column) for column in columns)


def _fields_of(instruction: Instruction) -> fields.Instruction:
    time = instruction.time
    if max(time.setup_cycles, time.drain_cycles) >= fields.MAX_CYCLES:
        raise LimitExceeded(
            f"an instruction takes {time.setup_cycles} cycles before its first "
            f"issue, at most {fields.MAX_CYCLES - 1}",
            instruction.where,
        )
    op = instruction.op
    return fields.Instruction(
        setup_cycles=time.setup_cycles,
        kind=instruction.kind,
        thread=instruction.thread,
        last=instruction.last,
        issues=time.issues,
        drain_cycles=time.drain_cycles,
        wavelets_per_issue=time.words,
        inward=instruction.inward,
        idle_cycles=time.interval_cycles - 1,
        activate=instruction.activate,
        unblock=instruction.unblock,
        target=instruction.target,
        outward=instruction.outward,
        control=instruction.control,
        position=op.position if isinstance(op, ops.Switch) else 0,
        conflict=time.conflict,
    )


__all__ = ["Tables", "tables"]
