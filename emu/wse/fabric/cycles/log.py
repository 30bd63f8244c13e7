"""The cycle stepper's log of some PEs: written inside the compiled loop, read out after each chunk.

A PE is *watched* for its dispatches and issues, *traced* for what each of its threads does too.
"""

import dataclasses
from collections.abc import Callable
from typing import Generic, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from emu.annotations import DType
from emu.wse.fabric.arrays import PEs
from emu.wse.fabric.cycles import router
from emu.wse.fabric.cycles.cycle import Seen
from emu.wse.fabric.cycles.rows import Rows
from emu.wse.fabric.cycles.shape import Shape
from emu.wse.fabric.cycles.states import states
from emu.wse.fabric.encoding.encode import Encoded
from emu.wse.fabric.encoding.instructions import NONE
from emu.wse.fabric.events import HEARD, Dispatches, Turns
from emu.wse.fabric.program import merging

FEWEST_ROWS = 16
MOST_ROWS = 2048
"""Cycles that a chunk logs, at least and at most."""
ENTRIES = 1 << 22  # and how many entries about
Listener = Callable[[int, Dispatches, np.ndarray], None]
Array = TypeVar("Array")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Places:
    """What is logged: flat PEs, and routers that merge; None logs none.

    Attributes:
      logged, traced: flat indices of PEs.
      merging_colors, merging_pes: of the routers.
    """

    logged: jax.Array | None
    traced: jax.Array | None
    merging_colors: jax.Array | None
    merging_pes: jax.Array | None


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Chunk(Generic[Array]):
    """The log of some cycles, one row a cycle; None where `Places` has none.

    Attributes:
      dispatched: `int32[cycles, logged]`, instructions dispatched, or NONE.
      heard: `int32[cycles, logged]`, `HEARD - task` of data tasks started, or NONE.
      issues: `int8[cycles, logged]`, the thread that each datapath served, or NONE.
      states: `int8[cycles, threads, traced]`.
      turns: `int8[cycles, merging]`, the direction of the wavelet that was taken, or NONE.
    """

    dispatched: Array | None
    heard: Array | None
    issues: Array | None
    states: Array | None
    turns: Array | None


@dataclasses.dataclass(frozen=True)
class Kept:
    """All chunks of a run.

    Attributes:
      order: every dispatch of the watched PEs, the starts of data tasks before their code.
      issues: `int8[steps, watched]`: the thread each watched PE's datapath served, or NONE.
      watch: flat indices of the watched PEs.
      states: `int8[steps, threads, traced]`, what each thread of the traced PEs did in each cycle,
        indices of `states.THREAD_STATES`.
      traced: flat indices of the traced PEs, which are watched too.
      merges: of routers that merge; empty where no PE is watched.
    """

    order: Dispatches
    issues: np.ndarray
    watch: np.ndarray
    states: np.ndarray
    traced: np.ndarray
    merges: Turns


class Log:
    """What is kept of a run.

    Args:
      encoded: the program.
      shape: of its machine.
      watch, traced: flat indices of PEs, or None.
      listen: hears all PEs' dispatches and issues, without their being kept: after each chunk it is
        given the chunk's first cycle, its dispatches and `int8[cycles, PEs]`, the thread that each
        datapath served, or NONE.
    """

    def __init__(
        self,
        encoded: Encoded,
        shape: Shape,
        watch: PEs | None,
        traced: PEs | None,
        listen: Listener | None,
    ):
        none = np.zeros(0, np.int32)
        self.shape = shape
        self.listen = listen
        self.traced = none
        if traced is not None:
            self.traced = np.unique(traced).astype(np.int32)
        self.watch = none
        if watch is not None:
            self.watch = np.asarray(watch, np.int32)
        if len(self.traced):  # traced PEs are watched too
            self.watch = np.union1d(self.watch, self.traced)
        # A listener hears all PEs, and keeps what it wants; of these the watched ones are picked
        # out later.
        all_pes = np.arange(shape.pes, dtype=np.int32)
        self.logged = self.watch if listen is None else all_pes
        self.merging_colors = none
        self.merging_pes = none
        if len(self.watch):
            self.merging_colors, self.merging_pes = _merging(encoded)
        # A wafer's 880,000 PEs get 16 cycles a chunk, a few traced PEs 2048.
        wanted = ENTRIES // max(1, len(self.logged))
        self.rows = int(np.clip(wanted, FEWEST_ROWS, MOST_ROWS))
        watched = len(self.watch)
        traced_pes = len(self.traced)
        self.order = [Dispatches.empty()]
        self.issues = [np.zeros((0, watched), np.int8)]
        self.merges = [Turns.empty()]
        self.states = [np.zeros((0, shape.threads, traced_pes), np.int8)]

    def places(self) -> Places:
        """Which PEs, and routers that merge, the compiled loop logs."""

        def some(indices: np.ndarray) -> jax.Array | None:
            return jnp.asarray(indices) if len(indices) else None

        return Places(
            logged=some(self.logged),
            traced=some(self.traced),
            merging_colors=some(self.merging_colors),
            merging_pes=some(self.merging_pes),
        )

    def blank(self) -> Chunk[jax.Array]:
        """Arrays for one chunk, a row a cycle."""
        logged = len(self.logged)
        traced = len(self.traced)
        merging = len(self.merging_pes)
        rows = self.rows

        def unwritten(columns: int, dtype: DType) -> jax.Array | None:
            return jnp.full((rows, columns), NONE, dtype) if columns else None

        states = None
        if traced:
            states = jnp.zeros((rows, self.shape.threads, traced), jnp.int8)
        return Chunk(
            dispatched=unwritten(logged, jnp.int32),
            heard=unwritten(logged, jnp.int32),
            issues=unwritten(logged, jnp.int8),
            states=states,
            turns=unwritten(merging, jnp.int8),
        )

    def take(self, written: Chunk[jax.Array], begin: int, end: int) -> None:
        """Keeps a chunk's rows, those of cycles `begin` up to `end`."""

        def rows(array: jax.Array) -> np.ndarray:
            # A run that ends within a chunk leaves rows of an earlier chunk behind its own.
            return np.asarray(array)[: end - begin]

        chunk: Chunk[np.ndarray] = jax.tree.map(rows, written)
        if chunk.issues is not None:
            events = _events(chunk, begin, self.logged)
            issues = chunk.issues
            if self.listen is not None:
                self.listen(begin, events, issues)
                events = events[np.isin(events.pe, self.watch)]
                issues = issues[:, self.watch]
            self.order.append(events)
            # A copy: the chunk's own arrays go back to the compiled loop.
            self.issues.append(issues.copy())
        if chunk.states is not None:
            self.states.append(chunk.states.copy())
        if chunk.turns is not None:
            self.merges.append(self._turns(chunk.turns))

    def _turns(self, turns: np.ndarray) -> Turns:
        """A chunk's `[cycles, merging]` as a table."""
        # `nonzero` goes row by row, and rows are cycles: the table is in the order of time.
        row, column = np.nonzero(turns != NONE)
        direction = turns[row, column]
        return Turns(
            pe=self.merging_pes[column].astype(np.int64),
            color=self.merging_colors[column].astype(np.int64),
            direction=direction.astype(np.int64),
        )

    def kept(self) -> Kept:
        """All that was taken."""
        return Kept(
            order=Dispatches.joined(self.order),
            issues=np.concatenate(self.issues),
            watch=self.watch,
            states=np.concatenate(self.states),
            traced=self.traced,
            merges=Turns.joined(self.merges),
        )


