"""One request through both machines: prefill on the ring, hand-off, decode on the wafer."""

import dataclasses
from collections.abc import Callable, Iterator

import numpy as np

from emu import BANDS
from emu.annotations import DType
from emu.report.bands import Bound, banded, bound
from emu.trainium.datasheets import TRN3, System, on_system, with_cores
from emu.wse.datasheets.datasheet import WSE3
from kernels.wse.decode.layout import CodedTokens
from models.attention_pattern import Attention
from models.config import ModelConfig
from models.errors import ModelError
from models.machines.decode import Decoder, StepReading
from models.machines.handoff import Handoff, Source, Way, handoff, landings
from models.machines.handoff.fields import as_format
from models.machines.precisions import prefilled_as
from models.machines.prefill import Prefill, PrefillReading
from models.plain.held import held_weights
from models.plain.weights import Weights
from models.precision import Precision, as_precision

MOST_STEPS = 3  # decode steps whose clock is read: first, middle, last


@dataclasses.dataclass(frozen=True)
class Clock:
    """What one request took, per band.

    Attributes:
      prefill, handoff: readings by band; `handoff` streams layer by layer.
      bulk: the same hand-off sent after the whole prefill.
      steps: per band, readings of decode steps by position, in order; of every step, or under
        causal attention of `MOST_STEPS` spread evenly from the first to the last.
      decoded: how many steps were taken.
      prefill_bound, decode_bound: what bounds each machine, nominal.
    """

    prefill: dict[str, PrefillReading]
    handoff: dict[str, Handoff]
    bulk: dict[str, Handoff]
    steps: dict[str, list[StepReading]]
    decoded: int
    prefill_bound: Bound
    decode_bound: Bound | None

    def ttft_parts_s(self, band: str) -> dict[str, float]:
        """Time to first token: prefill with its logits, then the part of the hand-off not hidden.

        The first token is chosen on Trainium; it is shown when the wafer holds the sequence and
        can go on with it.
        """
        return {
            "prefill": self.prefill[band].clock.seconds,
            "handoff_exposed": self.handoff[band].exposed_s,
        }

    def ttft_s(self, band: str) -> float:
        """Time to first token, the sum of its parts."""
        return sum(self.ttft_parts_s(band).values())

    def decode_total(self, count: Callable[[StepReading], int]) -> int:
        """A count summed over all decode steps, nominal.

        Every step has one more live cache slot than the one before, so counts grow by a constant;
        where not every step was read, the sum is that of the arithmetic progression: 500 steps
        from 1,000 to 1,998 count `500 · (1,000 + 1,998) / 2`.
        """
        counts = [count(step) for step in self.steps["nominal"]]
        if len(counts) == self.decoded:
            return sum(counts)
        # A whole number: n steps from a by s count n · (2 a + (n - 1) · s) / 2, and n · (n - 1) is
        # even.
        return self.decoded * (counts[0] + counts[-1]) // 2


