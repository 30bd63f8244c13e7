"""That a monoid is one: it must not matter which keys are merged first, nor in which order.

Machines take keys a tile at a time, chips meet them in the order in which they arrive, and what
several found is merged at the end. So a merge of which that would be the result is refused, with
three states that show it:

    merge(one, other) = (one + other) / 2       of 1, 2 and 4
    merge(merge(1, 2), 4)                       2.75
    merge(1, merge(2, 4))                       2
"""

from collections.abc import Mapping

import numpy as np

from emu.lower import CannotLower
from emu.tracing.scalar import defined_at
from kernels.attention.monoid import Components
from kernels.attention.monoid_samples import COUNT, States, merged, states

ROUNDING = 1e-6
"""Of two results that are the same, relative to what they are made of; merges that round to float32
on their way are within it."""

_SEEDS = (0, 10, 20)


def check_laws(components: Components) -> tuple[States, States]:
    """Refuses a merge that is not associative, or not commutative.

    Returns:
      Two samples of states, to try further laws on.

    Raises:
      CannotLower: with states for which it is not, and the user's line.
    """
    a, b, c = (states(components, seed) for seed in _SEEDS)
    sizes = {name: abs(a[name]) + abs(b[name]) for name in components.names}
    _hold_equal(
        components,
        "commutative",
        {"a": a, "b": b},
        {
            "merge(a, b)": merged(components, a, b),
            "merge(b, a)": merged(components, b, a),
        },
        sizes,
    )
    sizes = {name: sizes[name] + abs(c[name]) for name in components.names}
    left = merged(components, merged(components, a, b), c)
    right = merged(components, a, merged(components, b, c))
    _hold_equal(
        components,
        "associative",
        {"a": a, "b": b, "c": c},
        {"merge(merge(a, b), c)": left, "merge(a, merge(b, c))": right},
        sizes,
    )
    return a, b


def _hold_equal(
    components: Components,
    law: str,
    given: Mapping[str, States],
    results: Mapping[str, States],
    sizes: States,
) -> None:
    one, other = results.values()
    differs = np.zeros(COUNT, bool)
    for name in components.names:
        with np.errstate(invalid="ignore"):
            apart = np.abs(one[name] - other[name])
        # No number is equal to none, itself included.
        differs |= ~(apart <= ROUNDING * sizes[name])
    if not differs.any():
        return
    place = int(np.argmax(differs))
    numbers = [x[name][place] for x in results.values() for name in components.names]
    what = f"is not {law}" if np.isfinite(numbers).all() else "gives no finite number"
    told = ", ".join(
        f"{name} = {_told(components, x, place)}" for name, x in given.items()
    )
    ways = " and ".join(
        f"{way} = {_told(components, x, place)}" for way, x in results.items()
    )
    raise CannotLower(
        f"merge of {components.name}: {what}: of {told}, {ways}; machines meet keys in any order, "
        "and merge what they found of several parts of them",
        defined_at(components.monoid.merge),
    )


def _told(components: Components, sample: States, place: int) -> str:
    parts = [f"{name}={sample[name][place]:.6g}" for name in components.names]
    return f"({', '.join(parts)})"


__all__ = ["ROUNDING", "check_laws"]
