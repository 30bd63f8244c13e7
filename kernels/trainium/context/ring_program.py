"""Ring attention of any mask on any placement, as a program: run for its values, read for its time.

`RingAttention` takes and gives arrays in the order of the sequence: where tokens stand is its own
business, so positions follow the placement and nobody shuffles tokens.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp

from emu import Device, Program, Reading, numerics
from kernels.choose_placement import Choice, choose
from kernels.masks import Mask
from kernels.placement import Placement, place
from kernels.trainium.context import layout, layout_mx
from kernels.trainium.context.hops import Hops, ring_hops
from kernels.trainium.context.ring import Ring, ring_attention
from kernels.trainium.context.sizes import ContextTiling, key_tiling
from kernels.trainium.context.tables import Sides
from kernels.trainium.tiling import BANK_COLUMNS, PARTITIONS

RING, CORE = "ring", "core"  # mesh axes
AUTO, MXFP8 = "auto", "mxfp8"


@dataclasses.dataclass(frozen=True, kw_only=True)
class RingAttention:
    """Attention over a ring of chips.

    Attributes:
      mask: `mask(b, h, q, k) -> bool` on positions in the sequence.
      tokens: length of the sequence.
      ranks: chips of the ring.
      heads, kv_heads, head_dim: of attention; heads may be any number of KV heads' multiple.
      value_dim: features of a value; None: as many as of a key.
      placement: one of `PLACEMENTS`, or `auto`, chosen from the mask.
      dtype: of queries, keys, values and weights: a float, or `mxfp8`.
      recipe: see `ContextTiling`.
      cores: NeuronCores of each chip that share its heads; they divide the KV heads.
      static_program: models one program for all ranks, which cannot skip tiles by rank.
      overlap, unroll: see `Ring`.
      columns: most keys of a key tile.
      lanes: most query tiles that are worked on together.
      every_hop: see `ring_hops`.
      masks: how many masks of partly live tiles to make room for; None: as many as there are.
      hop_tiles: for `auto`, one hop's transfer in block by key tile steps.
    """

    mask: Mask
    tokens: int
    ranks: int
    heads: int
    kv_heads: int
    head_dim: int
    value_dim: int | None = None
    placement: str = AUTO
    dtype: Any = jnp.float32
    recipe: str = "fp32"
    cores: int = 1
    static_program: bool = False
    overlap: bool = True
    unroll: bool = False
    columns: int = BANK_COLUMNS
    lanes: int = 16
    every_hop: bool = False
    masks: int | None = None
    hop_tiles: float = 1.0

    # --- where tokens stand and what that means ---

    @functools.cached_property
    def placed(self) -> str:
        """The placement in use."""
        return self.placement if self.placement != AUTO else self.choice.name

    @functools.cached_property
    def choice(self) -> Choice:
        """Every placement's figures under the mask."""

        def sizes(name: str) -> tuple[int, int, int, int]:
            s = self._sizes(name)
            return s.slots, s.rows, s.block_tiles * s.rows, s.columns

        return choose(
            self.mask, self.tokens, self.ranks, slots_of=sizes, hop_tiles=self.hop_tiles
        )  # fmt: skip

    @functools.cached_property
    def sizes(self) -> ContextTiling:
        """Sizes of one core."""
        return self._sizes(self.placed)

    def _sizes(self, placement: str) -> ContextTiling:
        even = placement == "zigzag" or self.every_hop
        count, span, keys = key_tiling(
            self.tokens, self.ranks, even=even, columns=self.columns, mx=self.mx
        )
        if self.kv_heads % self.cores:
            raise ValueError(
                f"{self.kv_heads} KV heads over {self.cores} cores: must be a multiple of them"
            )
        full, rest = divmod(self.head_dim, PARTITIONS)
        s = ContextTiling(
            self.heads // self.cores, self.kv_heads // self.cores,
            (PARTITIONS,) * full + ((rest,) if rest else ()), self.value_dim or self.head_dim,
            count * span, keys, count, span, keys,
            jnp.dtype(jnp.float8_e4m3fn if self.mx else self.dtype), self.mx, self.recipe,
            self.lanes,
        )  # fmt: skip
        if self.mx:
            layout_mx.check(s)
        return s

    @property
    def mx(self) -> bool:
        """Whether operands are microscaled."""
        return isinstance(self.dtype, str) and self.dtype == MXFP8

    @functools.cached_property
    def where(self) -> Placement:
        """Where the tokens stand."""
        s = self.sizes
        return place(self.placed, self.tokens, self.ranks, s.slots, s.rows)

    @functools.cached_property
    def hops(self) -> Hops:
        """The ring's hops."""
        sides = Sides(self.where, self.where, self.sizes)
        return ring_hops(self.mask, sides, static=self.static_program, every_hop=self.every_hop)

    @functools.cached_property
    def program(self) -> Program:
        """The kernel on its mesh."""
        hops = self.hops
        ring = Ring(RING, (RING,), len(hops), hops.roots, self.overlap, self.unroll)
        kernel = functools.partial(_kernel, s=self.sizes, ring=ring)
        mesh = {RING: self.ranks} | ({CORE: self.cores} if self.cores > 1 else {})
        data = tuple(mesh)
        return Program(kernel, mesh, (data, data, data, (RING,), ()))

    # --- values ---

    def run(self, q: Any, k: Any, v: Any) -> tuple[Any, Any]:
        """Attention.

        Args:
          q: `[tokens, heads, head_dim]`.
          k: `[tokens, kv_heads, head_dim]`.
          v: `[tokens, kv_heads, value_dim]`.

        Returns:
          `[tokens, heads, value_dim]`, and the log-sum-exp of the scores, `[tokens, heads]`.
        """
        return self._results(self.program.run(*self.arguments(q, k, v)))

    def exact(self, q: Any, k: Any, v: Any) -> tuple[Any, Any]:
        """`run` with every tile in float64."""
        return self._results(self.program.exact(*self.arguments(q, k, v)))

    def arguments(self, q: Any, k: Any, v: Any) -> tuple[Any, ...]:
        """The program's arguments, each cast to its dtype."""
        s, where = self.sizes, self.where
        pieces = s.key_tiles * s.span
        if self.mx:
            qs, ks = (
                layout_mx.features_first(*x, s) for x in ((q, where, s.tiles), (k, where, pieces))
            )
            vs = tuple(self._by_core(x, axis=2) for x in layout_mx.keys_first(v, where, s))
        else:
            q, k, v = (numerics.cast(jnp.asarray(x), s.dtype) for x in (q, k, v))
            qs, ks = layout.queries(q, where, s), layout.keys(k, where, s)
            vs = self._by_core(layout.values(v, where, pieces), axis=3)
        qs, ks = (tuple(self._by_core(x, axis=2) for x in xs) for xs in (qs, ks))
        biases = self.hops.biases(jnp.bfloat16, self.masks)
        return qs, ks, vs, self.hops.known(with_masks=True), biases

    def _by_core(self, x: Any, axis: int) -> Any:
        """Splits heads over the chip's cores: `[ranks, ...]` to `[ranks, cores, ...]`."""
        if self.cores == 1:
            return x
        split = x.reshape(*x.shape[:axis], self.cores, -1, *x.shape[axis + 1 :])
        return jnp.moveaxis(split, axis, 1)

    def _results(self, results: tuple[Any, Any]) -> tuple[Any, Any]:
        out, lse = results
        if self.cores > 1:
            out, lse = (x.reshape(x.shape[0], -1, *x.shape[3:]) for x in (out, lse))
        return layout.output(out, self.where), layout.logsumexp(lse, self.where, self.heads)

    # --- time ---

    def abstract(self) -> tuple[Any, ...]:
        """Shapes of the arguments, and the integers that the clock looks at."""
        s = self.sizes
        lead = (self.ranks,) if self.cores == 1 else (self.ranks, self.cores)
        bias = jax.ShapeDtypeStruct((self.masks or 1, s.rows, s.columns), jnp.bfloat16)
        form = layout_mx if self.mx else layout
        return *form.abstract(lead, s), self.hops.known(with_masks=False), bias

    def read(self, device: Device, **options: Any) -> Reading:
        """Reads the clock.

        Raises:
          EmulationError: what `Program.read` raises.
        """
        return self.program.read(device, *self.abstract(), **options)

    def memory(self, device: Device) -> dict[str, int]:
        """Peak bytes per memory space of one core; masks count as one.

        Raises:
          OutOfMemory: a space is too small.
        """
        return self.program.memory(device, *self.abstract())


def _kernel(
    q: Any, k: Any, v: Any, work: Any, patterns: Any, *, s: ContextTiling, ring: Ring
) -> Any:
    return ring_attention(q, (k, v), work, patterns, s, ring, logsumexp=True)


__all__ = ["AUTO", "CORE", "MXFP8", "RING", "RingAttention"]
