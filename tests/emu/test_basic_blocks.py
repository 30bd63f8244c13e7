"""Basic blocks by their plans: what they leave out, and the same clock as equation by equation."""

import functools

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from jax import lax

from emu import Program
from emu.clock import basic_blocks, throttle
from emu.clock.throttle import Charge, Law
from emu.errors import StaleTile
from emu.tracing import jaxpr as jx
from tests import helpers
from tests.helpers import F32, MESH, SHAPE, THROTTLED, TOY, fetch, op, tile

LAW = settings(max_examples=25, derandomize=True, deadline=None)
WORK = dict(busy=4, latency=9)


@LAW
@given(helpers.programs())
@pytest.mark.parametrize("device", [TOY, THROTTLED], ids=["plain", "throttled"])
def test_random_programs_as_equation_by_equation(device, program):
    kernel = functools.partial(helpers.kernel_of, program)
    read = functools.partial(Program(kernel, MESH, ((),)).read, device, F32)
    by_plan = read()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(basic_blocks.Plans, "plan", lambda *_: None)
        one_by_one = read()
    helpers.same_clock(by_plan, one_by_one)
    assert by_plan.stepped == one_by_one.stepped


def different_cores(step, length=6):
    """A kernel whose loop each core of a mesh begins with another delay, so each is read alone."""

    def kernel(x):
        acc = fetch(tile(), x, engine="io", busy=1, latency=1)
        core = lax.axis_index("r")
        delay = functools.partial(op, engine="dma", busy=70, latency=70)
        acc = lax.cond(core == 0, lambda a: a, lambda a: delay(a, a), acc)
        return lax.scan(step, acc, jnp.arange(length))[0]

    return Program(kernel, {"r": 2}, ((),))


def test_a_plan_has_no_step_for_views_and_addresses():
    """Of six equations a declaration and two instructions are left, and no integer is needed."""
    plans = []
    planned = basic_blocks._planned

    def noted(state, block, inputs):
        plan = planned(state, block, inputs)
        plans.append((block, plan))
        return plan

    def step(acc, i):
        start = jnp.minimum(i * 8, 0)
        scratch = tile(buffers=2)
        part = lax.dynamic_slice(scratch, (start, jnp.int32(0)), SHAPE)
        part = op(part, acc, engine="mul", **WORK)
        return op(acc, part, engine="add", **WORK), None

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(basic_blocks, "_planned", noted)
        different_cores(step).read(TOY, F32)
    # The plan was made once, for both cores and all iterations.
    ((block, plan),) = [
        (block, plan) for block, plan in plans if any(step for step in plan.declared)
    ]
    kinds = [type(step).__name__ for step in plan.steps]
    assert kinds == ["Declared", "Issued", "Issued"]
    assert len(block.equations) > len(kinds)
    assert plan.integers == []
    ticks = {name: 4 * TOY.ticks_per_cycle[name] for name in ("mul", "add")}
    assert plan.spent == {(name, "work"): each for name, each in ticks.items()}


def test_a_tile_that_was_overwritten_is_refused_by_plan_too():
    def step(acc, i):
        kept = op(tile(), acc, engine="mul", **WORK)
        later = op(kept, acc, engine="add", **WORK)
        return op(op(acc, later, engine="add", **WORK), kept, engine="io", **WORK), None

    with pytest.raises(StaleTile, match="operand 1 was overwritten"):
        different_cores(step).read(TOY, F32)


def test_blocks_end_at_loops_branches_and_counts():
    def kernel(x, n):
        def step(acc, i):
            return op(acc, acc, engine="io", **WORK), None

        acc = fetch(tile(), x, engine="io", busy=1, latency=1)
        acc, _ = lax.scan(step, acc, None, length=2)
        acc = op(acc, acc, engine="mul", **WORK)
        acc = helpers.counted(acc, acc, n, engine="mul", busy=1)
        return op(acc, acc, engine="add", **WORK)

    n = np.int32(3)
    body = jx.trace(kernel, [F32, n], {})
    names = [
        [eqn.primitive.name for _, _, (eqn, _, _) in block.equations]
        for block in basic_blocks.blocks(body)
        if block.is_basic
    ]
    assert [len(each) for each in names] == [2, 1, 1]


@pytest.mark.parametrize("slow", [False, True])
@pytest.mark.parametrize("charge", [0, 5_000, 15_360])
@pytest.mark.parametrize("idle", [0, 39, 400])
@pytest.mark.parametrize("duty", [0.25, 1.0])
def test_a_charge_on_one_core(slow, charge, idle, duty):
    """The two forms of the law agree, with the law of the module's example."""
    law = Law(window_ticks=120, share=128, slowdown=2)
    before = Charge(charge, slow)
    start, extra = throttle.extra_ticks(law, before, idle, 50)
    after = throttle.after(law, start, 50 + extra, duty, None, before)
    gain = throttle.gain(law, duty)
    assert throttle.on_one_core(law, charge, slow, idle, 50, gain) == (*after, extra)
