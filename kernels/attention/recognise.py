"""A monoid as a `Fold`: which of its components is the greatest, and by what the others fall.

Every component of a merged state must be one of

    the greater of both                      max(a.g, b.g)
    a sum                                    a.x + b.x
    a sum against the greatest G of both     a.x · w(a.g, G) + b.x · w(b.g, G)

however it is written. So it is told by its values, not by its operations: what of the states it
depends on, that it is the greater one in every sample of states, or the sum; and of the third kind
w is read off, as the merge of a state of 1 with one of 0. All weights must be the same, and 1 where
a state's greatest is that of both.
"""

import dataclasses
from typing import NoReturn

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from emu import lower
from emu.lower import CannotLower, Elementwise, Slot
from emu.tracing.scalar import defined_at
from kernels.attention.monoid import VALUE, Components, Monoid, components
from kernels.attention.monoid_laws import ROUNDING, check_laws
from kernels.attention.monoid_samples import (
    States,
    keys,
    merged,
    merged_component,
    values,
)
from kernels.attention.simplify import simplified
from kernels.scores.fold import WEIGHT_INPUTS, Fold, Sum

FORMS = (
    "carried out are jnp.maximum(one.g, other.g), one.x + other.x and one.x * w(one.g, g) + "
    "other.x * w(other.g, g) with g the greater of both, one w for all"
)

# Less than this a machine may take for 0, as JAX's on a CPU does.
_TINY = float(np.finfo(np.float64).tiny)


def read_fold(name: str, monoid: Monoid, dtype: DTypeLike = jnp.float32) -> Fold:
    """Reads a monoid.

    Args:
      name: of the variant.
      monoid: as written.
      dtype: of the fold's arithmetic; of machines it is float32.

    Raises:
      CannotLower: it is none, or one of another kind; with the user's line, and with an example
        where a law does not hold.
    """
    # In float32 first: an array of NumPy's that JAX has met in float64 stays so in later traces.
    first = components(name, monoid)
    first.read()
    with jax.enable_x64(True):
        exact = components(name, monoid, jnp.float64)
        values_name = _values(exact)
        kinds = _Kinds(exact)
        if jnp.dtype(dtype).itemsize == 8:
            return _fold(exact, values_name, kinds)
    return _fold(first, values_name, kinds)


def _fold(read: Components, values_name: str, kinds: "_Kinds") -> Fold:
    greatest = kinds.greatest
    sums = [x for x in read.names if x not in (values_name, greatest)]
    order = (values_name, *(() if greatest is None else (greatest,)), *sums)
    exponent = None
    if greatest is not None:
        exponent = simplified(read.coefficient(greatest))
        if exponent.result == Slot(0):
            exponent = None
    return Fold(
        name=read.name,
        greatest=greatest,
        exponent=exponent,
        weight=_weight(read, values_name, kinds),
        sums=tuple(_sum(read, x) for x in sums),
        values=_sum(read, values_name),
        finish=read.finish(order),
    )


def _sum(read: Components, name: str) -> Sum:
    function = simplified(read.coefficient(name))
    is_one = not isinstance(function.result, Slot) and function.result.number == 1
    return Sum(name, None if is_one else function)


def _weight(read: Components, values_name: str, kinds: "_Kinds") -> Elementwise | None:
    """What weights fall by, of `WEIGHT_INPUTS`."""
    if kinds.greatest is None:
        return None
    inputs = [dataclasses.replace(x, dtype=read.dtype) for x in WEIGHT_INPUTS]
    what = f"merge of {read.name}"
    if kinds.falls_as_softmax:
        # However it is written: machines have an instruction for this one.
        return lower.read(lambda own, greatest: jnp.exp(own - greatest), inputs, what)
    if not kinds.falls:
        return lower.read(lambda own, greatest: jnp.ones_like(own), inputs, what)
    names = [x.name for x in read.merge[values_name].inputs]
    ones = {f"one.{name}" for name in kinds.falls}

    def weight(own: jax.Array, greatest: jax.Array) -> jax.Array:
        known = {name: jnp.asarray(name in ones, read.dtype) for name in names}
        known[f"one.{kinds.greatest}"] = own
        known[f"other.{kinds.greatest}"] = greatest
        function = read.merge[values_name]
        return function.evaluate(function.result, known)

    return simplified(lower.read(weight, inputs, what))


