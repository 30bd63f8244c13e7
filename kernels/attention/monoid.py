"""A block monoid as its user writes it, read into scalar functions of named components.

The state may be any tree of scalars that JAX knows: a NamedTuple, a tuple, a dictionary, a
registered dataclass. What reads it sees its components by name, in the tree's order:

    State(greatest, total, output)      greatest, total, output
    (greatest, {"sum": ..., "o": ...})  0, 1.o, 1.sum
"""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp

from emu import lower
from emu.annotations import DType
from emu.lower import CannotLower, Elementwise, Input
from emu.tracing.scalar import CannotTrace, defined_at, traced
from kernels.attention import softmax
from kernels.attention.reading import check_arguments
from kernels.scores.fold import finish_inputs
from kernels.scores.form import SCORE_INPUTS

Partial: TypeAlias = Callable[..., Any]
"""`partial(s, v, b, h, q, k)`: the state of one key, for one feature of its value."""

Merge: TypeAlias = Callable[[Any, Any], Any]
"""`merge(one, other)`: the state of the keys of both."""

Finish: TypeAlias = Callable[..., Any]
"""`finish(state, b, h, q, d)`: feature `d` of the output, of the state of all keys."""

VALUE = "v"
_NOWHERE: frozenset[str] = frozenset()
# Names of a state's components stand beside these among the arguments of `finish`.
_TAKEN = {"b", "h", "q", "d"}


@dataclasses.dataclass(frozen=True, eq=False)
class Monoid:
    """What is done with scores and values; each function is softmax's unless it is given.

    Attributes:
      partial: the state of one key.
      merge: the state of two parts of the keys, of that of each; it must not matter which keys are
        in which part, nor in which order.
      finish: the output of the state of all keys.
    """

    partial: Partial = softmax.partial
    merge: Merge = softmax.merge
    finish: Finish = softmax.finish


@dataclasses.dataclass(frozen=True, eq=False)
class Components:
    """A monoid's functions, component by component.

    Attributes:
      name: of the variant.
      monoid: whose.
      names: of the components.
      tree: of the state.
      dtype: in which it is read.
    """

    name: str
    monoid: Monoid
    names: tuple[str, ...]
    tree: Any
    dtype: DType

    @functools.cached_property
    def partial(self) -> dict[str, Elementwise]:
        """Of the arguments `partial_inputs`."""
        inputs = partial_inputs(self.dtype)
        return self._read(self.monoid.partial, inputs, "partial")

    @functools.cached_property
    def merge(self) -> dict[str, Elementwise]:
        """Of two states: of components named `one.total` and `other.total`."""
        inputs = [
            Input(f"{side}.{name}", _NOWHERE, self.dtype)
            for side in ("one", "other")
            for name in self.names
        ]

        def merged(*scalars: Any) -> Any:
            count = len(self.names)
            one, other = (self.state(x) for x in (scalars[:count], scalars[count:]))
            return self.monoid.merge(one, other)

        _wraps(merged, self.monoid.merge)
        return self._read(merged, inputs, "merge")

    def read(self) -> None:
        """Reads `partial` and `merge` now, not when they are asked for.

        Raises:
          CannotLower: JAX cannot trace one, or it gives another state than the other.
        """
        for kind in ("partial", "merge"):
            getattr(self, kind)

    def coefficient(self, name: str) -> Elementwise:
        """A component of one key whose value is 1, of the arguments `SCORE_INPUTS`."""

        def of_one(s: Any, *indices: Any) -> Any:
            state = self.monoid.partial(s, jnp.ones((), self.dtype), *indices)
            return self._number(self._leaves(state, "partial"), name)

        _wraps(of_one, self.monoid.partial)
        score, *indices = SCORE_INPUTS
        inputs = [dataclasses.replace(score, dtype=self.dtype), *indices]
        return lower.read(of_one, inputs, f"partial of {self.name}")

    def finish(self, order: tuple[str, ...]) -> Elementwise:
        """The output, of the arguments `finish_inputs(order)`."""
        places = [order.index(name) for name in self.names]

        def finished(*scalars: Any) -> jax.Array:
            state = self.state([scalars[place] for place in places])
            given = self.monoid.finish(state, *scalars[len(order) :])
            return jnp.asarray(given).astype(self.dtype)

        _wraps(finished, self.monoid.finish)
        components = len(order)
        inputs = [
            dataclasses.replace(x, dtype=self.dtype) if place < components else x
            for place, x in enumerate(finish_inputs(order))
        ]
        return lower.read(finished, inputs, f"finish of {self.name}")

    def state(self, scalars: Sequence[Any]) -> Any:
        """The user's state, of its components."""
        return jax.tree.unflatten(self.tree, list(scalars))

    # --- one component after another ---

    def _read(
        self, function: Callable[..., Any], inputs: Sequence[Input], kind: str
    ) -> dict[str, Elementwise]:
        what = f"{kind} of {self.name}"

        def only(name: str) -> Callable[..., Any]:
            def component(*scalars: Any) -> jax.Array:
                return self._number(self._leaves(function(*scalars), kind), name)

            _wraps(component, function)
            return component

        return {name: lower.read(only(name), inputs, what) for name in self.names}

    def _leaves(self, state: Any, kind: str) -> list[Any]:
        """A state's components.

        Raises:
          CannotLower: it has others than that of one key.
        """
        leaves, tree = jax.tree.flatten(state)
        if tree != self.tree:
            function = getattr(self.monoid, kind)
            raise CannotLower(
                f"{kind} of {self.name}: gives a state {tree}, must give one as partial does, "
                f"{self.tree}",
                defined_at(function),
            )
        return leaves

    def _number(self, leaves: Sequence[Any], name: str) -> jax.Array:
        return jnp.asarray(leaves[self.names.index(name)]).astype(self.dtype)


