"""What a precision with codes costs in numbers, and what it saves in bytes and time."""

import argparse
import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from emu.wse.placement.regions import DoesNotFit
from experiments.quickstart.text import MOST_TOKENS, PREFILLED, TEXT
from experiments.shared import systems
from kernels.formats.formats import Format
from models.attention_pattern import Attention, pattern_of
from models.loading.load import Loaded
from models.machines.disaggregated import Clock, Disaggregated
from models.plain import oracle
from models.plain.kv_cache import empty_cache
from models.plain.transformer import from_weights
from models.plain.weights import Weights
from models.precision import Precision, Taken, precision


@dataclasses.dataclass(frozen=True)
class Perplexity:
    """Of `experiments.quickstart.text`, of those tokens that decode predicts.

    Attributes:
      tokens: of the text that were gone through.
      predicted: of them, those behind the prefilled ones.
      machines: under the plan, by the emulated machines' logits.
      oracle: under the plan, by the plain model's.
      float32: of the plain model without a plan.
    """

    tokens: int
    predicted: int
    machines: float
    oracle: float
    float32: float


@dataclasses.dataclass
class CodedRun:
    """What a run under a plan is compared with.

    Attributes:
      plan: of the run.
      held: the weights as the plan holds them.
      wide_tokens, wide_logits: what the plain float32 model generates.
      perplexity: of a fixed text.
      wide: the clock of the same request with everything in the plan's wide dtype; None: the model
        does not fit the machines so.
    """

    plan: Precision
    held: Weights
    wide_tokens: list[int] = dataclasses.field(default_factory=list)
    wide_logits: NDArray[np.float32] = dataclasses.field(init=False)
    perplexity: Perplexity = dataclasses.field(init=False)
    wide: Clock | None = None


def machine_of(
    model: Loaded,
    args: argparse.Namespace,
    dtype: Precision,
    attention: Attention,
    *,
    tokens: int,
    new_tokens: int,
) -> Disaggregated:
    """Both machines as the command line asks for them."""
    return Disaggregated(
        model.config,
        model.weights,
        tokens=tokens,
        new_tokens=new_tokens,
        chips=args.chips,
        cores=args.cores,
        dtype=dtype,
        placement=args.placement,
        system=systems.BY_WORD.get(args.system),
        attention=attention,
    )


def generate_wide(
    run: CodedRun,
    model: Loaded,
    attention: Attention,
    ids: Sequence[int],
    tokens: int,
    stops: frozenset[int],
) -> None:
    """What the plain float32 model says without a plan."""
    weights = jax.tree.map(jnp.asarray, model.weights)
    plain = from_weights(model.config, weights, attention)
    answer, run.wide_logits = oracle.generate(plain, ids, tokens, stops)
    run.wide_tokens = [token for token in answer if token not in stops]


def read_wide(
    run: CodedRun,
    model: Loaded,
    args: argparse.Namespace,
    attention: Attention,
    tokens: int,
    generated: int,
    counts: np.ndarray | None,
) -> None:
    """The clock of the same request without codes."""
    wide = precision(run.plan.wide)
    sizes = {"tokens": tokens, "new_tokens": args.tokens}
    try:
        machine = machine_of(model, args, wide, attention, **sizes)
    except DoesNotFit:
        return
    run.wide = machine.read(generated, counts=counts)


def measure_text(
    run: CodedRun,
    model: Loaded,
    args: argparse.Namespace,
    attention: Attention,
    progress: Callable[[str], None],
) -> None:
    """The perplexity of a fixed text: its first part prefilled, the rest fed to decode."""
    config = model.config
    most = min(MOST_TOKENS, config.max_position_embeddings)
    ids = model.tokenizer.encode(TEXT)[:most]
    prefilled = min(PREFILLED, len(ids) // 2)
    fed = len(ids) - prefilled
    progress("laying out")
    machine = machine_of(
        model, args, run.plan, attention, tokens=prefilled, new_tokens=fed
    )
    progress("prefilling")
    first = machine.prefill.run(ids[:prefilled])
    machine.prefill.release()
    logits = [first.logits]
    cache = machine.decoder.cache_from(first.k, first.v)
    for position in range(prefilled, len(ids) - 1):
        progress(f"token {position + 1} of {len(ids)}")
        _, found, cache = machine.decoder.step(ids[position], position, cache)
        logits.append(np.asarray(found))
    wanted = ids[prefilled:]

    def plain(weights: Weights, held: Taken, cached: Format | None) -> float:
        given = jax.tree.map(jnp.asarray, weights)
        pattern = pattern_of(attention, config.num_hidden_layers)
        cache = empty_cache(config, 1, len(ids))
        first, rest = (
            jnp.asarray([part], jnp.int32)
            for part in (ids[:prefilled], ids[prefilled:-1])
        )
        logits, cache = oracle.jitted_extend(config, given, first, cache, pattern, held)
        before = np.asarray(logits[0])
        cache = oracle.cache_as_held(cache, cached)
        logits, _ = oracle.jitted_extend(
            config, given, rest, cache, pattern, Taken(), cached
        )
        behind = np.asarray(logits[0])
        return perplexity(np.concatenate([before[-1:], behind]), wanted)

    progress("asking the plain model")
    run.perplexity = Perplexity(
        len(ids),
        fed,
        perplexity(np.stack(logits), wanted),
        plain(run.held, machine.prefill_precision.taken, machine.precision.cache),
        plain(model.weights, Taken(), None),
    )


def perplexity(logits: NDArray[Any], wanted: Sequence[int]) -> float:
    """`exp` of the mean surprise at tokens, of logits `[tokens, vocabulary]` before each."""
    wide = np.asarray(logits, np.float64)
    top = wide.max(-1, keepdims=True)
    # The largest is taken away first, so that no exponential overflows.
    total = np.log(np.exp(wide - top).sum(-1)) + top[:, 0]
    own = wide[np.arange(len(wanted)), wanted]
    return math.exp(float((total - own).mean()))


__all__ = [
    "CodedRun",
    "Perplexity",
    "generate_wide",
    "machine_of",
    "measure_text",
    "perplexity",
    "read_wide",
]
