"""Every kernel of one NeuronCore by name: how to build it, its sizes and what may be tuned."""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from emu import Program
from kernels.trainium import softmax

Sizes = Mapping[str, int | str]
Arguments = tuple[jax.ShapeDtypeStruct, ...]


@dataclasses.dataclass(frozen=True)
class Entry:
    """A kernel that reports, `explain` and `tune` can run by name.

    Attributes:
      name: key in `CATALOGUE`.
      summary: one line.
      build: `(**sizes and tunables) -> (program, abstract arguments)`; what is left out takes its
        default.
      sizes: the names of the sizes, dtypes included, and their defaults.
      tunable: the names of the parameters that change the time but not the result, and candidate
        values; a kernel's defaults are in its signature.
      useful_flops: `(**sizes) -> int`, multiply-adds of the operation itself times 2: no masked
        scores, no transposes. 0 where the Tensor Engine has no part in it.
      useful_bytes: `(**sizes) -> int`, arguments read once and results written once.
    """

    name: str
    summary: str
    build: Callable[..., tuple[Program, Arguments]]
    sizes: dict[str, int | str]
    tunable: dict[str, tuple[Any, ...]]
    useful_flops: Callable[..., int]
    useful_bytes: Callable[..., int]


def entry(
    kernel: Callable[..., Any],
    arguments: Callable[..., Any],
    sizes: dict[str, int | str],
    tunable: dict[str, tuple[Any, ...]],
    useful_flops: Callable[..., int] = lambda **_: 0,
) -> Entry:
    """The entry of a kernel that takes arrays and tunables; name and summary are the function's.

    Args:
      kernel: `(*arrays, **tunables) -> results`, of one core.
      arguments: `(**sizes) -> ` its abstract arrays.
      sizes: defaults.
      tunable: candidate values.
      useful_flops: see `Entry`.
    """
    name = getattr(kernel, "__name__")

    def build(**given: Any) -> tuple[Program, Arguments]:
        if unknown := set(given) - set(sizes) - set(tunable):
            allowed = ", ".join([*sizes, *tunable])
            raise ValueError(f"{name}: no parameter {', '.join(sorted(unknown))}; has {allowed}")
        chosen = {k: v for k, v in given.items() if k in tunable}
        args = tuple(arguments(**sizes | {k: v for k, v in given.items() if k in sizes}))
        bound = functools.partial(kernel, **chosen)
        return Program(bound, {"core": 1}, ((),) * len(args)), args

    def useful_bytes(**given: Any) -> int:
        args = tuple(arguments(**sizes | given))
        moved = jax.tree.leaves((args, jax.eval_shape(kernel, *args)))
        return sum(math.prod(x.shape) * x.dtype.itemsize for x in moved)

    summary = (kernel.__doc__ or "").splitlines()[0]
    flops = lambda **given: useful_flops(**sizes | given)  # noqa: E731
    return Entry(name, summary, build, dict(sizes), dict(tunable), flops, useful_bytes)


def array(*shape: int, dtype: str) -> jax.ShapeDtypeStruct:
    """An abstract HBM array."""
    return jax.ShapeDtypeStruct(shape, jnp.dtype(dtype))


# --- rows ---


def _rows(rows: int, n: int, dtype: str) -> Any:
    return (array(rows, n, dtype=dtype),)


_ROWS = {"rows": 4096, "n": 8192, "dtype": "float32"}
_BUFFERS = {"buffers": (1, 2, 3, 4)}
_PIECES = {"piece": (512, 1024, 2048, 4096), **_BUFFERS}

_ENTRIES = [
    entry(softmax.softmax_three_pass, _rows, _ROWS, _PIECES),
    entry(softmax.softmax_online, _rows, _ROWS, _PIECES),
    entry(softmax.softmax_fused, _rows, _ROWS, _BUFFERS),
]

CATALOGUE: dict[str, Entry] = {e.name: e for e in _ENTRIES}
