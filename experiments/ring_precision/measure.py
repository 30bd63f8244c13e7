"""One ring's errors: the emulated kernel's values against attention in float64."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from emu import Program
from emu.annotations import PyTree
from experiments.ring_precision import oracle
from kernels import masks
from kernels.trainium.context import layout
from kernels.trainium.context.attend import RankOperands
from kernels.trainium.context.attention import ContextAttention
from kernels.trainium.context.finish import finish
from kernels.trainium.context.ring import attend_ring
from kernels.trainium.context.state import SUM
from kernels.trainium.context.work import RingWork

MASKS = {"full": masks.full, "causal": masks.causal}
Arguments = tuple[PyTree, ...]  # of the kernel's program

HEADS = 2
HEAD_DIM = 128  # the least that MX tiles can have


@dataclasses.dataclass(frozen=True)
class Gap:
    """How far values are from what they should be.

    Attributes:
      rms: root mean square of the differences.
      largest: of the differences.
      of_rms: `rms` over the root mean square of the expected values.
      of_largest: `largest` over the largest expected magnitude.
    """

    rms: float
    largest: float
    of_rms: float
    of_largest: float


@dataclasses.dataclass(frozen=True)
class Row:
    """The errors of one ring.

    Attributes:
      dtype, recipe: see `ContextAttention`.
      ranks: of the ring.
      sums: of the output that the last hop leaves, divided in float64: what the recipe costs.
      output: of the kernel's result, rounded once more to the output's dtype.
      drawn: the same against attention on operands that were not rounded to the dtype.
      rms, largest: of the attention output, from operands rounded to the dtype.
    """

    dtype: str
    recipe: str
    ranks: int
    sums: Gap
    output: Gap
    drawn: Gap
    rms: float
    largest: float


class Bench:
    """Rings of all sizes on the same operands.

    Attributes:
      tokens: length of the sequence.
      mask: one of `MASKS`.
    """

    def __init__(self, tokens: int, mask: str):
        self.tokens, self.mask = tokens, mask
        self.operands = oracle.draw(tokens, HEADS, HEAD_DIM)
        self.exact = oracle.attention(self.operands, MASKS[mask])
        # By name: what it was made for, and what it is.
        self._last: dict[str, tuple[object, Any]] = {}

    def measure(self, dtype: str, recipe: str, ranks: int) -> Row:
        """Runs one ring and holds it against float64."""
        context = self.attention(dtype, recipe, ranks)
        # The recipe changes neither operands nor what is expected of them.
        arguments = self._kept(
            "arguments", (dtype, ranks), lambda: self._arguments(context)
        )
        # Only of MX does it matter where tokens stand: which values share a scale.
        for_whom = (dtype, ranks if context.mx else None)
        expected = self._kept(
            "expected", for_whom, lambda: self._expected(context, arguments)
        )
        output, sums = values(context, arguments)
        return Row(
            dtype,
            recipe,
            ranks,
            gap(sums, expected),
            gap(output, expected),
            gap(output, self.exact),
            float(_rms(expected)),
            float(np.abs(expected).max()),
        )

    def attention(self, dtype: str, recipe: str, ranks: int) -> ContextAttention:
        """The kernel; one query tile at a time, which compiles in the least time."""
        return ContextAttention(
            mask=MASKS[self.mask],
            tokens=self.tokens,
            ranks=ranks,
            heads=HEADS,
            kv_heads=HEADS,
            head_dim=HEAD_DIM,
            placement="striped",
            dtype=dtype,
            recipe=recipe,
            lanes=1,
        )

    def _arguments(self, context: ContextAttention) -> Arguments:
        return context.arguments(self.operands.q, self.operands.k, self.operands.v)

    def _expected(self, context: ContextAttention, arguments: Arguments) -> np.ndarray:
        rounded = (
            oracle.rounded_mx(context, arguments)
            if context.mx
            else self.operands.cast(context.element)
        )
        return oracle.attention(rounded, context.mask)

    def _kept(self, name: str, key: object, make: Callable[[], Any]) -> Any:
        """What was made for the same key last time: recipes share it, and some rings do."""
        # One of each is enough, as points come in the order in which they share.
        if name not in self._last or self._last[name][0] != key:
            self._last[name] = key, make()
        return self._last[name][1]


def values(
    context: ContextAttention, arguments: Arguments
) -> tuple[np.ndarray, np.ndarray]:
    """What the kernel returns, and the output of its last hop divided by its sum in float64.

    `a.run` gives the first alone: the last rounding, to the dtype of the output, would hide what a
    recipe with less rounding than that does.
    """
    sizes = context.sizes

    def kernel(
        q: PyTree, k: PyTree, v: PyTree, work: RingWork, patterns: PyTree
    ) -> PyTree:
        operands = RankOperands(q, (k, v), patterns)
        state = attend_ring(operands, work, sizes, context.ring)
        return finish(state, sizes, transposed=False, logsumexp=False), *state

    def in_order(array: jax.Array) -> np.ndarray:
        placed = layout.output(array, context.sides.q, context.ranks, 1)
        return np.asarray(placed).astype(np.float64)

    def by_tile(array: jax.Array) -> jax.Array:
        """`[ranks, units, rows, 1, n]` to `[ranks, heads, tiles, rows, n]`."""
        return array.reshape(context.ranks, sizes.heads, sizes.tiles, sizes.rows, -1)

    # With more lanes a unit is several query tiles, and `by_tile` would cut them wrongly.
    assert sizes.block_lanes == 1
    program = Program(kernel, context.program.mesh, context.program.in_specs)
    output, out, numbers = program.run(*arguments)
    # Divided in float64 here: the kernel's own division rounds once more.
    total = by_tile(numbers)[..., SUM:]
    return in_order(output), in_order(by_tile(out)) / in_order(total)


def gap(actual: np.ndarray, expected: np.ndarray) -> Gap:
    """The differences of two float64 arrays of one shape."""
    difference = actual - expected
    rms = float(_rms(difference))
    largest = float(np.abs(difference).max())
    return Gap(
        rms,
        largest,
        rms / float(_rms(expected)),
        largest / float(np.abs(expected).max()),
    )


def _rms(array: np.ndarray) -> np.floating[Any]:
    return np.sqrt(np.mean(np.square(array)))
