"""The machine between two cycles: what every PE and every router holds.

What a PE holds of its colors are sets of them (`sets.py`), and small numbers of them are a set a
bit (`counts.py`). What it holds of its threads are arrays over the PEs, one a thread. State that
the program has no use for has no rows.

Queues are counts, not contents: a wavelet's place in its stream says what it carries, so values are
worked out apart (`trains/flow.py`), and a router's state is a few bytes.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from emu.annotations import DType
from emu.wse.fabric.cycles import counts, sets, turns
from emu.wse.fabric.cycles.counts import Counts
from emu.wse.fabric.cycles.fields import KIND_BITS
from emu.wse.fabric.cycles.rows import NO_ROWS, PerPE, Rows, full, zeros
from emu.wse.fabric.cycles.shape import Shape
from emu.wse.fabric.encoding.instructions import NONE, PAUSE

IDLE = -1
"""`Live.pc` of a main thread between two tasks."""
NEVER = -1
"""A cycle that has not come."""
TAKES, SENDS = range(2)
Kinds = tuple[Rows, ...]
"""For each bit of a kind the colors in which it is set, of the wavelet in each place of a queue,
the head first; nothing if no control wavelets are sent."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Queues:
    """A queue of each color with a way into it that takes some cycles.

    A wavelet that enters a way of three cycles is in `flying[2]`, in the next cycle in `flying[1]`,
    then in `flying[0]`, and then it has arrived. Until then it is counted in `held` alone:

        cycle     flying     waiting   held
        enters    - - x            0      1
        +1        - x -            0      1
        +2        x - -            0      1
        +3        - - -            1      1

    Attributes:
      waiting: wavelets that have arrived.
      flying: the colors of which one is on its way, by the cycles that it has still to go.
      held: both: places of the queue and of its way that are taken.
    """

    waiting: Counts
    flying: Rows
    held: Counts


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Threads:
    """Operations on the datapath: a row for the main thread and one for each microthread.

    Attributes:
      on: `bool`, whether it has an operation.
      wake: `int32`, the cycle from which it may issue.
      left: `int32`, wavelets (or cycles of a local operation) that are left.
      inward, outward: the color of its fabric source and destination, as a set of one or none.
      pace: `int8`, wavelets an issue and idle cycles after one (`fields.py`); only if any moves
        several or sits out.
      completion: `int32`, what is done to tasks when it completes (`fields.py`).
      control: `int8`, the kind of the wavelets that it sends; only if control wavelets are sent.
      served: `uint8[threads, PEs]`, when each last had the datapath (`turns.py`); only of
        microthreads.
      begun: `int32`, when its operation was dispatched; only if threads may share a color.
    """

    on: Rows
    wake: Rows
    left: Rows
    inward: Rows
    outward: Rows
    pace: Rows
    completion: Rows
    control: Rows
    served: Rows
    begun: Rows


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Live:
    """The machine as it is stepped: all that the next cycle depends on, and what was seen.

    Attributes:
      pc: `int32`, the main thread's next instruction, or IDLE.
      wake: `int32`, the cycle from which it may dispatch; while a synchronous operation is on the
        datapath, the cycles of drain that will follow its last issue.
      end: `int32`, when the last task so far was done.
      active, blocked: `int32`, tasks as bits.
      running: `int32[1, PEs]`, the task that the main thread runs; only if some task pauses.
      resume: `int32[tasks, PEs]`, where a paused task goes on, 0 if at its start.
      threads: operations on the datapath.
      stamps: `int32[stamps, PEs]`, when each was last read, or NEVER.
      channels: of the routers, one for each of `Shape.hearings`; ways are links and ramps.
      inputs: of the PEs; the way is the ramp.
      outputs: wavelets in the PEs' output queues.
      channel_kinds: of the wavelets in each of `channels`.
      output_kinds: of those in the output queues.
      position: of each color's switch.
      link_served, ramp_served: `uint8[colors, PEs]`, when each color last left the router, or
        entered it from the PE (`turns.py`); only if colors share links, or ramps.
      clash: `int32[3]`, the first cycle, PE and color of two arrivals at once, or NEVER.
      mixed: `int32[5]`, the first cycle, PE, color, side (TAKES or SENDS) and thread of words of
        one color that two operations of a PE move at once, or NEVER.
    """

    pc: PerPE
    wake: PerPE
    end: PerPE
    active: PerPE
    blocked: PerPE
    running: Rows
    resume: Rows
    threads: Threads
    stamps: Rows
    channels: tuple[Queues, ...]
    inputs: Queues
    outputs: Counts
    channel_kinds: tuple[Kinds, ...]
    output_kinds: Kinds
    position: Counts
    link_served: Rows
    ramp_served: Rows
    clash: jax.Array
    mixed: jax.Array


