"""Every time in the clock's state is in one table, and all that saves or moves times goes by it."""

import dataclasses
import typing
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from emu.clock import resources
from emu.clock.names import CauseName
from emu.clock.price import Prices
from emu.clock.resources import CLOCKS, LEVELS, RESOURCES, Buffer, Engine, Port
from emu.clock.state import ClockState, Setup, initial_state
from emu.clock.ticks import Flags, PerCore, Ticks
from emu.clock.tiles import Value
from emu.loops import jump
from emu.loops.distinct import distinct
from emu.loops.entry import LoopEntry
from emu.loops.marks import ALWAYS, Marks
from emu.loops.merge import Merge
from emu.loops.one_core import OneCore
from emu.loops.outcome import OutcomeReader
from emu.loops.starting_state import StartingStates, Uses
from emu.tracing import jaxpr as jx
from tests.helpers import THROTTLED

# Times that a loop handles by themselves: the end of its instructions and what was booked
# (`emu.loops.jump`, `emu.loops.merge`), the versions and times of buffers and values, by place.
BY_THEMSELVES = {
    ClockState: {"end"},
    Buffer: {"idle", "version"},
    Value: {"ready"},
}
HELD = (ClockState, Engine, Port, Buffer, Value)


def fields_of(kind: Any, *types: Any) -> set[str]:
    """Names of a dataclass' fields that are of one of these types."""
    hints = typing.get_type_hints(kind)
    names = {field.name for field in dataclasses.fields(kind)}
    return {name for name in names if hints[name] in types}


def table_of(kind):
    return next((name for name, entry in RESOURCES.items() if entry is kind), None)


@pytest.mark.parametrize("kind", HELD)
def test_every_time_is_in_the_table(kind):
    """Whoever adds a time to the state and forgets the table is told here."""
    table = table_of(kind)
    listed = {clock.time for clock in CLOCKS.values() if clock.table == table}
    listed |= set(LEVELS) if kind is Engine else set()
    expected = listed if table else BY_THEMSELVES[kind]
    assert fields_of(kind, Ticks, PerCore, Flags) == expected


def test_every_table_of_the_state_is_listed():
    hints = typing.get_type_hints(ClockState)
    held = {
        name
        for name, hint in hints.items()
        if typing.get_origin(hint) is dict
        and typing.get_args(hint)[1] in typing.get_args(resources.Resource)
    }
    assert held == set(RESOURCES)
    assert {clock.table for clock in CLOCKS.values()} == set(RESOURCES)


def test_fields_named_in_the_table_exist():
    for clock in CLOCKS.values():
        names = fields_of(RESOURCES[clock.table], int)
        assert clock.mark in names
        if clock.label is not None:
            assert fields_of(RESOURCES[clock.table], CauseName) >= {clock.label}
    assert set(LEVELS) <= {field.name for field in dataclasses.fields(Engine)}


# --- all that saves, moves or puts back ---

MESH = {"core": 3}
PORTS = [("psum", 0), ("psum", 1)]


def a_loop():
    """A `scan` of ten iterations that counts."""

    def kernel(x):
        return lax.scan(lambda carry, _: (carry + 1, None), x, None, length=10)[0]

    body = jx.trace(kernel, [jax.ShapeDtypeStruct((), jnp.int32)], {})
    return next(eqn for eqn in body.eqns if eqn.primitive.name == "scan")


def a_state(uses=0):
    """A state of three cores in which every clock and level has values of its own."""
    state = initial_state(Setup(THROTTLED, MESH))
    for key in PORTS:
        state.port(key)
    for number, (row, resource, clock) in enumerate(state.table(), 1):
        times = 1000 * number + np.array([0, 10, 200])
        setattr(resource, clock.time, times)
        setattr(resource, clock.mark, uses)
    for number, row in enumerate(state.levels(), 1):
        field, _ = row
        values = np.array([number, 0, number]).astype(LEVELS[field])
        setattr(state.resource(row), field, values)
    return state


def entry_of(state):
    constant = Value((), np.dtype(np.int32), "register", 0, known=np.zeros((1,), int))
    walk = lambda state, body, inputs, active: inputs  # noqa: E731
    return LoopEntry(walk, state, Marks(), a_loop(), [constant], None)


def everything(state):
    return {**state.clocks(), **state.levels()}


def test_a_loop_is_entered_with_every_clock():
    state = a_state()
    entry = entry_of(state)
    assert entry.frame == (3,)
    assert set(everything(state)) <= {*entry.clocks, *entry.levels}
    for row, time in state.clocks().items():
        np.testing.assert_array_equal(entry.times[entry.position[row]], time)


def test_a_core_read_alone_has_every_clock_of_its_own():
    state = a_state()
    entry = entry_of(state)
    for cell in range(3):
        alone = OneCore(entry, cell, []).state
        for row, value in everything(state).items():
            assert everything(alone)[row] == value[cell], row


