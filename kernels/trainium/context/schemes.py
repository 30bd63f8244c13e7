"""Context parallel schemes: which mesh, which kernel and which known integers each of them takes.

| scheme | what crosses links |
|---|---|
| `ring` | keys and values, one rank on at a time, beside the computation |
| `all-gather` | keys and values, all before the computation |
| `ulysses` | everything, from tokens of all heads to all tokens of some heads, and outputs back |
| `ulysses-ring` | Ulysses over the inner ranks, a ring over the outer ones |
| `tiles` | queries along one mesh axis, keys and values along the other, partial outputs back |
| `pass-q` | queries around a ring, and partial outputs back: for few queries on a long cache |
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from kernels.trainium.context import exchange
from kernels.trainium.context.hops import Hops, ring_hops
from kernels.trainium.context.ring import Ring, ring_attention
from kernels.trainium.context.tables import Tables, by_source

RING, INNER = "ring", "inner"  # mesh axes


@dataclasses.dataclass(frozen=True, eq=False)
class Scheme:
    """A scheme for certain sizes.

    Attributes:
      mesh: axis to size, over chips, outermost first.
      table_axes: those along which known integers differ.
      kernel: `(q, k, v, work, patterns) -> (output, log-sum-exp)` of one core.
      tables: the known integers.
    """

    mesh: dict[str, int]
    table_axes: tuple[str, ...]
    kernel: Callable[..., Any]
    tables: Hops | Tables

    def known(self, with_masks: bool) -> dict[str, Any]:
        """The kernel's known integers, in the form of the mesh; see `Tables.known`."""
        lead = tuple(self.mesh[axis] for axis in self.table_axes)
        return self.tables.known(with_masks=with_masks, lead=lead)

    def biases(self, dtype: Any, count: int | None) -> np.ndarray:
        """See `Tables.biases`."""
        return self.tables.biases(dtype, count)


@dataclasses.dataclass(frozen=True)
class Entry:
    """How a scheme is built.

    Attributes:
      of: `ContextAttention` to its scheme.
      dealt: `ContextAttention` to the ranks that tokens are dealt out to; the others of each group
        share its part.
    """

    of: Callable[[Any], Scheme]
    dealt: Callable[[Any], int] = lambda a: a.ranks


def _ring(a: Any) -> Scheme:
    hops = ring_hops(a.mask, a.sides, static=a.static_program, every_hop=a.every_hop)
    ring = Ring(RING, (RING,), len(hops), hops.roots, a.overlap, a.unroll)

    def kernel(q: Any, k: Any, v: Any, work: Any, patterns: Any) -> Any:
        return ring_attention(q, (k, v), work, patterns, a.sizes, ring, logsumexp=True)

    return Scheme({RING: a.ranks}, (RING,), kernel, hops)


def _all_gather(a: Any) -> Scheme:
    tables = _static(a, by_source(a.mask, a.sides).joined())
    kernel = functools.partial(exchange.all_gather, s=a.sizes, ranks=a.ranks, axis=RING)
    return Scheme({RING: a.ranks}, (RING,), kernel, tables)


def _ulysses(a: Any) -> Scheme:
    inner = a.ranks if a.scheme == "ulysses" else a.inner
    outer = a.ranks // inner
    s = exchange.headwise(a.sizes, inner)
    sides = dataclasses.replace(a.sides, s=s)
    hops = ring_hops(a.mask, sides, static=a.static_program, every_hop=a.every_hop)
    ring = Ring(RING, (RING, INNER), len(hops), hops.roots, a.overlap, a.unroll)
    kernel = functools.partial(
        exchange.ulysses, s=a.sizes, inner=inner, axis=INNER, headwise=s, ring=ring
    )
    return Scheme({RING: outer, INNER: inner}, (RING,), kernel, hops)


def _tiles(a: Any) -> Scheme:
    rows, columns = a.ranks // a.inner, a.inner
    tables = _static(a, by_source(a.mask, a.sides).tiled(rows, columns))
    kernel = functools.partial(
        exchange.tiles, s=a.sizes, rows=rows, columns=columns, axes=(RING, INNER)
    )
    return Scheme({RING: rows, INNER: columns}, (RING, INNER), kernel, tables)


def _pass_q(a: Any) -> Scheme:
    hops = ring_hops(
        a.mask, a.sides, static=a.static_program, every_hop=True, queries_travel=True
    )
    kernel = functools.partial(exchange.pass_q, s=a.sizes, ranks=a.ranks, axis=RING)
    return Scheme({RING: a.ranks}, (RING,), kernel, hops)


def _static(a: Any, tables: Tables) -> Tables:
    return tables.for_all_ranks() if a.static_program else tables


SCHEMES = {
    "ring": Entry(_ring),
    "all-gather": Entry(_all_gather),
    "ulysses": Entry(_ulysses, lambda a: 1),
    "ulysses-ring": Entry(_ulysses, lambda a: a.ranks // a.inner),
    "tiles": Entry(_tiles),
    "pass-q": Entry(_pass_q),
}

__all__ = ["INNER", "RING", "SCHEMES", "Entry", "Scheme"]
