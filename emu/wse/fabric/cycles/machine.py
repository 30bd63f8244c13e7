"""The machine between two cycles: what every PE and every router holds.

An array over the PEs is a *vector* `[PEs]`, several of them a *matrix* `[rows, PEs]`. As the
machine is stepped, a vector is a JAX array and a matrix `Rows`; when it is done, both are NumPy
arrays. A matrix without rows is state that the program has no use for.

Queues are counts, not contents: a wavelet's place in its stream says what it carries, so values are
worked out apart (`trains/flow.py`), and a router's state is a few bytes.
"""

import dataclasses
from typing import Generic, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from emu.annotations import DType, PyTree
from emu.wse.fabric.cycles import turns
from emu.wse.fabric.cycles.rows import NO_ROWS, PerPE, Rows, full, zeros
from emu.wse.fabric.cycles.shape import Shape
from emu.wse.fabric.encoding.instructions import PAUSE

IDLE = -1
"""`State.pc` of a main thread between two tasks."""
NEVER = -1
"""A cycle that has not come."""
TAKES, SENDS = range(2)
Vector = TypeVar("Vector")
Matrix = TypeVar("Matrix")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Queues(Generic[Matrix]):
    """Queues with a way into them that takes some cycles.

    A wavelet that enters a way of three cycles sets bit 2 of `flying`; each cycle shifts the bits
    down, and one that falls out of bit 0 has arrived. Until then it is counted in `held` alone:

        cycle     flying   waiting   held
        enters     0b100         0      1
        +1         0b010         0      1
        +2         0b001         0      1
        +3         0b000         1      1

    Attributes:
      waiting: `int8`, wavelets that have arrived.
      flying: `int8`, a bit for each that is on its way.
      held: `int8`, both: places of the queue and of its way that are taken.
    """

    waiting: Matrix
    flying: Matrix
    held: Matrix


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Threads(Generic[Matrix]):
    """Operations on the datapath: a row for the main thread and one for each microthread.

    Attributes:
      on: `bool`, whether it has an operation.
      wake: `int32`, the cycle from which it may issue.
      left: `int32`, wavelets (or cycles of a local operation) that are left.
      inward, outward: `int8`, colors of its fabric source and destination, or NONE.
      pace: `int8`, wavelets an issue and idle cycles after one (`fields.py`).
      completion: `int32`, what is done to tasks when it completes (`fields.py`).
      control: `int8`, the kind of the wavelets that it sends.
      ahead: the set of threads that go before it (`turns.py`); of microthreads only.
      begun: `int32`, when its operation was dispatched; only if threads may share a color.
    """

    on: Matrix
    wake: Matrix
    left: Matrix
    inward: Matrix
    outward: Matrix
    pace: Matrix
    completion: Matrix
    control: Matrix
    ahead: Matrix
    begun: Matrix


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class State(Generic[Vector, Matrix]):
    """All that the next cycle depends on, and what was seen on the way.

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
      channels: of the routers, a row a channel; ways are links and ramps.
      inputs: of the PEs, a row a color; the way is the ramp.
      outputs: `int8`, wavelets in the PEs' output queues, a row a color.
      channel_kinds, output_kinds: `int32`, kinds of the wavelets in these queues, the head lowest;
        only if control wavelets are sent.
      position: `int8`, of each color's switch; only if some color has several.
      link_ahead, ramp_ahead: the set of colors that go before a color (`turns.py`) on a link, or on
        a PE's ramp; only if colors share links, or ramps.
      clash: `int32[3]`, the first cycle, PE and color of two arrivals at once, or NEVER.
      mixed: `int32[5]`, the first cycle, PE, color, side (TAKES or SENDS) and thread of words of
        one color that two operations of a PE move at once, or NEVER.
    """

    pc: Vector
    wake: Vector
    end: Vector
    active: Vector
    blocked: Vector
    running: Matrix
    resume: Matrix
    threads: Threads[Matrix]
    stamps: Matrix
    channels: Queues[Matrix]
    inputs: Queues[Matrix]
    outputs: Matrix
    channel_kinds: Matrix
    output_kinds: Matrix
    position: Matrix
    link_ahead: Matrix
    ramp_ahead: Matrix
    clash: Vector
    mixed: Vector