def write(
    shape: Shape,
    log: Chunk[jax.Array],
    places: Places,
    seen: Seen,
    now: jax.Array,
    row: jax.Array,
) -> Chunk[jax.Array]:
    """The log with one more cycle in its row."""

    def written(column: jax.Array | None, entries: jax.Array) -> jax.Array | None:
        assert column is not None
        start = (row, *[0] * (column.ndim - 1))
        return lax.dynamic_update_slice(column, entries[None], start)

    logged = places.logged
    if logged is not None:
        heard = seen.acts.heard[logged]
        started = jnp.where(heard >= 0, HEARD - heard, NONE)
        served = _served(seen.issues.issued, logged)
        log = dataclasses.replace(
            log,
            dispatched=written(log.dispatched, seen.acts.code[logged]),
            heard=written(log.heard, started),
            issues=written(log.issues, served),
        )
    if places.traced is not None:
        doing = states(shape, seen, now, places.traced)
        log = dataclasses.replace(log, states=written(log.states, doing))
    if places.merging_pes is not None:
        assert seen.heads is not None and seen.moves is not None
        assert places.merging_colors is not None
        taken = router.turns_taken(
            shape,
            seen.heads,
            seen.moves.forwarded,
            places.merging_colors,
            places.merging_pes,
        )
        log = dataclasses.replace(log, turns=written(log.turns, taken))
    return log


def _served(issued: Rows, logged: jax.Array) -> jax.Array:
    """The thread that issued on each logged PE, or NONE."""
    served = jnp.full(logged.shape, NONE, jnp.int8)
    for number, row in enumerate(issued):
        thread = jnp.int8(number)
        # A datapath serves one thread a cycle, so no row overwrites another's entry.
        served = jnp.where(row[logged], thread, served)
    return served


def _events(chunk: Chunk[np.ndarray], begin: int, pes: PEs) -> Dispatches:
    """A chunk's log as a table; a data task's start precedes its code."""
    assert chunk.heard is not None and chunk.dispatched is not None
    # Axis 1, between cycles and PEs: `nonzero` then gives, of one cycle, all starts of data tasks
    # before any dispatch.
    both = np.stack([chunk.heard, chunk.dispatched], axis=1)
    row, which, column = np.nonzero(both != NONE)
    code = both[row, which, column]
    return Dispatches(
        cycle=row + begin,
        pe=pes[column].astype(np.int64),
        code=code.astype(np.int64),
    )


def _merging(encoded: Encoded) -> tuple[np.ndarray, PEs]:
    """Color and flat PE of each router that merges streams."""
    colors = [np.zeros(0, np.int32)]
    pes = [np.zeros(0, np.int32)]
    for color in encoded.program.colors.values():
        routers = merging(color).astype(np.int32)
        colors.append(np.full_like(routers, color.index))
        pes.append(routers)
    return np.concatenate(colors), np.concatenate(pes)


__all__ = ["Chunk", "Kept", "Listener", "Log", "Places", "write"]
