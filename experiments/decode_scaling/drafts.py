"""What draft tokens would make of a speed: the best number of them, if most are right.

The published speeds do not say how many drafts were right, nor what made them. So one assumption
serves all models: each draft token is right with one probability, and takes a share of what the
model itself takes for a token. A pipeline of regions takes the drafts one behind another, so that
checking them costs its slowest region once each, and not its whole depth.

Of a token of 1,000 us with a slowest region of 30, drafts of 100 us each, right with 0.8: four of
them give 3.36 tokens in 4 x 100 + 1,000 + 4 x 30 = 1,520 us, 2.2 times as many.
"""

import dataclasses

from emu.datasheet import Quantity
from models.serving.foretold import tokens_a_round

MOST_AHEAD = 16

RIGHT = Quantity(
    0.8,
    "assumed",
    "of draft tokens, those that are right; `serving --measure smollm2` finds 0.72 to 0.93 of a "
    "model that drafts for itself in MXFP4 and MXFP8; high: a smaller draft, not measured here",
    0.9,
    0.6,
)
SHARE = Quantity(
    0.1,
    "assumed",
    "of a token's time, a draft token's: a model of a tenth of the layers, half and twice as many",
    0.05,
    0.2,
)


@dataclasses.dataclass(frozen=True)
class Drafted:
    """A speed with draft tokens.

    Attributes:
      ahead: how many a round has.
      tokens_per_s: of one user.
    """

    ahead: int
    tokens_per_s: float


def drafted(latency_s: float, bottleneck_s: float, band: str = "nominal") -> Drafted:
    """The fastest number of draft tokens under a band of both assumptions.

    Args:
      latency_s: of a token through the pipeline.
      bottleneck_s: of its slowest region.
      band: `low` is the shortest time: most are right, and they cost least.
    """
    right, share = RIGHT.at(band), SHARE.at(band)

    def speed(ahead: int) -> float:
        drafts_s = ahead * share * latency_s
        checked_s = latency_s + ahead * bottleneck_s
        return tokens_a_round(right, ahead) / (drafts_s + checked_s)

    best = max(range(MOST_AHEAD + 1), key=speed)
    return Drafted(best, speed(best))


__all__ = ["MOST_AHEAD", "Drafted", "drafted"]