class Disaggregated:
    """One model on both machines, for prompts of one length.

    Attributes:
      prefill: the Trainium side.
      chip: the Trainium datasheet with as many cores running as prefill uses.
      prefill_peaks: its peak bytes by memory space, of one core.
      decoder: the wafer side.
      precision: what the plan has weights, activations and the cache in.
      prefill_precision: what prefill has them in. Where that is one wide dtype, its weights are the
        numbers that the plan's codes stand for.
    """

    def __init__(
        self,
        config: ModelConfig,
        weights: Weights,
        *,
        tokens: int,
        new_tokens: int,
        chips: int,
        cores: int = 1,
        dtype: DType | Precision,
        placement: str = "contiguous",
        system: System | None = None,
        attention: Attention = None,
        users: int = 1,
        wafers: int | None = None,
    ):
        """Lays the weights out on both machines.

        Args:
          config: sizes.
          weights: canonical pytree.
          tokens: prompt length.
          new_tokens: most tokens to generate.
          chips: size of the prefill ring.
          cores: NeuronCores of each chip that share its heads, FFN and vocabulary.
          dtype: of weights, activations and cache on both machines, or a plan with some of them in
            codes; see `precision` and `prefill_precision`.
          placement: of the prompt's tokens on the chips, see `Prefill`.
          system: whose links join the chips; None puts each one hop from the next.
          attention: a variant for all layers, or several as a pattern over them; None: causal.
          users: whose caches, each of prompt and answer, stand on the wafers.
          wafers: that the model is cut over; None: the fewest that hold it.

        Raises:
          CannotLower: a variant that a machine cannot carry out, with its line.
          ModelError: prompt and answer exceed the model's context, or `attention` is none of it.
          EmulationError: the model does not fit a machine.
        """
        check_context(config, tokens, new_tokens)
        self.config = config
        self.precision = as_precision(dtype)
        self.prefill_precision = prefilled_as(self.precision, config, cores)
        self.dtype = self.precision.wide
        self.tokens = tokens
        context = tokens + new_tokens
        self.decoder = Decoder(
            config,
            weights,
            context=context,
            dtype=self.precision,
            device=WSE3.at(),
            attention=attention,
            users=users,
            wafers=wafers,
        )
        self.chip = with_cores(TRN3, cores)
        if system is not None:
            self.chip = on_system(self.chip, system)
        prefilled = weights
        if self.prefill_precision.is_plain:
            prefilled = held_weights(config, weights, self.precision)
        self.prefill = Prefill(
            config,
            prefilled,
            tokens=tokens,
            chips=chips,
            cores=cores,
            dtype=self.prefill_precision,
            placement=placement,
            attention=attention,
            chip=self.chip,
        )
        self.prefill_peaks = self.prefill.memory(self.chip.at())

    def decode(
        self, token: int, k: np.ndarray | CodedTokens, v: np.ndarray | CodedTokens
    ) -> Iterator[tuple[int, np.ndarray]]:
        """Tokens after the first, greedily, without end: `(token, logits [vocabulary])`."""
        cache = self.decoder.cache_from(k, v)
        # `token` was chosen by prefill, and is not in the cache yet: it stands behind the prompt.
        position = self.tokens
        while True:
            chosen, logits, cache = self.decoder.step(token, position, cache)
            token, position = int(chosen), position + 1
            yield token, np.asarray(logits)

    def read(
        self,
        generated: int,
        progress: Callable[[str], None] = lambda stage: None,
        counts: np.ndarray | None = None,
    ) -> Clock:
        """Reads the clock of a request that generated so many tokens, under every band.

        Args:
          generated: tokens, the first by prefill.
          progress: told each stage.
          counts: of experts' tokens in prefill, such as `PrefillResult.counts`; None: every expert
            is chosen equally often.
        """
        progress("prefill")
        prefill = self.prefill.read_bands(self.chip, counts)
        critical = self.prefill.read(self.chip.at(), counts, contended=False)
        progress("hand-off")
        layered = banded(lambda band: self.handoff(prefill[band], band, "layer"))
        bulk = banded(lambda band: self.handoff(prefill[band], band, "bulk"))
        progress("decode")
        # Prefill made the first of the generated tokens.
        positions = self.read_positions(generated - 1)
        steps = {
            band: [self.decoder.read(position, band) for position in positions]
            for band in BANDS
        }
        # Of the first step, which stands for all: each has one slot more to read than the one
        # before.
        decode_bound = self.decoder.bound(self.tokens) if generated > 1 else None
        return Clock(
            prefill,
            layered,
            bulk,
            steps,
            generated - 1,
            bound(prefill["nominal"].clock, critical.clock),
            decode_bound,
        )

    def read_positions(self, steps: int) -> list[int]:
        """Positions of the decode steps whose clock is read, of so many."""
        # Counts of a window do not grow by a constant, so that none may be left out.
        if self.decoder.varied:
            return list(range(self.tokens, self.tokens + steps))
        return spread(self.tokens, steps)

    def handoff(self, reading: PrefillReading, band: str, stream: str) -> Handoff:
        """The hand-off of this prompt's cache after a prefill read under `band`."""
        source = Source(
            positions=self.prefill.where.positions(),
            tokens=self.tokens,
            stored=as_format(self.prefill_precision.cache),
            layer_done_s=reading.layer_done_s,
            prefill_s=reading.clock.seconds,
            cores=self.prefill.cores,
            chip=self.chip,
        )
        regions = landings(self.decoder.plan)
        return handoff(source, regions, way=Way(stream=stream), band=band)


def spread(first: int, count: int) -> list[int]:
    """Positions of decode steps to read: all of `count`, or `MOST_STEPS` with both ends.

    `spread(37, 500)` is `[37, 286, 536]`.
    """
    if count <= MOST_STEPS:
        return list(range(first, first + count))
    return [first + i * (count - 1) // (MOST_STEPS - 1) for i in range(MOST_STEPS)]


def check_context(config: ModelConfig, tokens: int, new_tokens: int) -> None:
    """Raises `ModelError` where prompt and answer exceed the model's context."""
    limit = config.max_position_embeddings
    if tokens + new_tokens > limit:
        raise ModelError(
            f"the prompt has {tokens} tokens and {new_tokens} are to be generated, but the context "
            f"of {config.name} is {limit}; shorten the prompt or lower --tokens"
        )
