"""States to try a monoid's functions on: those of a few keys, in float64.

Components are multiplied by numbers of their own: a sum of 1 for each key is 1 of every one key,
and a merge that gave the mean of two such sums would look right. Everything that a variant holds is
taken as it is, but for arrays that JAX traces, which have no numbers yet: of those, ones.
"""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from emu.lower import Constant, Elementwise, Operand
from kernels.attention.monoid import VALUE, Components

COUNT = 256
"""States of each sample."""

States = dict[str, np.ndarray]
"""Values of every component, `[COUNT]`."""

# Of scores: usual ones, equal ones, and those of which one outweighs all others.
_SPREADS = (0.1, 1.0, 10.0, 300.0)
_INDICES = {"b": 1, "h": 1, "q": 8, "k": 8}


def values(function: Elementwise, arguments: Mapping[str, np.ndarray]) -> np.ndarray:
    """A function's values, `[n]`, of `[n]` values of each argument."""
    names = [x.name for x in function.inputs]
    function = _concrete(function)

    def one(*scalars: jax.Array) -> jax.Array:
        known = dict(zip(names, scalars, strict=True))
        return function.evaluate(function.result, known)

    # A variant may be read while a kernel or a gradient is traced.
    with jax.ensure_compile_time_eval():
        given = [jnp.asarray(arguments[name]) for name in names]
        return np.asarray(jax.vmap(one)(*given))


def keys(seed: int) -> dict[str, np.ndarray]:
    """Arguments of `partial` for `COUNT` keys; the first have small whole numbers."""
    rng = np.random.default_rng(seed)
    simple = COUNT // 4
    spread = np.repeat(_SPREADS, COUNT // len(_SPREADS))
    score = rng.standard_normal(COUNT) * spread
    score[:simple] = rng.integers(-2, 4, simple)
    value = rng.standard_normal(COUNT) * 10.0 ** rng.uniform(-2, 2, COUNT)
    value[:simple] = rng.integers(1, 4, simple)
    found: dict[str, np.ndarray] = {"s": score, VALUE: value}
    for name, count in _INDICES.items():
        found[name] = rng.integers(0, count, COUNT).astype(np.int32)
    return found


def states(components: Components, seed: int) -> States:
    """States of one key, and in the second half of the sample of two, each component multiplied."""
    one, other = (
        {
            name: values(function, arguments)
            for name, function in components.partial.items()
        }
        for arguments in (keys(seed), keys(seed + 1))
    )
    both = merged(components, one, other)
    half, simple = COUNT // 2, COUNT // 4
    rng = np.random.default_rng(seed + 2)
    found = {}
    for name in components.names:
        factors = 10.0 ** rng.uniform(-1, 1, COUNT)
        factors[:simple] = rng.integers(1, 4, simple)
        found[name] = factors * np.concatenate([one[name][:half], both[name][half:]])
    return found


def merged(components: Components, one: States, other: States) -> States:
    """What `merge` gives for two samples of states."""
    return {
        name: merged_component(components, name, one, other)
        for name in components.names
    }


def merged_component(
    components: Components, name: str, one: States, other: States
) -> np.ndarray:
    """One component of what `merge` gives, `[COUNT]`."""
    arguments = {
        f"{side}.{part}": state[part]
        for side, state in (("one", one), ("other", other))
        for part in components.names
    }
    return values(components.merge[name], arguments)


def _concrete(function: Elementwise) -> Elementwise:
    """The function with ones in place of arrays that JAX traces."""

    def known(operand: Operand) -> Operand:
        if isinstance(operand, Constant) and isinstance(operand.value, Tracer):
            return Constant(np.ones(operand.value.shape, operand.value.dtype))
        return operand

    operations = []
    for operation in function.operations:
        operands = tuple(map(known, operation.operands))
        operations.append(dataclasses.replace(operation, operands=operands))
    return dataclasses.replace(
        function, operations=tuple(operations), result=known(function.result)
    )


__all__ = ["COUNT", "States", "keys", "merged", "merged_component", "states", "values"]
