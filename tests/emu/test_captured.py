"""Functions look traced indices up in the NumPy arrays that they hold."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from emu.tracing.captured import with_jax_arrays

TABLE = np.array([3.0, 5.0, 7.0], np.float32)
NAMES = np.array(["a", "b"])


def test_arrays_of_module_and_closure_are_looked_up() -> None:
    held = np.array([10, 20, 30], np.float32)

    def function(k):
        inner = lambda: TABLE[k] + held[k]  # noqa: E731
        return inner()

    with pytest.raises(jax.errors.TracerArrayConversionError):
        jax.jit(function)(1)
    wanted = [13, 25, 37]
    found = jax.vmap(with_jax_arrays(function))(jnp.arange(3))
    np.testing.assert_array_equal(found, wanted)


def test_an_array_is_looked_up_as_it_is_at_the_call() -> None:
    held = np.zeros(2, np.float32)
    function = with_jax_arrays(lambda k: held[k])
    assert jax.jit(function)(1) == 0
    held[1] = 4
    assert jax.jit(lambda k: function(k))(1) == 4


def test_float64_stays_where_jax_has_it() -> None:
    held = np.array([0.1, 0.2])
    function = with_jax_arrays(lambda k: held[k])
    with jax.enable_x64(True):
        assert float(jax.jit(function)(1)) == 0.2


def test_defaults_and_names_stay() -> None:
    def function(k, *, by=2):
        """Says so."""
        return TABLE[k] * by

    wrapped = with_jax_arrays(function)
    assert wrapped.__doc__ == "Says so." and wrapped.__name__ == "function"
    assert float(wrapped(jnp.int32(2))) == 14
    assert float(wrapped(jnp.int32(2), by=3)) == 21


def test_what_holds_no_numbers_runs_as_it_is() -> None:
    def function(k):
        return str(NAMES[0]) + k

    assert with_jax_arrays(function)("c") == "ac"
    assert with_jax_arrays(len) is len
