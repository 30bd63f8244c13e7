"""A loop over a count, whose body knows its index; `lax.map` is the loop that stacks results.

It is the emulator's, though kernels alone use it: a report names a loop by the innermost line that
is not the emulator's, which so is the kernel's own.
"""

from collections.abc import Callable
from typing import TypeVar

import jax.numpy as jnp
from jax import lax

from emu.annotations import KnownInt

Carry = TypeVar("Carry")


def loop(
    body: Callable[[Carry, KnownInt], Carry],
    carry: Carry,
    count: int,
    *,
    first: int = 0,
) -> Carry:
    """`carry = body(carry, place)` for every place from `first` to before `count`.

    It is a `lax.scan`, traced once however often it runs. The place is a loop index, which the
    clock follows: what is loaded, stored or skipped by it is known ahead.

    Args:
      body: `(carry, place) -> carry`.
      carry: a pytree of arrays; what the body gives has the same form.
      count: before which place to stop.
      first: where to start.

    Returns:
      The last carry.
    """

    def step(carry: Carry, place: KnownInt) -> tuple[Carry, None]:
        # Nothing is stacked: a stack would be a buffer, and take memory of the device.
        return body(carry, place), None

    # There is no data in it, so the clock knows the place in all iterations ahead.
    places = jnp.arange(first, count, dtype=jnp.int32)
    last, _ = lax.scan(step, carry, places)
    return last


__all__ = ["loop"]