# --- values ---


def _values(exact: Components) -> str:
    """The component that sums values.

    Raises:
      CannotLower: there is none or more than one, or it is not linear in the value.
    """
    function_line = defined_at(exact.monoid.partial)
    found = [
        name
        for name, function in exact.partial.items()
        if function.depends_on(function.result, VALUE)
    ]
    if len(found) != 1:
        told = ", ".join(found) or "none"
        raise CannotLower(
            f"partial of {exact.name}: components that depend on v are {told}, must be one: the "
            f"sum of weighted values; its components are {', '.join(exact.names)}",
            function_line,
        )
    (name,) = found
    sample = keys(0)
    function = exact.partial[name]
    ones, zeros = np.ones_like(sample[VALUE]), np.zeros_like(sample[VALUE])
    coefficient = values(function, {**sample, VALUE: ones})
    nothing = values(function, {**sample, VALUE: zeros})
    if not np.isfinite(coefficient).all():
        place = int(np.argmin(np.isfinite(coefficient)))
        raise CannotLower(
            f"partial of {exact.name}: {name} is {coefficient[place]} of v=1 and "
            f"s={sample['s'][place]:.6g}; keep the greatest score in the state, and weigh by the "
            "exponential of what a score is below it, as softmax does",
            function_line,
        )
    wanted = coefficient * sample[VALUE]
    given = values(function, sample)
    apart = np.abs(given - wanted) + np.abs(nothing)
    wrong = ~(apart <= ROUNDING * np.abs(wanted))
    if wrong.any():
        place = int(np.argmax(wrong))
        operation = function.by_slot.get(getattr(function.result, "index", -1))
        raise CannotLower(
            f"partial of {exact.name}: {name} is not linear in v: of v={sample[VALUE][place]:.6g} "
            f"and s={sample['s'][place]:.6g} it is {given[place]:.6g}, of v=1 "
            f"{coefficient[place]:.6g} and of v=0 {nothing[place]:.6g}; machines sum the products "
            "of weights and values",
            function_line if operation is None else operation.line,
        )
    return name


# --- kinds of components ---


