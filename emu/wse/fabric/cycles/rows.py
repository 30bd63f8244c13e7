"""Arrays over the PEs, one a color (or channel, or thread), that are worked on row by row.

As one two-dimensional array they would be stacked by every operation whose rows differ, which XLA's
CPU compiler turns into a branch per element; apart, each row is a plain loop.
"""

import functools
import operator
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax


@jax.tree_util.register_pytree_node_class
class Rows:
    """A fixed number of arrays `[PEs]`; arithmetic goes row by row.

    The other operand may be `Rows` of as many, or one array or scalar for all.
    """

    def __init__(self, rows: Iterable[Any]):
        self.rows = tuple(rows)

    def tree_flatten(self) -> tuple[tuple[Any, ...], None]:
        return self.rows, None

    @classmethod
    def tree_unflatten(cls, _: None, rows: Iterable[Any]) -> "Rows":
        return cls(rows)

    def __getitem__(self, at: Any) -> Any:
        return Rows(self.rows[at]) if isinstance(at, slice) else self.rows[at]

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.rows)

    def __invert__(self) -> "Rows":
        return Rows(~row for row in self.rows)

    def _each(self, f: Callable[[Any, Any], Any], other: Any) -> "Rows":
        return Rows(map(f, self.rows, _as_many(other, len(self))))

    def __add__(self, other: Any) -> "Rows":
        return self._each(operator.add, other)

    def __sub__(self, other: Any) -> "Rows":
        return self._each(operator.sub, other)

    def __and__(self, other: Any) -> "Rows":
        return self._each(operator.and_, other)

    def __or__(self, other: Any) -> "Rows":
        return self._each(operator.or_, other)

    def __lshift__(self, other: Any) -> "Rows":
        return self._each(operator.lshift, other)

    def __rshift__(self, other: Any) -> "Rows":
        return self._each(operator.rshift, other)

    def __lt__(self, other: Any) -> "Rows":
        return self._each(operator.lt, other)

    def __le__(self, other: Any) -> "Rows":
        return self._each(operator.le, other)

    def __gt__(self, other: Any) -> "Rows":
        return self._each(operator.gt, other)

    def same(self, other: Any) -> "Rows":
        """Where the rows equal `other`."""
        return self._each(operator.eq, other)

    def differs(self, other: Any) -> "Rows":
        """Where the rows do not equal `other`."""
        return self._each(operator.ne, other)

    def astype(self, dtype: Any) -> "Rows":
        return Rows(row.astype(dtype) for row in self.rows)

    def any(self) -> Any:
        """Whether any row is true, per PE."""
        return functools.reduce(operator.or_, self.rows)

    def sum(self) -> Any:
        """The sum of all rows, per PE."""
        return functools.reduce(operator.add, self.rows)


def _as_many(x: Any, n: int) -> tuple[Any, ...]:
    return x.rows if isinstance(x, Rows) else (x,) * n


def where(condition: Any, a: Any, b: Any) -> Rows:
    """`jnp.where`, row by row; at least one of the three is `Rows`."""
    n = next(len(x) for x in (condition, a, b) if isinstance(x, Rows))
    return Rows(map(jnp.where, *(_as_many(x, n) for x in (condition, a, b))))


def zeros(rows: int, n: int, dtype: Any) -> Rows:
    """`rows` arrays `[n]` of zeros, each of its own."""
    return Rows(jnp.zeros(n, dtype) for _ in range(rows))


def apart(on: Any, f: Callable[..., Any], *x: Any) -> Any:
    """`f(*x)`, worked out by itself and once.

    XLA fuses what it can and then works the same values out again in every fusion that reads them;
    a branch is what it does not look into.

    Args:
      on: `bool[]` that is true, which the compiler cannot know.
      f: what to work out.
      x: its operands.
    """
    shapes = jax.eval_shape(f, *x)
    nothing = lambda *_: jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), shapes)  # noqa: E731
    return lax.cond(on, f, nothing, *x)


def once(on: Any, *x: Any) -> Any:
    """The same arrays, worked out by themselves and once."""
    return apart(on, lambda *y: y, *x)


__all__ = ["Rows", "apart", "once", "where", "zeros"]