def test_a_starting_state_depends_on_every_clock_and_level():
    """Were one forgotten, cores in different states would be taken for one class."""
    rows = list(a_state().clocks())
    for changed in everything(a_state()):
        state = a_state()
        assert isinstance(state.prices, Prices)
        state.prices.lead = 1 << 20  # nothing is too early to decide anything
        for row in everything(state):
            field = CLOCKS[row[0]].time if row[0] in CLOCKS else row[0]
            setattr(state.resource(row), field, 0)
        field = CLOCKS[changed[0]].time if changed[0] in CLOCKS else changed[0]
        setattr(state.resource(changed), field, np.array([0, 7, 0]))
        uses = Uses(tuple(state.engines), tuple(rows))
        start = StartingStates(entry_of(state), uses, np.arange(3))
        states = start.states({})
        firsts, which = distinct(states)
        assert firsts == [0, 1] and which.tolist() == [0, 1, 0], changed


@pytest.mark.parametrize("sums_differ", [True, False])
def test_equal_columns_are_told_apart_though_their_sums_were_equal(
    sums_differ, monkeypatch
):
    if not sums_differ:
        monkeypatch.setattr("emu.loops.distinct._FACTORS", np.zeros(1, np.int64))
    rng = np.random.default_rng(0)
    columns = rng.integers(-(2**60), 2**60, (40, 5))[:, [3, 1, 3, 4, 1, 1, 0]]
    firsts, which = distinct(columns)
    assert firsts == [0, 1, 3, 6]
    assert which.tolist() == [0, 1, 0, 2, 1, 1, 3]
    assert distinct(columns[:, :1])[0] == [0]


def test_a_jump_moves_every_clock():
    state = a_state()
    loop = jump.Loop(
        lambda state, body, inputs, active: inputs, state, a_loop(), [], None
    )
    state.rings.inside[()] = []
    loop.carry = []
    was = loop.snapshot()
    for _, resource, clock in state.table():
        setattr(resource, clock.time, getattr(resource, clock.time) + 7)
    now = loop.snapshot()
    assert set(state.clocks()) <= set(now.rows)
    steps = dict(zip(now.rows, np.zeros(len(now.rows), int).tolist(), strict=True))
    steps |= dict.fromkeys(state.clocks(), 7)
    before = state.clocks()
    loop.jump(was, now, steps, 1, 5)
    for row, time in state.clocks().items():
        np.testing.assert_array_equal(time, before[row] + 5 * 7)


def test_a_snapshot_changes_with_every_clock_and_level():
    for row in everything(a_state()):
        state = a_state()
        loop = jump.Loop(
            lambda state, body, inputs, active: inputs, state, a_loop(), [], None
        )
        state.rings.inside[()] = []
        loop.carry = []
        was = loop.snapshot()
        field = CLOCKS[row[0]].time if row[0] in CLOCKS else row[0]
        resource = state.resource(row)
        setattr(resource, field, getattr(resource, field) + np.array([0, 1, 0]))
        now = loop.snapshot()
        differs = not np.array_equal(was.flat, now.flat) or was.form != now.form
        assert differs, row


def test_what_a_loop_set_is_put_back_on_every_core():
    """Every clock and level that one core's walk set comes back on all cores of its class."""
    state = a_state()
    entry = entry_of(state)
    base = np.array([100, 110, 300])
    outcomes = []
    for cell in range(3):
        core = OneCore(entry, cell, [])
        for number, (row, resource, clock) in enumerate(core.state.table()):
            setattr(resource, clock.time, int(base[cell]) + number)
            setattr(resource, clock.mark, 1)
        for row in core.state.levels():
            field, _ = row
            setattr(core.state.resource(row), field, LEVELS[field](cell))
        outcomes.append(OutcomeReader(core, int(base[cell]), [], ALWAYS).outcome([]))
    merge = Merge(entry, outcomes, np.arange(3), base, np.zeros(3, int), None)
    merge.clocks()
    for number, (row, time) in enumerate(state.clocks().items()):
        np.testing.assert_array_equal(time, base + number, str(row))
    for row, level in state.levels().items():
        np.testing.assert_array_equal(level, np.arange(3).astype(LEVELS[row[0]]))


def test_engines_share_a_clock_where_nothing_was_taken():
    free, last = 2**40, int(str(2**40))
    alone = Engine("vector", "vector", free=free, last=last)
    alone.share_clock()
    assert alone.free is alone.last
    # Only some cores lost time to others: they agree in one of the two and differ in the other.
    of_cores = np.array([3, 7])
    apart = Engine("vector", "vector", free=7, last=of_cores)
    apart.share_clock()
    assert apart.free == 7 and apart.last is of_cores
