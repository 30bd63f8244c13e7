"""What a mixture's kernel is written for: sizes, who has which expert, and where rows stand.

Experts are dealt so that a core's index says which of them it serves on every number of chips. With
`columns = experts / cores` experts of a core's index, dealt round over `period = gcd(columns,
chips)` chips: expert `e` is on core `e // columns` of chip `e % period` of each group of `period`
chips. Where there are more chips than that each group of chips has all experts, and serves the
tokens of its own chips: Kimi-K2's 384 experts on 64 chips of 8 cores are 48 of a core's index, so
four groups of 16 chips, with three experts on each core.

Example: 8 experts on 2 chips of 2 cores. Core 0 serves experts 0-3, of which chip 0 has 0 and 2 and
chip 1 has 1 and 3; core 1 serves 4-7 likewise. On 8 chips there are two groups of 4: chips 0 and 4
have experts 0 and 4, chips 1 and 5 have 1 and 5, and so on.
"""

import dataclasses
import functools
import math

import jax.numpy as jnp

from emu import numerics
from emu.annotations import DType
from kernels.moe.routing import Routing
from kernels.refusal import refuse
from kernels.trainium.gemm.mx_pack import MxFormats
from kernels.trainium.gemm.operands import cut_of, hidden_cut
from kernels.trainium.layer.gate import Gate
from kernels.trainium.tiles import (
    BANK_COLUMNS,
    PARTITIONS,
    bank_columns,
)

BEST = 8  # numbers that `nc_max8` finds at once


@dataclasses.dataclass(frozen=True)
class MixtureOfExperts:
    """What a mixture computes, on whatever mesh.

    Attributes:
      routing: how experts are chosen.
      hidden: features of a token.
      ffn: features inside an expert.
      gate: what an expert makes of its two up projections.
      router_bias: whether logits have a bias of each expert (gpt-oss).
      biases: whether experts' projections have biases (gpt-oss).
      shared: features inside the MLP that every token goes through besides; 0: there is none.
      shared_is_scaled: whether that MLP's output is multiplied by a sigmoid of the token
        (Qwen2-MoE).
    """

    routing: Routing
    hidden: int
    ffn: int
    gate: Gate = Gate()
    router_bias: bool = False
    biases: bool = False
    shared: int = 0
    shared_is_scaled: bool = False

    def __post_init__(self) -> None:
        if self.routing.experts > BANK_COLUMNS:
            refuse(
                f"a router of {self.routing.experts} experts: their logits must fit a PSUM bank of "
                f"{BANK_COLUMNS} columns"
            )
        if self.shared_is_scaled and not self.shared:
            refuse(
                "shared_is_scaled is True but shared is 0: there is nothing to multiply"
            )


