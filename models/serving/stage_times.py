"""The stages of a plan on wafers, and how many cycles a token at a position takes in each.

Only a layer's cycles depend on the position: its PEs go through the slots of the cache that are
filled. A row of PEs has a slot for every `rows` positions, so that the cycles are a staircase, of
whole cycles, with smaller steps where a part of the rows has one more. Reading every position is
exact and takes some tenths of a second each (`every`); what serves thousands is read at a few, with
straight lines between (`between`), which is off by less than a step of the stairs.
"""

import bisect
import dataclasses
from collections.abc import Callable, Sequence

from emu.datasheet import Device
from emu.errors import OutOfMemory
from kernels.wse.decode import token
from kernels.wse.decode.plan import WaferPlan
from kernels.wse.decode.token import HOST, TokenClock
from models.serving.pipeline import Stage

Cycles = tuple[int, ...]
"""Of each stage."""

ENDS = "ends"  # the region of embedding and output head


@dataclasses.dataclass(frozen=True)
class StageTimes:
    """A pipeline's stages, and their cycles.

    Attributes:
      stages: in order.
      at: the cycles of each for the token at a position.
    """

    stages: tuple[Stage, ...]
    at: Callable[[int], Cycles]

    def latency_cycles(self, position: int) -> int:
        """Of a token alone: the pipeline's depth."""
        return sum(self.at(position))

    def bottleneck(self, position: int) -> tuple[str, int]:
        """The region that is longest at work for a token at that position, and its cycles."""
        return bottleneck(self.stages, self.at(position))


def bottleneck(stages: Sequence[Stage], cycles: Sequence[int]) -> tuple[str, int]:
    """The region that is longest at work for a token, in all its stages, and its cycles."""
    work: dict[str, int] = {}
    for stage, own in zip(stages, cycles, strict=True):
        if stage.region is not None:
            work[stage.region] = work.get(stage.region, 0) + own
    region = max(work, key=lambda name: work[name])
    return region, work[region]


def check_buffer(plan: WaferPlan, device: Device) -> None:
    """That the embedding's result has room beside the head: float32, on the first column's PEs.

    Embedding and head run one after the other in a plan and share their buffers; in a pipeline a
    head runs while the result waits. Of Llama 3.1 8B it is 26 features of each of 160 rows.

    Raises:
      OutOfMemory: it has none.
    """
    held = sum(plan.head_bytes.values())
    needed = 4 * plan.head.depth
    if held + needed > device.sram_bytes:
        raise OutOfMemory(
            f"{device.name}: a PE of embedding and head holds {held:,} bytes, and {needed:,} more "
            f"for an embedding that waits beside a head are over its {device.sram_bytes:,}; plan "
            "for a region of more PEs"
        )


def every(
    clock: TokenClock, band: str = "nominal", through_host: bool = True
) -> StageTimes:
    """Reads each position that is asked for, once.

    Args:
      clock: of a plan.
      band: of the datasheet.
      through_host: whether a token goes by the host before the next one starts from it, which is a
        flight; otherwise the wafers go on from their own token.

    Raises:
      OutOfMemory: as `check_buffer`.
    """
    check_buffer(clock.plan, clock.device)
    kept: dict[int, tuple[token.Stage, ...]] = {}

    def read(position: int) -> Sequence[token.Stage]:
        if position not in kept:
            found = clock.stages(position, band)
            kept[position] = tuple(
                stage for stage in found if through_host or stage.name != HOST
            )
        return kept[position]

    return StageTimes(
        regions_of(read(0)),
        lambda position: tuple(stage.cycles for stage in read(position)),
    )


def regions_of(stages: Sequence[token.Stage]) -> tuple[Stage, ...]:
    """A token's stages with the regions that they keep busy."""
    return tuple(Stage(stage.name, _region(stage.name)) for stage in stages)


def _region(stage: str) -> str | None:
    """Embedding and head are on one wafer, in one region; the host works on many tokens at once."""
    if stage == HOST:
        return None
    return ENDS if stage in ("embed", "head") else stage


def between(times: StageTimes, positions: Sequence[int]) -> StageTimes:
    """Reads a few positions, and takes straight lines between them, rounded down.

    Args:
      times: what is read.
      positions: ascending; those in front of the first or behind the last are refused.
    """
    read = [times.at(position) for position in positions]

    def at(position: int) -> Cycles:
        if not positions[0] <= position <= positions[-1]:
            raise ValueError(
                f"position {position}, must be from {positions[0]} to {positions[-1]}"
            )
        ahead = bisect.bisect_left(positions, position)
        if positions[ahead] == position:
            return read[ahead]
        first, last = positions[ahead - 1 : ahead + 1]
        low, high = read[ahead - 1 : ahead + 1]
        # At 3 of 1 to 5, from 10 cycles to 17: 10 + 7 * 2 // 4 = 13.
        done, whole = position - first, last - first
        return tuple(
            a + (b - a) * done // whole for a, b in zip(low, high, strict=True)
        )

    return StageTimes(times.stages, at)


def constant(stages: Sequence[Stage], cycles: Sequence[int]) -> StageTimes:
    """The same cycles at every position: of users with equal contexts, that grow little."""
    own = tuple(cycles)
    return StageTimes(tuple(stages), lambda position: own)


__all__ = [
    "ENDS",
    "Cycles",
    "StageTimes",
    "between",
    "bottleneck",
    "constant",
    "every",
    "regions_of",
]
