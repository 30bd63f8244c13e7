"""A plan of a prefill as data: which chips have which layers and tokens, and in which chunks.

What is spread how follows from what kernels there are (`models.machines.layer_stages`):

- tokens over the places of a ring (context parallel),
- heads and columns over the cores of a place, which is one chip or several (tensor parallel): of
  two chips each has half of a layer's matrices, and they add up what both have made,
- experts over all cores of a ring (expert parallel),
- layers over stages, each a ring of its own (pipeline parallel), and stages over racks.

Kimi-K2's 61 layers on 144 chips may be one stage on a ring of 144, or of 36 places of four chips,
or four stages of 36 with 16, 15, 15 and 15 layers, through which a prompt goes in chunks.
"""

import dataclasses
import itertools
import math

from emu.trainium.datasheets import System
from kernels.trainium.tiles import PARTITIONS, split
from models.errors import ModelError


@dataclasses.dataclass(frozen=True)
class Chunk:
    """A part of a prompt that goes through the stages as one.

    Attributes:
      cached: keys before it, padding of earlier chunks included; a multiple of the ring.
      tokens: of it, padding included; a multiple of the stage's chips.
    """

    cached: int
    tokens: int


@dataclasses.dataclass(frozen=True)
class PrefillPlan:
    """Where and in which parts a prompt is prefilled.

    Attributes:
      tokens: of the prompt, with those that are cached.
      cached: of these, how many at the beginning have keys and values in HBM already.
      ring: places of a stage.
      stages: groups of layers, one behind the other.
      racks: UltraServers, each with equally many stages; EFA joins them.
      chunks: equal parts in which the new tokens go through the stages.
      cores: of each chip.
      tensor: chips of each place.
    """

    tokens: int
    ring: int
    stages: int = 1
    racks: int = 1
    chunks: int = 1
    cached: int = 0
    cores: int = 8
    tensor: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.cached < self.tokens:
            raise ModelError(
                f"{self.cached} of {self.tokens} tokens are cached, must be 0 to "
                f"{self.tokens - 1}: the last token's logits are wanted"
            )
        for name in ("ring", "stages", "racks", "chunks", "cores", "tensor"):
            if getattr(self, name) < 1:
                raise ModelError(f"{name} is {getattr(self, name)}, must be at least 1")
        if self.stages % self.racks:
            raise ModelError(
                f"{self.stages} stages over {self.racks} racks, must be equally many on each"
            )
        if self.new < self.of_stage * self.chunks:
            raise ModelError(
                f"{self.new} new tokens in {self.chunks} chunks over {self.of_stage} chips, must "
                "be at least one a chip; take fewer chips or chunks"
            )

    @property
    def new(self) -> int:
        """Tokens that are prefilled."""
        return self.tokens - self.cached

    @property
    def of_stage(self) -> int:
        """Chips of a stage."""
        return self.ring * self.tensor

    @property
    def chips(self) -> int:
        """Of all stages."""
        return self.of_stage * self.stages

    @property
    def placement(self) -> str:
        """Where the ring has tokens, one of `kernels.PLACEMENTS` or `auto`.

        Striped, a chunk's keys stand on the chips of its tokens, behind those of earlier chunks, so
        nothing moves. Every other placement deals out the whole prompt.
        """
        return "auto" if self.chunks == 1 and not self.cached else "striped"

    @property
    def each(self) -> int:
        """Tokens of a place in a chunk, and of each of its chips an equal part.

        A chip's are equal tiles of an even number, as products in MX want: 911 tokens are 8 tiles
        of 114 (912). What two such chips have, 1,824, is 15 tiles of 122, the last one short.
        """
        least = math.ceil(self.new / self.chunks / self.of_stage)
        for own in itertools.count(least):
            tiles, rows = split(own, PARTITIONS)
            _, together = split(own * self.tensor, PARTITIONS)
            if tiles * rows == own and rows % 2 == together % 2 == 0:
                return own * self.tensor
        raise AssertionError  # 128 rows are even, and so are those of all chips

    @property
    def parts(self) -> tuple[Chunk, ...]:
        """The chunks in their order."""
        size = self.each * self.ring
        before = math.ceil(self.cached / self.ring) * self.ring
        return tuple(
            Chunk(before + number * size, size) for number in range(self.chunks)
        )

    @property
    def keys(self) -> int:
        """Of all tokens, padding included."""
        last = self.parts[-1]
        return last.cached + last.tokens

    def layers(self, count: int) -> tuple[range, ...]:
        """The layers of each stage: of 61 in four 16, 15, 15 and 15.

        Raises:
          ModelError: fewer layers than stages.
        """
        if count < self.stages:
            raise ModelError(
                f"{count} layers in {self.stages} stages, must be one or more"
            )
        each, rest = divmod(count, self.stages)
        ends = [each * number + min(number, rest) for number in range(self.stages + 1)]
        return tuple(map(range, ends[:-1], ends[1:]))

    def leaves_rack(self, stage: int) -> bool:
        """Whether the stage behind a stage is on another rack."""
        of_rack = self.stages // self.racks
        return (stage + 1) // of_rack != stage // of_rack

    def check_system(self, system: System) -> None:
        """That a rack has so many chips.

        Raises:
          ModelError: it has fewer.
        """
        wanted = self.chips // self.racks
        if wanted > system.chips:
            raise ModelError(
                f"{self}: {wanted} chips of a rack, {system.name} has {system.chips}; take smaller "
                "rings, fewer stages or more racks"
            )

    def __str__(self) -> str:
        """A line: `4 stages of 36 chips in 16 chunks`."""
        stages = f"{self.stages} stages of " if self.stages > 1 else ""
        words = f"{stages}{self.of_stage} chip{'s' if self.of_stage > 1 else ''}"
        if self.tensor > 1:
            words += f", {self.tensor} a place,"
        if self.racks > 1:
            words += f" on {self.racks} racks"
        if self.chunks > 1:
            words += f" in {self.chunks} chunks"
        if self.cached:
            words += f" behind {self.cached:,} cached tokens"
        return words.removesuffix(",")


__all__ = ["Chunk", "PrefillPlan"]