class _Kinds:
    """What kind each component is of, told on samples of states.

    Attributes:
      greatest: the component that is a maximum; None: there is none.
      falls: components that are summed against it.
      falls_as_softmax: whether they fall by exp(own - greatest).
    """

    def __init__(self, exact: Components):
        self._exact = exact
        self._one, self._other = check_laws(exact)
        self._merged = merged(exact, self._one, self._other)
        self._rest: list[str] = []
        found = []
        plain = []
        for name in exact.names:
            if self._is_greatest(name):
                found.append(name)
            elif self._is_sum(name):
                plain.append(name)
            else:
                self._rest.append(name)
        if len(found) > 1:
            self._refuse(
                found[1],
                f"{' and '.join(found)} are both the greater of two, one can be",
            )
        self.greatest: str | None = found[0] if found else None
        self.falls: tuple[str, ...] = tuple(self._rest)
        self.falls_as_softmax = False
        if not self.falls:
            return
        if self.greatest is None:
            self._refuse(
                self.falls[0],
                f"{' and '.join(self.falls)} are no sums, and no component is the greater of two",
            )
        if plain:
            self._refuse(
                self.falls[0],
                f"{' and '.join(plain)} are summed as they are and {' and '.join(self.falls)} are "
                "not",
            )
        self._check_weights(self.greatest)

    def _depends(self, name: str) -> set[str]:
        """The components on which a merged one depends."""
        function = self._exact.merge[name]
        found = set()
        for argument in function.inputs:
            if function.depends_on(function.result, argument.name):
                found.add(argument.name.split(".", 1)[1])
        return found

    def _is_greatest(self, name: str) -> bool:
        if self._depends(name) != {name}:
            return False
        return np.array_equal(
            self._merged[name], np.maximum(self._one[name], self._other[name])
        )

    def _is_sum(self, name: str) -> bool:
        if self._depends(name) != {name}:
            return False
        a, b = self._scaled(name)
        given = merged_component(self._exact, name, a, b)
        return _close(given, a[name] + b[name], a[name], b[name])

    def _scaled(self, name: str) -> tuple[States, States]:
        """The samples, with one component of other magnitudes: it must be summed all the same."""
        rng = np.random.default_rng(1)
        count = len(self._one[name])
        factors = 10.0 ** rng.uniform(-3, 3, (2, count))
        return (
            {**self._one, name: self._one[name] * factors[0]},
            {**self._other, name: self._other[name] * factors[1]},
        )

    def _check_weights(self, greatest: str) -> None:
        """Whether all that is not summed as it is falls by one weight of the greatest."""
        for name in self.falls:
            others = self._depends(name) - {name, greatest}
            if others:
                self._refuse(name, f"{name} depends on {', '.join(sorted(others))}")
        one, other = self._one[greatest], self._other[greatest]
        both = np.maximum(one, other)
        of_all: np.ndarray | None = None
        for name in self.falls:
            weight = self._weight(name, one, other)
            of_other = self._weight(name, other, one)
            a, b = self._scaled(name)
            given = merged_component(self._exact, name, a, b)
            wanted = a[name] * weight + b[name] * of_other
            if not _close(given, wanted, a[name] * weight, b[name] * of_other):
                self._refuse(name, f"{name} is no such sum")
            if not _close(self._weight(name, one, both), weight, weight):
                self._refuse(
                    name, f"{name} depends on more than the greater of both {greatest}"
                )
            of_itself = self._weight(name, one, one)
            if not _close(of_itself, np.ones_like(one), of_itself):
                self._refuse(
                    name,
                    f"{name} of a state with the greatest {greatest} of both is multiplied by "
                    f"{of_itself[0]:.6g}, must stay",
                )
            if of_all is not None and not _close(weight, of_all, of_all):
                self._refuse(
                    name, f"{self.falls[0]} and {name} fall by different weights"
                )
            of_all = weight
        assert of_all is not None
        exponential = np.exp(one - both)
        self.falls_as_softmax = bool(np.allclose(of_all, exponential, 1e-9, _TINY))

    def _weight(self, name: str, own: np.ndarray, greatest: np.ndarray) -> np.ndarray:
        """What a component of 1 becomes where the greatest changes, beside one of 0."""
        assert self.greatest is not None
        ones, zeros = np.ones_like(own), np.zeros_like(own)
        one = {**self._one, name: ones, self.greatest: own}
        other = {**self._other, name: zeros, self.greatest: greatest}
        return merged_component(self._exact, name, one, other)

    def _refuse(self, name: str, what: str) -> NoReturn:
        function = self._exact.merge[name]
        operation = function.by_slot.get(getattr(function.result, "index", -1))
        raise CannotLower(
            f"merge of {self._exact.name}: {what}; {FORMS}",
            defined_at(self._exact.monoid.merge)
            if operation is None
            else operation.line,
        )


def _close(given: np.ndarray, wanted: np.ndarray, *terms: np.ndarray) -> bool:
    """Whether two results are the same, to the rounding of the terms that they are sums of."""
    size = sum(np.abs(term) for term in terms)
    return bool((np.abs(given - wanted) <= ROUNDING * size + _TINY).all())


__all__ = ["read_fold"]
