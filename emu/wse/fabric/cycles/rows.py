"""Arrays over the PEs, one a thread (or direction, or bit), that are worked on row by row.

As one two-dimensional array they would be stacked by every operation whose rows differ, which XLA's
CPU compiler turns into a branch per element; apart, each row is a plain loop.
"""

import functools
import operator
from collections.abc import Callable, Iterable, Iterator
from typing import TypeAlias, TypeVar, overload

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from emu.annotations import DType, PyTree

PerPE: TypeAlias = jax.Array
"""One array `[PEs]`."""
Operand: TypeAlias = "Rows | jax.Array | np.generic | int | bool"
"""Of arithmetic with `Rows`: as many rows, or one array or number for all."""
Tree = TypeVar("Tree")


@jax.tree_util.register_pytree_node_class
class Rows:
    """A fixed number of arrays `[PEs]`; arithmetic goes row by row.

    The other operand may be `Rows` of as many, or one array or scalar for all. No rows at all stand
    for state that a program does not need.
    """

    def __init__(self, rows: Iterable[PerPE]):
        self.rows = tuple(rows)

    @classmethod
    def of(cls, table: np.ndarray) -> "Rows":
        """The rows of `[rows, PEs]`, on the device."""
        return cls(jnp.asarray(row) for row in table)

    def tree_flatten(self) -> tuple[tuple[PerPE, ...], None]:
        return self.rows, None

    @classmethod
    def tree_unflatten(cls, _: None, rows: Iterable[PerPE]) -> "Rows":
        return cls(rows)

    @overload
    def __getitem__(self, at: int) -> PerPE: ...
    @overload
    def __getitem__(self, at: slice) -> "Rows": ...
    def __getitem__(self, at: int | slice) -> "PerPE | Rows":
        if isinstance(at, slice):
            return Rows(self.rows[at])
        return self.rows[at]

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[PerPE]:
        return iter(self.rows)

    def __invert__(self) -> "Rows":
        return Rows(~row for row in self.rows)

    def _each(self, function: Callable[..., PerPE], other: Operand) -> "Rows":
        others = _as_many(other, len(self))
        return Rows(map(function, self.rows, others))

    def __add__(self, other: Operand) -> "Rows":
        return self._each(operator.add, other)

    def __sub__(self, other: Operand) -> "Rows":
        return self._each(operator.sub, other)

    def __and__(self, other: Operand) -> "Rows":
        return self._each(operator.and_, other)

    def __or__(self, other: Operand) -> "Rows":
        return self._each(operator.or_, other)

    def __lshift__(self, other: Operand) -> "Rows":
        return self._each(operator.lshift, other)

    def __rshift__(self, other: Operand) -> "Rows":
        return self._each(operator.rshift, other)

    def __lt__(self, other: Operand) -> "Rows":
        return self._each(operator.lt, other)

    def __le__(self, other: Operand) -> "Rows":
        return self._each(operator.le, other)

    def __gt__(self, other: Operand) -> "Rows":
        return self._each(operator.gt, other)

    def same(self, other: Operand) -> "Rows":
        """Where the rows equal `other`."""
        # Not `__eq__`: JAX and Python compare containers with it and expect one bool.
        return self._each(operator.eq, other)

    def differs(self, other: Operand) -> "Rows":
        """Where the rows do not equal `other`."""
        return self._each(operator.ne, other)

    def has(self, bit: int) -> "Rows":
        """Where bit number `bit` of the rows is set."""
        return (self >> bit & 1).same(1)

    def astype(self, dtype: DType) -> "Rows":
        return Rows(row.astype(dtype) for row in self.rows)

    def any(self) -> PerPE:
        """Whether any row is true, per PE."""
        # Row by row: `jnp.any` over a stack would be the two-dimensional array that this class
        # avoids.
        return functools.reduce(operator.or_, self.rows)

    def sum(self) -> PerPE:
        """The sum of all rows, per PE."""
        return functools.reduce(operator.add, self.rows)


NO_ROWS = Rows(())


def _as_many(operand: Operand, count: int) -> tuple[Operand, ...]:
    return operand.rows if isinstance(operand, Rows) else (operand,) * count


def where(condition: Operand, then: Operand, otherwise: Operand) -> Rows:
    """`jnp.where`, row by row; at least one of the three is `Rows`."""
    operands = (condition, then, otherwise)
    counts = [len(operand) for operand in operands if isinstance(operand, Rows)]
    columns = [_as_many(operand, counts[0]) for operand in operands]
    return Rows(map(jnp.where, *columns))


def full(rows: int, pes: int, value: int, dtype: DType) -> Rows:
    """`rows` arrays `[pes]` that hold `value`, each of its own."""
    return Rows(jnp.full(pes, value, dtype) for _ in range(rows))


def zeros(rows: int, pes: int, dtype: DType) -> Rows:
    """`rows` arrays `[pes]` of zeros, each of its own."""
    return full(rows, pes, 0, dtype)


def unfused(on: jax.Array, function: Callable[..., Tree], *operands: PyTree) -> Tree:
    """`function(*operands)`, worked out by itself and once.

    XLA fuses what it can and then works the same values out again in every fusion that reads them;
    a branch is what it does not look into.

    Args:
      on: `bool[]` that is true, which the compiler cannot know.
      function: what to work out.
      operands: of `function`.
    """
    shapes = jax.eval_shape(function, *operands)

    # Never run, as `on` is true; it only has to be of the same shapes for `lax.cond`.
    def nothing(*_: PyTree) -> Tree:
        return jax.tree.map(jnp.zeros_like, shapes)

    return lax.cond(on, function, nothing, *operands)


def only_if(flag: jax.Array, function: Callable[[Tree], Tree], before: Tree) -> Tree:
    """`function(before)` where a flag is true, else `before` itself.

    It is a loop of one turn or none, as `lax.cond` copies what a branch only passes on.
    """

    def once(at: tuple[jax.Array, Tree]) -> tuple[jax.Array, Tree]:
        return jnp.bool_(False), function(at[1])

    def again(at: tuple[jax.Array, Tree]) -> jax.Array:
        return at[0]

    _, after = lax.while_loop(again, once, (flag, before))
    return after


def materialize(on: jax.Array, *arrays: Tree) -> tuple[Tree, ...]:
    """The same arrays, worked out once however many read them."""
    # The identity, behind a branch: XLA works its operands out before it, and every reader finds
    # them in memory.
    return unfused(on, lambda *same: same, *arrays)


__all__ = [
    "NO_ROWS",
    "Operand",
    "PerPE",
    "Rows",
    "full",
    "materialize",
    "only_if",
    "unfused",
    "where",
    "zeros",
]