@dataclasses.dataclass(frozen=True)
class MoeForm:
    """One mixture on one mesh.

    Attributes:
      mixture: what it computes.
      chips, cores: of the mesh; every core of a chip has all of the chip's tokens.
      tiles, rows: the tokens of a chip, `tiles · rows`, rows at most 128.
      sent_rows: room for what a core sends on to the chips that have one of its experts, or holds
        for them itself; a multiple of 128. `kernels.moe.mesh.work` finds it from counts.
      expert_rows: room for what comes to one expert, a multiple of 128.
      dtype: of tokens and weights; sums are float32.
      tile_rows: rows that an expert takes at a time; divides 128.
      tiles_at_once: tiles of an expert that share each load of its weights, at most 4.
      capacity: rows that an expert takes of each chip at most, in order of tokens; others are
        dropped. None: all.
      padded: whether some rows are no tokens, see `places.Order`.
      mx: what experts' products have their operands in, where they are in MX. The router is never:
        it takes a hundredth of an expert's work, and what it rounds off decides who is chosen.
      others_mx: likewise all other products of the layer, the shared MLP's among them.
    """

    mixture: MixtureOfExperts
    chips: int
    cores: int
    tiles: int
    rows: int
    sent_rows: int
    expert_rows: int
    dtype: DType
    tile_rows: int = PARTITIONS
    tiles_at_once: int = 4
    capacity: int | None = None
    padded: bool = False
    mx: MxFormats | None = None
    others_mx: MxFormats | None = None

    def __post_init__(self) -> None:
        number = self.routing.experts
        if number % self.cores:
            refuse(
                f"{number} experts over {self.cores} cores: every core must serve equally many"
            )
        if PARTITIONS % self.tile_rows:
            refuse(f"tile_rows is {self.tile_rows}, must divide {PARTITIONS}")
        if not 1 <= self.tiles_at_once * self.tile_rows <= BANK_COLUMNS:
            refuse(
                f"{self.tiles_at_once} tiles of {self.tile_rows} rows at once: must be 1 to "
                f"{BANK_COLUMNS} rows, the columns of a PSUM bank"
            )
        # A stationary operand of MX has an even number of columns.
        shared_mx = self.others_mx is not None and self.mixture.shared
        for name, size, is_mx in (
            ("tile_rows", self.tile_rows, self.mx is not None),
            ("rows", self.rows, shared_mx),
        ):
            if is_mx and size % 2:
                refuse(f"{name} is {size}, must be even where products are in MX")
        if shared_mx and self.cores > 1 and self.shared % numerics.GROUP:
            refuse(
                f"{self.mixture.shared} features of a shared expert in MX over {self.cores} cores: "
                f"each must have whole groups of {numerics.GROUP}, which share a scale"
            )

    # --- who has which expert ---

    @property
    def routing(self) -> Routing:
        return self.mixture.routing

    @property
    def columns(self) -> int:
        """Experts of one core's index, on all chips."""
        return self.routing.experts // self.cores

    @property
    def period(self) -> int:
        """Chips that have all experts between them."""
        return math.gcd(self.columns, self.chips)

    @property
    def local(self) -> int:
        """Experts of one core."""
        return self.columns // self.period

    @property
    def crosses(self) -> bool:
        """Whether rows go from chip to chip."""
        return self.period > 1

    def expert(self, chip: int, core: int, local: int) -> int:
        """The number of a core's expert."""
        return core * self.columns + local * self.period + chip % self.period

    @property
    def zeros(self) -> int:
        """Where a list has a row of zeros, if the form is padded: the last of the first list."""
        return self.sent_rows - 1

    # --- tiles ---

    @property
    def tokens(self) -> int:
        """Of a chip."""
        return self.tiles * self.rows

    @property
    def picks(self) -> int:
        """Columns in which a token's chosen experts stand: in eights."""
        return BEST * math.ceil(self.routing.chosen / BEST)

    @property
    def hidden_tiles(self) -> tuple[int, int]:
        """Contraction tiles of the hidden dimension, `(count, rows)`."""
        # Each core sums up equally many features.
        quads = self.mx is not None or self.others_mx is not None
        return hidden_cut(self.mixture.hidden, self.cores, quads=quads)

    @property
    def hidden_padded(self) -> int:
        """The hidden dimension in whole tiles."""
        return math.prod(self.hidden_tiles)

    @property
    def hidden_columns(self) -> int:
        """Output columns of a PSUM tile where the hidden dimension is the output."""
        return bank_columns(self.hidden_tiles)

    @property
    def part(self) -> int:
        """Features that a core sums up for all of the chip's tokens."""
        return math.ceil(self.hidden_padded / self.cores)

    @property
    def width(self) -> int:
        """Features that all cores sum up: as many on each, so of 2,898 over 8 cores 2,904.

        What stands behind `hidden_padded` is never written and never read.
        """
        return self.part * self.cores

    @property
    def ffn_tiles(self) -> tuple[int, int]:
        """Tiles of an expert's features, `(count, rows)`."""
        return cut_of(self.mixture.ffn, quads=self.mx is not None)

    @property
    def shared_tiles(self) -> tuple[int, int]:
        """Tiles of a core's part of the shared MLP's features, `(count, rows)`."""
        return cut_of(self.shared, quads=self.others_mx is not None)

    @property
    def shared(self) -> int:
        """A core's part of the shared MLP's features."""
        features, rest = divmod(self.mixture.shared, self.cores)
        if rest:
            refuse(
                f"{self.mixture.shared} features of a shared expert over {self.cores} cores: each "
                "must have equally many"
            )
        return features

    @property
    def blocks(self) -> int:
        """Blocks of tiles that one expert may have to go through."""
        return math.ceil(self.expert_rows / (self.tiles_at_once * self.tile_rows))

    @functools.cached_property
    def arithmetic(self) -> DType:
        """Of ones and zeros that are counted by matmuls: exact in 16 bits."""
        return jnp.bfloat16 if jnp.dtype(self.dtype).itemsize == 2 else jnp.float32


__all__ = ["BEST", "MixtureOfExperts", "MoeForm"]
