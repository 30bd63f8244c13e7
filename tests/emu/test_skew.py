"""Times held as others shifted are, to the tick, the arrays that they stand for."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax import ShapeDtypeStruct, lax

from emu import Program, Reading, wse
from emu.clock import skew
from emu.clock.state import ClockState
from emu.clock.ticks import equal, later, no_earlier, on_core, same, select
from emu.wse import WSE3

GRID = (2, 3)


def arrays() -> st.SearchStrategy[np.ndarray]:
    """Ticks of a mesh, told apart by rows, by columns, by both or by neither."""

    def of_shape(shape: tuple[int, int]) -> st.SearchStrategy[np.ndarray]:
        size = shape[0] * shape[1]
        numbers = st.lists(st.integers(-9, 9), min_size=size, max_size=size)
        return numbers.map(lambda each: np.array(each, np.int64).reshape(shape))

    shapes = st.sampled_from([(2, 3), (2, 1), (1, 3), (1, 1)])
    return shapes.flatmap(of_shape)


@given(st.data())
def test_times_are_those_of_the_array(data: st.DataObject) -> None:
    """Any sums, maxima and choices: each new time beside what it is as an array."""
    first = data.draw(arrays())
    times: list[Any] = [7, skew.following(first, 0)]
    dense: list[Any] = [7, first]
    ticks = st.integers(-9, 9)
    for _ in range(data.draw(st.integers(1, 12))):
        one, other = (data.draw(st.integers(0, len(times) - 1)) for _ in range(2))
        what = data.draw(st.sampled_from("more array later mask follow less".split()))
        pair, wide = (times[one], times[other]), (dense[one], dense[other])
        if what in ("more", "array"):
            number = data.draw(ticks if what == "more" else arrays())
            if type(pair[0]) is int and what == "array":
                continue
            made, as_array = pair[0] + number, wide[0] + number
        elif what == "later":
            made, as_array = later(*pair), np.maximum(*wide)
        elif what == "mask":
            mask = data.draw(arrays()) > 0
            made, as_array = select(mask, *pair), np.where(mask, *wide)
        elif what == "follow":
            as_array = wide[0] + data.draw(arrays())
            made = skew.following(np.asarray(as_array), pair[0])
        else:
            made, as_array = pair[0] - pair[1], np.subtract(*wide)
        times.append(made)
        dense.append(as_array)
        for others, as_arrays in zip(times, dense, strict=True):
            on_mesh = np.broadcast_to(as_array, GRID)
            against = np.broadcast_to(as_arrays, GRID)
            for ask, answer in (
                (no_earlier(made, others), on_mesh >= against),
                (no_earlier(others, made), on_mesh <= against),
                (equal(made, others), on_mesh == against),
            ):
                assert (np.broadcast_to(ask, GRID) == answer).all()
            assert same(made, others) == (on_mesh == against).all()
    for time, as_array in zip(times, dense, strict=True):
        on_mesh = np.broadcast_to(as_array, GRID)
        assert (np.broadcast_to(skew.settled(time), GRID) == on_mesh).all()
        assert on_core(time, GRID, (1, 2)) == on_mesh[1, 2]


def test_what_follows_makes_nobody_wait_for_what_was_before() -> None:
    """The example of `emu.clock.skew`: 240 ticks after the old skew is before the new one."""
    old = skew.following(np.array([700, 900]), 0)
    new = skew.following(np.array([1150, 1160]), old + 80)
    ready = old + 240
    assert later(new, ready) is new
    # 260 ticks lie between them on the second core, so of 261 that one is later.
    assert later(new, old + 260) is new
    assert np.asarray(later(new, old + 261)).tolist() == [1150, 1161]


def like(x: Any) -> Any:
    return wse.sram_tile(shape=x.shape, dtype=x.dtype)


def told_apart(x: Any) -> Any:
    """Cores that reduces and branches tell apart, whose tiles then wait for one another."""
    row, column = lax.axis_index("row"), lax.axis_index("col")
    y = wse.vector(like(x), x, x, op="mul")
    y = wse.reduce(like(x), y, axis="col")

    def doubled(z: Any, y: Any) -> Any:
        return wse.vector(z, y, y, op="add")

    z = lax.cond(row == 1, doubled, lambda z, _: z, like(x), y)
    z = wse.multicast(like(x), z, axis="col")
    z = lax.cond(column == 2, lambda z: doubled(z, z), lambda z: z, z)
    return wse.reduce(like(x), z, axis="row"), y


def looped(x: Any) -> Any:
    """A loop between exchanges, and one with an exchange inside."""

    def alone(carry: Any, _: None) -> tuple[Any, None]:
        return wse.vector(carry, carry, x, op="add"), None

    def together(carry: Any, _: None) -> tuple[Any, None]:
        sent, other = carry
        return (wse.multicast(other, sent, axis="row"), sent), None

    y = wse.reduce(like(x), x, axis="col")
    y, _ = lax.scan(alone, y, None, length=40)
    y = wse.multicast(like(x), y, axis="col")
    (y, _), _ = lax.scan(together, (y, like(x)), None, length=40)
    return wse.reduce(like(x), y, axis="row")


@pytest.mark.parametrize("kernel", [told_apart, looped])
@pytest.mark.parametrize("options", [{}, {"contended": False}, {"trace_core": (1, 2)}])
def test_a_reading_is_that_of_arrays(
    kernel: Callable[[Any], Any],
    options: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Ends, what time went to, when outputs are ready and why: by skews and by arrays alone."""
    program = Program(kernel, {"row": 3, "col": 4}, ((),))
    x = ShapeDtypeStruct((5, 16), jnp.float32)
    shifted = program.read(WSE3.at(), x, **options)
    monkeypatch.setattr(ClockState, "is_in_line", False)
    assert told(shifted) == told(program.read(WSE3.at(), x, **options))


def told(reading: Reading) -> dict[str, Any]:
    """All that a reading tells, core by core."""

    def each(time: Any) -> list[Any]:
        return np.broadcast_to(time, reading.grid).tolist()

    return {
        "end": each(reading.end),
        "last": {engine: each(time) for engine, time in reading.last.items()},
        "spent": {what: each(t) for what, t in reading.spent.items() if np.any(t)},
        "outputs": [(each(value.ready), value.source) for value in reading.outputs],
        "sums": dict(reading.tally.sums),
        "events": reading.events,
        "unjumped": reading.unjumped,
    }
