"""Multi-head latent attention (MLA) over chips, as a program: what both forms have in common.

A form says how the operands are laid out and what is made of them on the way; any scheme moves
them. Heads are dealt out to cores, and latents, which all heads of a sequence have in common, stand
on every core that has heads of it, as the one KV head of multi-query attention does. Of 2 sequences
with 8 heads each

    cores              1        2       4       8
    heads of a core    16       8       4       2
    its latents        2        1       1       1 sequences'
    a sequence's are   on 1     on 1    on 2    on 4 cores

Ranks that exchange heads (Ulysses) are such places too.
"""

import abc
import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from emu import Device, Program, Reading, Sheet, numerics
from emu.annotations import DType, PyTree
from emu.datasheet import BANDS
from emu.trainium.spaces import Hbm
from kernels.refusal import refuse
from kernels.trainium.context import checks, layout
from kernels.trainium.context.attention import ContextAttention, Results
from kernels.trainium.context.finish import Finished
from kernels.trainium.context.projections import Projections
from kernels.trainium.context.schemes import CORE, TENSOR


class Features(NamedTuple):
    """Features of a query that meet latents and rotary keys, of a latent, and of an output."""

    nope: int
    rope: int
    rank: int
    value_dim: int


def sharing_heads(attention: ContextAttention) -> int:
    """How many query heads in a row share latents where they are attended with.

    As many as a rank has of one sequence: of 8 heads a sequence all 8 where a rank has 16, 4 where
    it has 4, and 4 where it has 12, the third sequence's first 4 among them.

    Raises:
      LimitExceeded: heads that cores, or ranks that exchange heads, do not divide.
    """
    a = attention
    places = a.sharers * (a.ranks // a.dealt)
    if a.heads % places:
        refuse(
            f"{a.heads} heads of latent attention over {places} places, cores of a rank times "
            f"ranks that exchange heads in {a.scheme}: must be a multiple of them"
        )
    return math.gcd(a.heads // places, a.heads // a.batch)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LatentProgram(abc.ABC):
    """A form of MLA on a mesh of chips.

    Attributes:
      attention: the mask, the mesh and the sizes of attention as the form has it.
    """

    attention: ContextAttention

    # --- what a form says ---

    @property
    @abc.abstractmethod
    def features(self) -> Features:
        """Of the operands."""

    @abc.abstractmethod
    def projections(self, weights: tuple[Hbm, Hbm]) -> Projections:
        """What the kernel makes of operands and results, with weights as `_weights` lays them."""

    @abc.abstractmethod
    def _block(self, latents: jax.Array, rotary: jax.Array) -> PyTree:
        """`[tokens, all KV heads, features]` of both to what stands for keys and values.

        Returns:
          `[dealt ranks, cores, tiles, KV heads of a core, ...]`.
        """

    @abc.abstractmethod
    def _weights(self, of_keys: jax.Array, of_values: jax.Array) -> PyTree:
        """`[*mesh, rank, heads with weights of their own, nope or value_dim]` as kernels take them.

        `mesh` are the sizes of the axes along which heads are dealt out.
        """

    # --- the program ---

    @functools.cached_property
    def program(self) -> Program:
        """The kernel on its mesh."""
        attention = self.attention
        built = attention.built

        def kernel(
            q: tuple[Hbm, Hbm],
            block: PyTree,
            weights: tuple[Hbm, Hbm],
            work: Any,
            *known: Any,
        ) -> Finished:
            projections = self.projections(weights)
            operands = built.operands(q, block, *known, projections=projections)
            return built.attend(operands, work)

        of_q, of_k, _, *known = attention.specs
        return Program(kernel, attention.mesh, (of_q, of_k, self._head_axes, *known))

    @property
    def _head_axes(self) -> tuple[str, ...]:
        """Axes of the mesh along which heads are dealt out while they are attended with."""
        along = self.attention.built.heads_along, TENSOR, CORE
        return tuple(axis for axis in self.attention.mesh if axis in along)

    # --- values ---

    def run(
        self,
        q: ArrayLike,
        latent: ArrayLike,
        rotary: ArrayLike,
        w_k: ArrayLike,
        w_v: ArrayLike,
    ) -> Results:
        """Attention of `q · (w_k latent, rotary)` over `w_v latent`.

        Args:
          q: `[queries, batch * heads, nope + rope]`.
          latent: `[tokens, batch, rank]`, or `[tokens, rank]` of one sequence.
          rotary: `[tokens, batch, rope]`, of all heads, or likewise.
          w_k: `[rank, heads, nope]`.
          w_v: `[rank, heads, value_dim]`.

        Returns:
          `[queries, batch * heads, value_dim]`, and the log-sum-exp of the scores,
          `[queries, batch * heads]`, None of a monoid that does not sum their exponentials.

        Raises:
          LimitExceeded: operands of other shapes.
        """
        given = self.arguments(q, latent, rotary, w_k, w_v)
        return self.attention.results(self.program.run(*given))

    def exact(self, *operands: ArrayLike) -> Results:
        """`run`, of the same operands, with every tile in float64."""
        given = self.arguments(*operands)
        return self.attention.results(self.program.exact(*given))

    def arguments(self, *operands: ArrayLike) -> tuple[PyTree, ...]:
        """The program's arguments, of operands as `run` takes them, cast to their dtype."""
        cast = []
        for (name, shape), operand in zip(self._shapes.items(), operands, strict=True):
            x = jnp.asarray(operand)
            wanted = shape
            if name in ("latent", "rotary") and x.ndim == 2 and shape[1] == 1:
                wanted = shape[0], shape[2]
            checks.operand(name, x, wanted)
            is_weight = name in ("w_k", "w_v")
            dtype = self._weight_dtype if is_weight else self.attention.element
            cast.append(numerics.cast(x.reshape(shape), dtype))
        return *self._laid_out(*cast), *self.attention.known()

    @property
    def _weight_dtype(self) -> DType:
        """In which weights are laid out."""
        return self.attention.element

    @property
    def _shapes(self) -> dict[str, tuple[int, ...]]:
        """Of the operands."""
        a, (nope, rope, rank, value_dim) = self.attention, self.features
        heads = a.heads // a.batch
        return {
            "q": (a.query_count, a.heads, nope + rope),
            "latent": (a.tokens, a.batch, rank),
            "rotary": (a.tokens, a.batch, rope),
            "w_k": (rank, heads, nope),
            "w_v": (rank, heads, value_dim),
        }

    def _laid_out(
        self,
        q: jax.Array,
        latent: jax.Array,
        rotary: jax.Array,
        w_k: jax.Array,
        w_v: jax.Array,
    ) -> tuple[PyTree, ...]:
        """Queries, block and weights as the kernel takes them."""
        a, tiling = self.attention, self.attention.sizes
        by_row = layout.tiled(q, a.sides.q, tiling.rows, tiling.heads)
        nope, rope, *_ = self.features
        queries = layout.by_part(by_row, (nope, rope))
        block = self._block(self._on_all_cores(latent), self._on_all_cores(rotary))
        on_mesh = jax.tree.map(a.on_mesh, (queries, block))
        return *on_mesh, self._weights(self._own_heads(w_k), self._own_heads(w_v))

    def _on_all_cores(self, x: jax.Array) -> jax.Array:
        """`[tokens, batch, features]` to `[tokens, all KV heads, features]`."""
        a = self.attention
        stands_on = a.heads // a.batch // sharing_heads(a)
        return jnp.repeat(x, stands_on, axis=1)

    @property
    def _latents_of_core(self) -> int:
        """How many sequences' latents a core has, for heads of all ranks it exchanges with."""
        return self.attention.sizes.heads // sharing_heads(self.attention)

    def _tiled(self, x: jax.Array, rows: int) -> jax.Array:
        """`[tokens, all KV heads, features]` as `layout.tiled` gives it."""
        return layout.tiled(x, self.attention.sides.kv, rows, self._latents_of_core)

    def _own_heads(self, weights: jax.Array) -> jax.Array:
        """`[rank, heads, n]` to `[*mesh, rank, heads with weights of their own, n]`."""
        a = self.attention
        of_sequence, sharing = a.heads // a.batch, a.built.sharing
        heads = np.arange(a.heads) % of_sequence
        by_rank = heads.reshape(a.sharers, sharing, -1)
        if sharing_heads(a) == of_sequence:
            # Whole sequences, which all have the same weights.
            by_rank = by_rank[:, :, :of_sequence]
        # Cores are last in the mesh.
        sizes = [a.mesh[axis] for axis in self._head_axes]
        on_mesh = by_rank.swapaxes(0, 1).reshape(*sizes, -1)
        rank, before_heads = 0, -3
        return jnp.moveaxis(weights[:, on_mesh], rank, before_heads)

    # --- time ---

    def abstract(self) -> tuple[PyTree, ...]:
        """Shapes of the arguments, and the integers that the clock looks at."""
        structs = [
            jax.ShapeDtypeStruct(shape, self.attention.element)
            for shape in self._shapes.values()
        ]
        _, _, _, *known = self.attention.abstract()
        return *jax.eval_shape(self._laid_out, *structs), *known

    def read(self, device: Device, **options: Any) -> Reading:
        """Reads the clock.

        Raises:
          EmulationError: what `Program.read` raises.
        """
        return self.program.read(device, *self.abstract(), **options)

    def read_bands(
        self, sheet: Sheet, bands: Sequence[str] = BANDS
    ) -> dict[str, Reading]:
        """Reads the clock under bands of a datasheet, by default every one, in one pass."""
        return self.program.read_bands(sheet, *self.abstract(), bands=bands)


__all__ = ["Features", "LatentProgram", "sharing_heads"]