def initial(shape: Shape, started: np.ndarray, blocked: np.ndarray) -> Live:
    """The machine before cycle 0, with the tasks that start as bits."""
    pes = shape.pes
    colors = shape.colors
    dtype = sets.dtype_for(colors)
    pauses = PAUSE in shape.kinds
    most_cycles = max(shape.hop_cycles, shape.ramp_cycles)

    # Every row is an array over all PEs that each cycle reads and writes, so those that no program
    # of this shape looks at are left out.
    def if_used(used: bool, rows: int) -> Rows:
        return zeros(rows if used else 0, pes, jnp.int32)

    def queues(places: int, way_cycles: int) -> Queues:
        return Queues(
            waiting=counts.nothing(places, pes, dtype),
            flying=zeros(way_cycles, pes, dtype),
            held=counts.nothing(places, pes, dtype),
        )

    def kinds(places: int) -> Kinds:
        bits = KIND_BITS if shape.control else 0
        return tuple(zeros(places, pes, dtype) for _ in range(bits))

    return Live(
        pc=jnp.full(pes, IDLE, jnp.int32),
        wake=jnp.zeros(pes, jnp.int32),
        end=jnp.zeros(pes, jnp.int32),
        active=jnp.asarray(started, jnp.int32).reshape(pes),
        blocked=jnp.asarray(blocked, jnp.int32).reshape(pes),
        running=if_used(pauses, 1),
        resume=if_used(pauses, shape.tasks),
        threads=_no_operations(shape, dtype),
        stamps=full(shape.stamps, pes, NEVER, jnp.int32),
        channels=tuple(
            queues(shape.router_places, most_cycles) for _ in shape.hearings
        ),
        inputs=queues(shape.input_places, shape.ramp_cycles),
        outputs=counts.nothing(shape.output_places, pes, dtype),
        channel_kinds=tuple(kinds(shape.router_places) for _ in shape.hearings),
        output_kinds=kinds(shape.output_places),
        position=counts.nothing(max(shape.positions, default=1) - 1, pes, dtype),
        link_served=turns.nobody(colors if shape.link_pairs else 0, pes),
        ramp_served=turns.nobody(colors if shape.ramp_pairs else 0, pes),
        clash=jnp.full(3, NEVER, jnp.int32),
        mixed=jnp.full(5, NEVER, jnp.int32),
    )


def _no_operations(shape: Shape, colors: DType) -> Threads:
    def empty(dtype: DType, used: bool = True) -> Rows:
        return zeros(shape.threads if used else 0, shape.pes, dtype)

    may_share = bool(shape.taking_pairs or shape.sending_pairs)
    return Threads(
        on=empty(bool),
        wake=empty(jnp.int32),
        left=empty(jnp.int32),
        inward=empty(colors),
        outward=empty(colors),
        pace=empty(jnp.int8, shape.paced),
        completion=empty(jnp.int32),
        control=empty(jnp.int8, shape.control),
        # A main thread alone has nobody to take turns with.
        served=turns.nobody(shape.threads if shape.threads > 1 else 0, shape.pes),
        begun=full(shape.threads, shape.pes, NEVER, jnp.int32)
        if may_share
        else NO_ROWS,
    )


def ranked(state: Live) -> Live:
    """The same machine, with who was served when as ranks (`turns.py`)."""
    threads = state.threads
    return dataclasses.replace(
        state,
        threads=dataclasses.replace(threads, served=turns.ranked(threads.served)),
        link_served=turns.ranked(state.link_served),
        ramp_served=turns.ranked(state.ramp_served),
    )


@dataclasses.dataclass(frozen=True)
class Final:
    """The machine when it is done, in NumPy arrays; a row a thread, stamp, color or channel.

    Attributes:
      pc, end, active, clash, mixed: as of `Live`.
      stamps: `int32[stamps, PEs]`.
      on, left: `[threads, PEs]`, operations on the datapath.
      inward, outward: `int64[threads, PEs]`, their colors, or NONE.
      channels: `int64[channels, PEs]`, wavelets that wait at routers, a row of `Shape.channels`.
      inputs, outputs: `int64[colors, PEs]`, wavelets that wait in the queues at the PEs' ramps.
      inputs_held: the same of `inputs` and of those on the way there.
    """

    pc: np.ndarray
    end: np.ndarray
    active: np.ndarray
    clash: np.ndarray
    mixed: np.ndarray
    stamps: np.ndarray
    on: np.ndarray
    left: np.ndarray
    inward: np.ndarray
    outward: np.ndarray
    channels: np.ndarray
    inputs: np.ndarray
    outputs: np.ndarray
    inputs_held: np.ndarray


def on_host(state: Live, shape: Shape) -> Final:
    """A machine's end."""
    threads = state.threads

    def stacked(rows: Rows) -> np.ndarray:
        # `np.stack` refuses to stack nothing.
        if not len(rows):
            return np.zeros((0, shape.pes), np.int32)
        return np.stack([np.asarray(row) for row in rows])

    def numbers(rows: Counts) -> np.ndarray:
        return counts.unpacked([np.asarray(row) for row in rows], shape.colors)

    def colors(rows: Rows) -> np.ndarray:
        of_threads = sets.unpacked(stacked(rows), shape.colors)
        found = np.full(of_threads.shape[1:], NONE)
        for color, uses in enumerate(of_threads):
            found[uses] = color
        return found

    by_hearing = {
        hearing: numbers(queues.waiting)
        for hearing, queues in zip(shape.hearings, state.channels, strict=True)
    }
    channels = [by_hearing[hearing][color] for color, hearing in shape.channels]
    return Final(
        pc=np.asarray(state.pc),
        end=np.asarray(state.end),
        active=np.asarray(state.active),
        clash=np.asarray(state.clash),
        mixed=np.asarray(state.mixed),
        stamps=stacked(state.stamps),
        on=stacked(threads.on),
        left=stacked(threads.left),
        inward=colors(threads.inward),
        outward=colors(threads.outward),
        channels=np.array(channels, np.int64).reshape(-1, shape.pes),
        inputs=numbers(state.inputs.waiting),
        outputs=numbers(state.outputs),
        inputs_held=numbers(state.inputs.held),
    )


__all__ = [
    "Final",
    "IDLE",
    "Kinds",
    "Live",
    "NEVER",
    "Queues",
    "SENDS",
    "TAKES",
    "Threads",
    "initial",
    "on_host",
    "ranked",
]
