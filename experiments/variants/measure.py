"""One variant, measured: its values against the dense oracle, and its time at the asked size."""

import dataclasses
import math
from typing import NamedTuple

import jax
import numpy as np

from experiments.variants.request import Asked
from kernels.attention.clock import VariantTime
from kernels.attention.live_tiles import LiveTiles, live_tiles
from kernels.attention.protocol import AttentionVariant
from kernels.attention.variant import Variant
from kernels.trainium.context.score_plan import ScorePlan
from kernels.variants import Sizes, draw

Array = jax.Array | np.ndarray

# Values are computed at a size where every tile is cut and every chip has something to do.
SMALL = Sizes(tokens=64, heads=4, kv_heads=2, head_dim=16)
SMALL_CHIPS = 2
SMALL_TILES = {"columns": 16, "lanes": 4}


class Errors(NamedTuple):
    """Of each machine, against the dense oracle."""

    prefill: float
    decode: float


@dataclasses.dataclass(frozen=True)
class Row:
    """What was found of a variant.

    Attributes:
      name: of the variant.
      errors: of the prefill's and of the decode's output, the largest difference from the dense
        oracle's, over the largest value; None where they were not computed.
      clock: of both machines.
    """

    name: str
    errors: Errors | None
    clock: VariantTime


def check(asked: Asked, sizes: Sizes) -> None:
    """Refuses a variant that cannot be carried out, before anything is measured.

    Raises:
      EmulationError: with the user's line.
    """
    with asked.errors_in_one_line():
        variant, _ = asked.of(sizes)
        # Of a variant made of another it is the other's functions that a user wrote.
        if isinstance(variant, Variant) and variant.reading.score is not None:
            ScorePlan.of(variant.reading.score)


def measure(asked: Asked, sizes: Sizes, *, chips: int, cores: int) -> Row:
    """Reads a variant's clock.

    Args:
      asked: which.
      sizes: of the prefill that is timed, and of the cache behind which a token is decoded.
      chips, cores: of its mesh.
    """
    with asked.errors_in_one_line():
        variant, own = asked.of(sizes)
        of_chip = math.gcd(cores, own.heads)
        clock = variant.time(
            tokens=own.tokens,
            heads=own.heads,
            kv_heads=own.kv_heads,
            head_dim=own.head_dim,
            batch=own.batch,
            keys=own.keys,
            chips=chips,
            cores=of_chip,
        )
    name = asked.name
    if of_chip < cores:
        name = f"{name}, {of_chip} of {cores} cores"
    return Row(name, None, clock)


def errors(asked: Asked) -> Errors:
    """Computes a variant's values, at the size `SMALL`."""
    with asked.errors_in_one_line():
        return _errors(*asked.of(SMALL))


def tiles_of(asked: Asked, sizes: Sizes, *, chips: int) -> LiveTiles | None:
    """Which tiles are live; None of a variant whose operands are not queries, keys and values."""
    with asked.errors_in_one_line():
        variant, own = asked.of(sizes)
        if not isinstance(variant, Variant):
            return None
        return live_tiles(variant.reading, chips=chips, **dataclasses.asdict(own))


def _errors(variant: AttentionVariant, sizes: Sizes) -> Errors:
    """Of a prefill, and of the decode of the token behind its keys."""
    drawn = draw(variant, *sizes.shapes)
    whole, _ = variant.dense(*drawn.whole)
    prefilled, _ = variant.prefill(*drawn.whole, chips=SMALL_CHIPS, **SMALL_TILES)
    decoded, _ = variant.decode(*drawn.newest)
    row, _ = variant.dense(*drawn.row, **drawn.at)
    differences = (_apart(prefilled, whole), _apart(decoded, row))
    return Errors(*(x / drawn.largest for x in differences))


def _apart(given: Array, wanted: Array) -> float:
    return float(np.abs(np.asarray(given, np.float64) - np.asarray(wanted)).max())


__all__ = ["Errors", "Row", "check", "errors", "measure", "tiles_of"]
