"""Float64 throughout: a kernel's values without the roundings to its tiles' formats.

A machine rounds each result to the format of its tile, so a kernel is never equal to its float64
reference, and a small mistake of the algorithm hides among the roundings. In the exact reading
every floating tile is float64 whatever format the kernel names, and instructions compute in it.
What is left is float64's own rounding: an error over 1e-12 is the algorithm's.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from emu.annotations import DType
from emu.errors import EmulationError
from emu.tracing import jaxpr as jx
from emu.tracing.jaxpr import caller

FLOAT32 = np.dtype(np.float32)
FLOAT64 = np.dtype(np.float64)

# Part of JAX's trace cache keys, as x64 is: a jitted kernel is traced once for each reading.
_EXACT = jax.make_user_context(False)


class NotExact(EmulationError):
    """Something that has no counterpart in float64, such as the choice of a shared exponent."""


@contextlib.contextmanager
def exact() -> Iterator[None]:
    """Within this context kernels compute in float64; floating arguments must be float64 already.

    `Program.exact` does both. The context by itself is for `jax.grad` of `Program.batched`.
    """
    # Unless x64 is on JAX takes float64 for float32, with no more than a warning.
    with jax.enable_x64(True), _EXACT(True):
        yield


def is_exact() -> bool:
    """Whether the kernel is computed in float64."""
    return _EXACT.value


def tile_dtype(dtype: DType) -> np.dtype:
    """The dtype of a fresh tile for which the kernel names `dtype`; allocations ask for it."""
    named = jnp.dtype(dtype)
    # Integers are exact as they are, and a mask or an index must keep its own format.
    if is_exact() and jnp.issubdtype(named, jnp.floating):
        return FLOAT64
    return named


def arithmetic_dtype() -> np.dtype:
    """What instructions compute in: float32, as the engines do, or float64."""
    return FLOAT64 if is_exact() else FLOAT32


def widen(x: Any) -> Any:
    """An argument of the exact reading: floats as float64, integers in their ordinary dtype."""
    dtype = x.dtype if hasattr(x, "dtype") else np.asarray(x).dtype
    if not jnp.issubdtype(dtype, jnp.floating):
        return jnp.asarray(x)
    wide = np.asarray(x).astype(FLOAT64)
    # Outside this context JAX would round it to float32 again.
    with jax.enable_x64(True):
        return jnp.asarray(wide)


def refuse_exact(name: str, what: str) -> None:
    """Raises `NotExact` in the exact reading, for an instruction that has none."""
    if is_exact():
        raise NotExact(
            f"{name}: {what} has no float64 counterpart, must be computed by `run`",
            caller(),
        )


def check(body: jx.Body) -> None:
    """Raises `NotExact` where a kernel's own jaxpr holds a float narrower than float64."""
    for eqn in body.eqns:
        for inner in jx.inner(eqn):
            check(inner)
        for result in eqn.outvars:
            shape = list(result.aval.shape)
            dtype = result.aval.dtype
            # Say a kernel makes its own `jnp.zeros(n, jnp.bfloat16)`: no allocation saw it to widen
            # it, and it would round in the reading that is to have no roundings.
            if jnp.issubdtype(dtype, jnp.floating) and dtype != FLOAT64:
                raise NotExact(
                    f"{eqn.primitive.name}: result is {dtype}{shape}, must be float64 "
                    "in the exact reading: an allocation asks `precision.tile_dtype`",
                    jx.location(eqn),
                )


__all__ = [
    "NotExact",
    "arithmetic_dtype",
    "check",
    "exact",
    "is_exact",
    "refuse_exact",
    "tile_dtype",
    "widen",
]