Live = State[PerPE, Rows]
"""The machine as it is stepped."""
Final = State[np.ndarray, np.ndarray]
"""The machine when it is done."""


def initial(shape: Shape, started: np.ndarray, blocked: np.ndarray) -> Live:
    """The machine before cycle 0, with the tasks that start as bits."""
    pes = shape.pes
    colors = shape.colors
    channels = len(shape.channels)

    # Every row is an array over all PEs that each cycle reads and writes, so those that no program
    # of this shape looks at are left out.
    def if_used(used: bool, rows: int, value: int, dtype: DType) -> Rows:
        return full(rows, pes, value, dtype) if used else NO_ROWS

    pauses = PAUSE in shape.kinds
    switches = max(shape.positions, default=1) > 1
    shares_links = bool(shape.link_pairs)
    shares_ramps = bool(shape.ramp_pairs)
    return State(
        pc=jnp.full(pes, IDLE, jnp.int32),
        wake=jnp.zeros(pes, jnp.int32),
        end=jnp.zeros(pes, jnp.int32),
        active=jnp.asarray(started, jnp.int32).reshape(pes),
        blocked=jnp.asarray(blocked, jnp.int32).reshape(pes),
        running=if_used(pauses, 1, 0, jnp.int32),
        resume=if_used(pauses, shape.tasks, 0, jnp.int32),
        threads=_no_operations(shape),
        stamps=full(shape.stamps, pes, NEVER, jnp.int32),
        channels=_empty(channels, pes),
        inputs=_empty(colors, pes),
        outputs=zeros(colors, pes, jnp.int8),
        channel_kinds=if_used(shape.control, channels, 0, jnp.int32),
        output_kinds=if_used(shape.control, colors, 0, jnp.int32),
        position=if_used(switches, colors, 0, jnp.int8),
        link_ahead=turns.in_order(colors if shares_links else 0, pes),
        ramp_ahead=turns.in_order(colors if shares_ramps else 0, pes),
        clash=jnp.full(3, NEVER, jnp.int32),
        mixed=jnp.full(5, NEVER, jnp.int32),
    )


def _no_operations(shape: Shape) -> Threads[Rows]:
    def empty(dtype: DType) -> Rows:
        return zeros(shape.threads, shape.pes, dtype)

    # A main thread alone has nobody to take turns with.
    taking_turns = shape.threads if shape.threads > 1 else 0
    may_share = bool(shape.taking_pairs or shape.sending_pairs)
    sharing = shape.threads if may_share else 0
    return Threads(
        on=empty(bool),
        wake=empty(jnp.int32),
        left=empty(jnp.int32),
        inward=empty(jnp.int8),
        outward=empty(jnp.int8),
        pace=empty(jnp.int8),
        completion=empty(jnp.int32),
        control=empty(jnp.int8),
        ahead=turns.in_order(taking_turns, shape.pes),
        begun=full(sharing, shape.pes, NEVER, jnp.int32),
    )


def _empty(rows: int, pes: int) -> Queues[Rows]:
    return Queues(
        waiting=zeros(rows, pes, jnp.int8),
        flying=zeros(rows, pes, jnp.int8),
        held=zeros(rows, pes, jnp.int8),
    )


def on_host(state: Live, pes: int) -> Final:
    """The same as NumPy arrays."""

    def array(leaf: PerPE | Rows) -> np.ndarray:
        # Stacked only now: in the compiled step that is what `Rows` is there to avoid.
        if not isinstance(leaf, Rows):
            return np.asarray(leaf)
        # `np.stack` refuses to stack nothing.
        if not len(leaf):
            return np.zeros((0, pes), np.int32)
        return np.stack([np.asarray(row) for row in leaf])

    def is_matrix(leaf: PyTree) -> bool:
        return isinstance(leaf, Rows)

    return jax.tree.map(array, state, is_leaf=is_matrix)


__all__ = [
    "Final",
    "IDLE",
    "Live",
    "NEVER",
    "SENDS",
    "TAKES",
    "Queues",
    "State",
    "Threads",
    "initial",
    "on_host",
]
