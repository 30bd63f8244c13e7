"""How far a precision's logits are from float32: by its formats alone, and on the emulated chip."""

import dataclasses
import functools
from collections.abc import Iterator

import jax.numpy as jnp
import numpy as np

from models.config import ModelConfig
from models.machines.prefill import Prefill
from models.plain.held import held_weights
from models.plain.kv_cache import empty_cache
from models.plain.oracle import jitted_extend
from models.plain.weights import Weights
from models.precision import Precision, Taken

FORMATS_ALONE, EMULATED = "formats alone", "emulated"


@dataclasses.dataclass(frozen=True)
class Errors:
    """Differences from float32's logits.

    Attributes:
      plan: of the precision.
      source: `FORMATS_ALONE`: weights and activations are what formats make of them and all else is
        float32; or `EMULATED`: the chip's, of the last token.
      positions: of the prompt that were compared.
      rms: root mean square of differences, over that of the logits.
      largest: of the differences, absolute.
      agreement: share of positions whose greatest logit is the same token's.
      margin: median of float32's greatest logit less its second greatest.
      lost: the largest of these margins where the greatest is another token's; 0: nowhere.
    """

    plan: str
    source: str
    positions: int
    rms: float
    largest: float
    agreement: float
    margin: float
    lost: float


@dataclasses.dataclass(frozen=True, eq=False)
class Prompt:
    """A model and the prompt that it is asked.

    Attributes:
      config, weights: of the model.
      ids: tokens.
    """

    config: ModelConfig
    weights: Weights
    ids: list[int]

    @functools.cached_property
    def exact(self) -> np.ndarray:
        """The oracle's logits, float32 `[positions, vocabulary]`."""
        return self._logits(self.weights, None)

    def by_formats(self, plan: Precision) -> Errors:
        """What the formats do alone."""
        weights = held_weights(self.config, self.weights, plan)
        found = self._logits(weights, plan)
        return errors(plan.name, FORMATS_ALONE, found, self.exact)

    def emulated(self, plan: Precision, cores: int) -> Errors:
        """What the emulated chip gives for the last token."""
        machine = Prefill(
            self.config,
            self.weights,
            tokens=len(self.ids),
            chips=1,
            cores=cores,
            dtype=plan,
        )
        found = machine.run(self.ids).logits[None]
        return errors(plan.name, EMULATED, found, self.exact[-1:])

    def _logits(self, weights: Weights, plan: Precision | None) -> np.ndarray:
        cache = empty_cache(self.config, 1, len(self.ids))
        tokens = jnp.asarray([self.ids], jnp.int32)
        held = Taken() if plan is None else plan.taken
        logits, _ = jitted_extend(self.config, weights, tokens, cache, None, held)
        return np.asarray(logits[0])


def errors(plan: str, source: str, found: np.ndarray, exact: np.ndarray) -> Errors:
    """Differences of logits `[positions, vocabulary]`."""
    apart = found.astype(np.float64) - exact
    second, greatest = np.partition(exact, -2, axis=-1)[:, -2:].T
    margins = greatest - second
    same = found.argmax(-1) == exact.argmax(-1)
    scale = np.sqrt(np.square(exact.astype(np.float64)).mean())
    return Errors(
        plan,
        source,
        len(exact),
        rms=float(np.sqrt(np.square(apart).mean()) / scale),
        largest=float(np.abs(apart).max()),
        agreement=float(same.mean()),
        margin=float(np.median(margins)),
        lost=float(margins[~same].max(initial=0.0)),
    )


def compared(
    prompt: Prompt, plans: list[Precision], carried_out: list[Precision], cores: int
) -> Iterator[Errors]:
    """The errors of each plan; on the chip of those that it has kernels for."""
    for plan in plans:
        if not plan.is_plain:
            yield prompt.by_formats(plan)
        if plan in carried_out:
            yield prompt.emulated(plan, cores)


__all__ = ["EMULATED", "FORMATS_ALONE", "Errors", "Prompt", "compared", "errors"]
