"""Runs the cycle stepper to its end, in chunks so that a log fits memory and progress shows."""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from emu.program import HASTILY
from emu.wse.fabric.cycles import machine, profile, turns
from emu.wse.fabric.cycles.cycle import step
from emu.wse.fabric.cycles.log import Chunk, Kept, Listener, Log, Places, write
from emu.wse.fabric.cycles.machine import Final, Live
from emu.wse.fabric.cycles.profile import Counters, Counting
from emu.wse.fabric.cycles.shape import Shape, shape_of
from emu.wse.fabric.cycles.tables import Tables, tables
from emu.wse.fabric.encoding.encode import Encoded

QUIET = 2  # cycles without an event after which nothing can happen any more

# The step counts whole numbers alone, so that how it is compiled changes no result. Compiled
# hastily, the step of 12 PEs is there after 0.2 s instead of 0.8 s, that of 400 PEs after 0.5 s
# instead of 1.6 s; but a PE's cycle then takes 0.65 us and not 0.1 us.
# After a million of them half the second that was saved is spent: what still goes on is worth
# compiling well.
HASTY_PE_CYCLES = 1 << 20
# A fabric so large that it would get no further than this begins with the good compilation.
FEWEST_HASTY_CYCLES = 1000


@dataclasses.dataclass(frozen=True)
class Cycles(Kept):
    """What stepping a program cycle by cycle shows, and the log that was kept of it.

    Attributes:
      cycles: until the last PE's last task was done.
      steps: cycles stepped.
      last: the last cycle in which anything happened.
      state: the machine at the end.
      counters: over all steps; None where they were not asked for.
      shape: the machine's, which tells what the arrays' rows are.
    """

    cycles: int
    steps: int
    last: int
    state: Final
    counters: Counters | None
    shape: Shape


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Progress:
    """What goes from one cycle to the next.

    Attributes:
      now: the next cycle.
      last: the last one in which anything happened.
      begin: the first one of this chunk.
      state: the machine.
      log: of this chunk.
      counters: of all cycles so far, if asked for.
    """

    now: jax.Array
    last: jax.Array
    begin: jax.Array
    state: Live
    log: Chunk[jax.Array]
    counters: Counting | None


def _chunk(
    tables: Tables,
    progress: Progress,
    places: Places,
    stop: jax.Array,
) -> Progress:
    """Steps until `stop` or until nothing happens; logs the PEs at `places`."""
    shape = tables.shape

    def cycle(at: Progress) -> Progress:
        now = at.now
        state, seen = step(tables, at.state, now)
        counters = at.counters
        if counters is not None:
            counters = profile.count(shape, counters, seen, now)
        return Progress(
            now=now + 1,
            last=jnp.where(seen.alive, now, at.last),
            begin=at.begin,
            state=state,
            log=write(shape, at.log, places, seen, now, now - at.begin),
            counters=counters,
        )

    def going(at: Progress) -> jax.Array:
        # `now` is the next cycle, so one cycle without an event is stepped, and no more are needed:
        # as no thread waits for a cycle to come (that would be an event), it left the machine as it
        # was, and every later one would.
        return (at.now < stop) & (at.now - at.last < QUIET)

    def stretch(at: Progress) -> Progress:
        counters = None if at.counters is None else profile.settled(at.counters)
        state = machine.ranked(at.state)
        at = dataclasses.replace(at, state=state, counters=counters)
        end = at.now + turns.STRETCH - at.now % turns.STRETCH
        return lax.while_loop(lambda at: going(at) & (at.now < end), cycle, at)

    return lax.while_loop(going, stretch, progress)


_jit = functools.partial(jax.jit, donate_argnames=("progress",))
_chunk_compiled_well = _jit(_chunk)
_chunk_compiled_hastily = _jit(_chunk, compiler_options=HASTILY)


def run(
    encoded: Encoded,
    *,
    watch: np.ndarray | None = None,
    traced: np.ndarray | None = None,
    profiled: bool = False,
    listen: Listener | None = None,
    progress: Callable[[int], None] | None = None,
    limit_cycles: int = 1 << 30,
    shape: Shape | None = None,
) -> Cycles:
    """Steps an encoded program until nothing more can happen.

    Args:
      encoded: the program.
      watch: flat indices of PEs whose dispatches and issues to log; None logs none.
      traced: flat indices of PEs of which to log what each thread does in every cycle.
      profiled: count what every PE does and what every link carries.
      listen: given every PE's dispatches and issues chunk by chunk, see `log.Log`.
      progress: called with the cycle reached after every chunk.
      limit_cycles: stop here at the latest.
      shape: a shape that allows for more than the program needs, so that many share a compilation.
    """
    shape = shape or shape_of(encoded)
    read_only = tables(encoded, shape)
    log = Log(encoded, shape, watch, traced, listen)
    places = log.places()
    at = Progress(
        now=jnp.int32(0),
        last=jnp.int32(0),
        begin=jnp.int32(0),
        state=machine.initial(shape, encoded.started, encoded.blocked),
        log=log.blank(),
        counters=profile.no_counts(shape) if profiled else None,
    )
    begin = 0
    hasty_cycles = HASTY_PE_CYCLES // shape.pes
    if hasty_cycles < FEWEST_HASTY_CYCLES:
        hasty_cycles = 0
    while True:
        # Where to stop is an argument of the compiled loop, not a part of it: all chunks share one
        # compilation, or two if the run is long.
        stop = min(begin + log.rows, limit_cycles)
        hasty = begin < hasty_cycles
        if hasty:
            stop = min(stop, hasty_cycles)
        chunk = _chunk_compiled_hastily if hasty else _chunk_compiled_well
        at = dataclasses.replace(at, begin=jnp.int32(begin))
        at = chunk(read_only, at, places, jnp.int32(stop))
        reached = int(at.now)
        log.take(at.log, begin, reached)
        # `reached` is read from the device, so the chunk is over and its log complete.
        begin = reached
        if progress is not None:
            progress(reached)
        # Short of where it was to stop, nothing happened any more.
        if reached < stop or reached >= limit_cycles:
            break
    counters = None
    if at.counters is not None:
        counters = profile.on_host(shape, read_only, at.counters)
    state = machine.on_host(at.state, shape)
    kept = log.kept()
    return Cycles(
        cycles=int(state.end.max()),
        steps=reached,
        last=int(at.last),
        state=state,
        counters=counters,
        shape=shape,
        order=kept.order,
        issues=kept.issues,
        watch=kept.watch,
        states=kept.states,
        traced=kept.traced,
        merges=kept.merges,
    )


__all__ = ["Cycles", "QUIET", "run"]
