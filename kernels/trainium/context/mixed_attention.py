"""Attention of several score maps over the same values, mixed on the machine, as a program."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from emu import Device, Program, Reading, Sheet
from emu.annotations import PyTree
from emu.trainium.spaces import Hbm
from kernels.refusal import refuse
from kernels.trainium.context.attention import ContextAttention, Results
from kernels.trainium.context.finish import Finished
from kernels.trainium.context.mix import mix


@dataclasses.dataclass(frozen=True, kw_only=True)
class MixedAttention:
    """Attention whose heads are maps, of which several are summed into one output.

    Attributes:
      attention: of the maps: its `maps` KV heads in a row share values, and its query heads stand
        as `kernels.trainium.context.mix` has them.
      counts_as_is: of every map, whether its factor is 1 wherever it is.
    """

    attention: ContextAttention
    counts_as_is: Sequence[bool]

    def __post_init__(self) -> None:
        if len(self.counts_as_is) != self.attention.maps:
            refuse(
                f"counts_as_is has {len(self.counts_as_is)} entries, must have one for each of "
                f"{self.attention.maps} maps"
            )

    @functools.cached_property
    def program(self) -> Program:
        """The kernel on its mesh."""
        attention = self.attention

        def kernel(factors: Hbm, *arguments: Any) -> Finished:
            out, lse = attention.built.kernel(*arguments)
            mixed = mix(out, factors, attention.sizes, self.counts_as_is)
            return mixed, lse

        specs = (attention.core_axes, *attention.specs)
        return Program(kernel, attention.mesh, specs)

    # --- values ---

    def run(
        self, q: ArrayLike, k: ArrayLike, v: ArrayLike, factors: ArrayLike
    ) -> Results:
        """Attention, and its maps mixed.

        Args:
          q: `[queries, heads, head_dim]`.
          k: `[tokens, kv_heads, head_dim]`.
          v: `[tokens, kv_heads / maps, value_dim]`.
          factors: `[maps, heads / maps]`.

        Returns:
          `[queries, heads / maps, value_dim]`, and the log-sum-exp of every map's scores,
          `[queries, heads]`.
        """
        arguments = self.attention.arguments(q, k, v)
        results = self.program.run(self._on_rows(factors), *arguments)
        return self.attention.results(results)

    def _on_rows(self, factors: ArrayLike) -> jax.Array:
        """`[maps, heads]` to `[*cores, heads of a core, rows, maps]`, on every row alike."""
        by_head = jnp.asarray(factors, jnp.float32).T
        heads, maps = by_head.shape
        shape = (heads, self.attention.sizes.rows, maps)
        on_rows = jnp.broadcast_to(by_head[:, None], shape)
        return on_rows.reshape(self._shape)

    @property
    def _shape(self) -> tuple[int, ...]:
        sizes, mesh = self.attention.sizes, self.attention.mesh
        cores = (mesh[axis] for axis in self.attention.core_axes)
        return *cores, sizes.heads // sizes.maps, sizes.rows, sizes.maps

    # --- time ---

    def abstract(self) -> tuple[PyTree, ...]:
        """Shapes of the arguments, and the integers that the clock looks at."""
        factors = jax.ShapeDtypeStruct(self._shape, jnp.float32)
        return factors, *self.attention.abstract()

    def read(self, device: Device, **options: Any) -> Reading:
        """Reads the clock.

        Raises:
          EmulationError: what `Program.read` raises.
        """
        return self.program.read(device, *self.abstract(), **options)

    def read_bands(self, sheet: Sheet) -> dict[str, Reading]:
        """Reads the clock under every band of a datasheet, in one pass."""
        return self.program.read_bands(sheet, *self.abstract())


__all__ = ["MixedAttention"]
