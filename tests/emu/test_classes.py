"""Loops read once per class of cores: each core is timed as if alone, and no state is read twice."""

import functools

import numpy as np
import pytest
from hypothesis import given, settings

from emu import Known, Program
from tests import helpers
from tests.helpers import F32, MESH, THROTTLED, TOY

LAW = settings(max_examples=30, derandomize=True, deadline=None)


def alone(program, core, device, **options):
    """The reading of one core that is given its indices."""
    kernel = lambda x, r, c: helpers.kernel_of(program, x, (r, c))  # noqa: E731
    index = [Known(np.int32(i)) for i in core]
    return Program(kernel, {"one": 1}, ((), (), ())).read(device, F32, *index, **options)


def as_if_alone(program, device, **options):
    """Asserts that every core of a mesh is timed as if it were alone."""
    kernel = functools.partial(helpers.kernel_of, program)
    clock = Program(kernel, MESH, ((),)).read(device, F32, **options)
    sums: dict = {}
    for core in np.ndindex(clock.grid):
        own = alone(program, core, device, **options)

        def here(x, core=core):
            return int(np.broadcast_to(x, clock.grid)[core])

        assert here(clock.end) == own.end
        assert {e: here(t) for e, t in clock.last.items()} == own.last
        spent = {k: here(t) for k, t in clock.spent.items() if here(t)}
        assert spent == {k: t for k, t in own.spent.items() if t}
        for x, y in zip(clock.outputs, own.outputs, strict=True):
            assert here(x.ready) == y.ready
        for key, n in own.tally.sums.items():
            sums[key] = sums.get(key, 0) + n
    assert {k: n for k, n in clock.tally.sums.items() if n} == {k: n for k, n in sums.items() if n}


@LAW
@given(helpers.programs(more=("rotate",)))
@pytest.mark.parametrize("options", [{}, {"contended": False}, {"as_written": True}], ids=str)
def test_random_programs_core_by_core(options, program):
    as_if_alone(program, TOY, **options)


@LAW
@given(helpers.programs(more=("rotate",)))
def test_random_programs_core_by_core_with_a_throttled_engine(program):
    as_if_alone(program, THROTTLED)
