"""A call is read through: whatever wraps a part of a kernel, its instructions are what is timed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from emu import Program
from tests.helpers import F32, TOY, add, load, mul, store, tile


def square_and_add(a, b):
    squared = mul(a, a, a)
    return add(squared, squared, b)


def with_own_derivative(call):
    wrapped = jax.custom_jvp(call)
    wrapped.defjvp(lambda primals, tangents: (call(*primals), tangents[0]))
    return wrapped


WRAPPERS = {
    "jit": jax.jit,
    "checkpoint": jax.checkpoint,
    "checkpoint that saves all": lambda call: jax.checkpoint(
        call, policy=jax.checkpoint_policies.everything_saveable
    ),
    "checkpoint of jit": lambda call: jax.checkpoint(jax.jit(call)),
    "custom_jvp": with_own_derivative,
}


def of(call):
    """A kernel that calls, once by itself and five times in a loop."""

    def kernel(x):
        a, b = load(tile(), x), load(tile(), x)
        begun = call(a, b)
        last, _ = lax.scan(lambda t, _: (call(t, b), None), begun, None, length=5)
        return store(last)

    return Program(kernel, {"r": 2}, ((),))


@pytest.mark.parametrize("name", WRAPPERS)
def test_a_wrapped_call_is_the_plain_one(name):
    plain, wrapped = of(square_and_add), of(WRAPPERS[name](square_and_add))
    expected, found = (program.read(TOY, F32) for program in (plain, wrapped))
    assert found.end_ticks == expected.end_ticks
    assert found.tally.sums == expected.tally.sums
    assert found.issued == expected.issued
    assert wrapped.memory(TOY, F32) == plain.memory(TOY, F32)
    x = np.linspace(0, 1, F32.size, dtype=np.float32).reshape(F32.shape)
    for in_order in (False, True):
        values = [
            program.run(jnp.asarray(x), in_order=in_order)
            for program in (plain, wrapped)
        ]
        np.testing.assert_array_equal(*values)