def partial_inputs(dtype: DType) -> list[Input]:
    """Arguments of `partial`: score and value in a dtype, and indices."""
    score, *indices = SCORE_INPUTS
    return [
        dataclasses.replace(score, dtype=dtype),
        Input(VALUE, frozenset({"k", "d"}), dtype),
        *indices,
    ]


def components(name: str, monoid: Monoid, dtype: DType = jnp.float32) -> Components:
    """What a monoid's state is made of.

    Args:
      name: of the variant.
      monoid: as written.
      dtype: to read it in; float64 needs JAX's switch for 64 bits.

    Raises:
      CannotLower: a function takes other arguments or JAX cannot trace it, or the state is no tree
        of scalars.
    """
    arguments = {
        "partial": ("s", "v", "b", "h", "q", "k"),
        "merge": ("one", "other"),
        "finish": ("state", "b", "h", "q", "d"),
    }
    for kind, names in arguments.items():
        check_arguments(name, getattr(monoid, kind), kind, names)
    partial = monoid.partial
    what = f"partial of {name}"
    found: list[tuple[list[Any], Any]] = []

    def leaves(*scalars: Any) -> list[Any]:
        paths, tree = jax.tree_util.tree_flatten_with_path(partial(*scalars))
        found.append(([path for path, _ in paths], tree))
        return [leaf for _, leaf in paths]

    _wraps(leaves, partial)
    avals = [jax.ShapeDtypeStruct((), x.dtype) for x in partial_inputs(dtype)]
    try:
        body = traced(leaves, avals)
    except CannotTrace as error:
        raise CannotLower(f"{what}: {error.what}", error.line) from None
    shapes = [tuple(x.aval.shape) for x in body.outvars]
    if any(shapes) or not shapes:
        raise CannotLower(
            f"{what}: gives components of shapes {shapes}, must give scalars; it is called for one "
            "query, one key and one feature of its value at a time",
            defined_at(partial),
        )
    paths, tree = found[-1]
    return Components(name, monoid, tuple(map(_named, paths)), tree, dtype)


def _named(path: Any) -> str:
    """A component's path in the state: `total`, or `1.sum`."""
    name = jax.tree_util.keystr(path, simple=True, separator=".")
    if not name:
        return "state"  # one number, and no tree
    return f"state.{name}" if name in _TAKEN else name


def _wraps(function: Callable[..., Any], users: Callable[..., Any]) -> None:
    """Has errors tell the place in the user's own function."""
    function.__wrapped__ = inspect.unwrap(users)  # type: ignore


__all__ = [
    "Components",
    "Finish",
    "Merge",
    "Monoid",
    "Partial",
    "VALUE",
    "components",
    "partial_inputs",
]
