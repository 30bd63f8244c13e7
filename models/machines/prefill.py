"""Prefill on a ring of Trainium3 chips: packed weights, and one program to run and to read.

Tokens are spread over the chips; heads, FFN columns and vocabulary over the cores of each chip.
Tokens stand alike in all layers, whatever attention each has; which tiles and hops are skipped is
each layer's own.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from emu import Device, Known, Program, Reading
from emu.annotations import DType, PyTree
from emu.trainium.datasheets import TRN3, NeuronCoreSheet
from kernels.formats.formats import of_activations
from kernels.moe.mesh.form import MoeForm
from kernels.moe.mesh.places import Order
from kernels.tokens.placement import Placement
from kernels.trainium.gemm.mx_pack import elements_of
from kernels.trainium.layer.cached import CodedPart
from kernels.trainium.layer.form import Positions
from kernels.trainium.layer.ring import (
    layer_ring,
)
from kernels.trainium.stages.latent import LatentForm
from kernels.wse.decode.layout import CodedTokens
from models.attention_pattern import Attention, pattern_of
from models.config import ModelConfig
from models.family_attention import own_attention
from models.machines.layer_weights import check_forms, check_layer_weights
from models.machines.pack import pack_weights, weight_specs
from models.machines.precisions import mx_of, of_prefill
from models.machines.prefill_experts import (
    Mixtures,
    PrefillExperts,
    experts_of,
    mixture_structs,
)
from models.machines.prefill_forms import (
    layer_runs,
    position_tables,
    table_structs,
)
from models.machines.prefill_kernel import (
    CHIP,
    CORE,
    KernelForm,
    prefill_kernel,
)
from models.machines.prefill_results import Gathering
from models.machines.prompt_layout import choose_placement, layer_tiling, scores_of
from models.machines.tensor_parallel import divide_model
from models.machines.useful_flops import useful_flops
from models.precision import Precision


@dataclasses.dataclass(frozen=True)
class PrefillResult:
    """What prefill computed.

    Attributes:
      token: the first generated token, the lowest id among the largest logits.
      logits: float32 `[vocabulary]` of the last prompt token.
      k: `[layers, tokens, kv_heads, head_dim]`, rotated, in the prefill's dtype; of latents, what
        turns of keys, `[layers, tokens, turned]`.
      v: the same shape; of latents, these after their norm, `[layers, tokens, rank]`. Of a cache in
        codes, both as they are handed over.
      counts: of layers with experts, int `[layers, chips, experts]`: how many of each chip's tokens
        chose each expert; `Prefill.read` takes them. None: no layer has experts.
    """

    token: int
    logits: np.ndarray
    k: np.ndarray | CodedTokens
    v: np.ndarray | CodedTokens
    counts: np.ndarray | None = None


class Compiled(NamedTuple):
    """A prefill compiled for a prompt, to be handed to `Prefill.run`.

    Attributes:
      call: what runs.
      counts: of the prompt, as `PrefillResult.counts`; None: no layer has experts.
    """

    call: Callable[..., Any]
    counts: np.ndarray | None


@dataclasses.dataclass(frozen=True)
class PrefillReading:
    """The clock of one prefill under one band.

    Attributes:
      clock: times and counts of the whole program.
      layer_done_s: when each layer's keys and values stand complete in the last chip's HBM.
    """

    clock: Reading
    layer_done_s: list[float]


def _prefill_reading(clock: Reading, runs: int, parts: int) -> PrefillReading:
    """The reading of a prefill of so many runs, whose keys have so many parts, as their values."""
    # Parts of keys of every run and then of values, stacked over layers, each ready at its time.
    count = runs * parts
    leaves = clock.outputs[-2 * count : -count], clock.outputs[-count:]
    tick_hz = clock.device.tick_hz
    done_s = []
    for run in range(runs):
        own = [
            each.steps or []
            for kind in leaves
            for each in kind[run * parts : (run + 1) * parts]
        ]
        # A layer can be handed over once the last core has stored all of them.
        for of_layer in zip(*own, strict=True):
            done_s.append(int(max(np.max(ticks) for ticks in of_layer)) / tick_hz)
    return PrefillReading(clock, done_s)


class Prefill:
    """One model's prefill of prompts of one length on a ring of chips.

    Attributes:
      precision: what weights, activations and the cache are held in.
      dtype: of what is not in codes.
      shares: what each core of a chip holds.
      tiling: how a core's share of a layer is cut.
      kinds: which of `rings` each layer has, int32 `[layers]`.
      choices: what each layer of each run has of its form's alternatives.
      rings: the prompt's, one for each distinct variant of attention.
      experts: the layers' mixtures of experts; None: none has one.
    """

    def __init__(
        self,
        config: ModelConfig,
        weights: PyTree,
        *,
        tokens: int,
        chips: int,
        cores: int = 1,
        dtype: DType | Precision,
        placement: str = "contiguous",
        attention: Attention = None,
        chip: NeuronCoreSheet = TRN3,
    ):
        """Packs the weights.

        Args:
          config: sizes.
          weights: canonical pytree of arrays, or of `ShapeDtypeStruct` to read the clock only.
          tokens: prompt length, at least 1.
          chips: size of the ring, at least 1.
          cores: NeuronCores of each chip that run, at least 1.
          dtype: of weights, activations and the cache, or what each is held in; sums are float32.
          placement: of the prompt's tokens on the chips, one of `PLACEMENTS`, or `auto`: the one
            with the least work on the busiest chip, hop by hop, over all layers.
          attention: a variant for all layers, or several as a pattern over them; None: the model's
            own.
          chip: whose SBUF the tiles are cut for.

        Raises:
          ModelError: `attention` is none of a model of so many layers, or there are no kernels for
            `dtype`.
          CannotLower: a variant that no engine carries out, with its line.
        """
        check_forms(config, "prefill")
        check_layer_weights(weights["layers"], config, "prefill")
        if attention is None:
            attention = own_attention(config, weights)
        self.config = config
        self.tokens = tokens
        self.chips = chips
        self.cores = cores
        self.precision = of_prefill(dtype, config, cores)
        self.dtype = jnp.dtype(self.precision.wide)
        mx, of_experts = mx_of(self.precision)
        given, held = self.precision.taken.weights, self.precision.weights
        taken = None if given is None else of_activations(given)
        # Neighbours that share a scale stay on one core.
        together = 1 if held.block is None else held.block[0]
        self.shares = divide_model(config, cores, together or 1)
        tiling_for = functools.partial(
            layer_tiling,
            config,
            self.shares,
            math.ceil(tokens / chips),
            self.dtype,
            chip=chip,
            elements=elements_of(mx),
            expert_elements=elements_of(of_experts),
            by_token=taken if mx is None else None,
            weights=held if held.is_coded and taken is None else None,
            cache=self.precision.cache if self.precision.cache.is_coded else None,
        )
        pattern = pattern_of(attention, config.num_hidden_layers)
        self.varied = pattern is not None
        # All layers have one scale.
        scale = config.forms[0].attention.scale
        scores = scores_of(pattern, self.shares, scale)
        self.kinds = np.zeros(config.num_hidden_layers, np.int32)
        if pattern is not None:
            self.kinds = pattern.kinds(config.num_hidden_layers)
        if placement == "auto":
            shares = np.bincount(self.kinds)
            weighted = list(zip(scores, shares.tolist(), strict=True))
            placement = choose_placement(tiling_for, tokens, chips, weighted)
        self.placement = placement
        self.tiling = tiling_for(placement)
        self.rings = tuple(
            layer_ring(
                self.tiling,
                tokens=tokens,
                chips=chips,
                axis=CHIP,
                placement=placement,
                scores=of_layer,
            )
            for of_layer in scores
        )
        real = self.where.positions() < tokens
        self.experts = experts_of(config, self.tiling, cores, real, of_experts, mx)
        mixture = self.experts and self.experts.smallest
        self.weights = pack_weights(
            config, weights, self.tiling, self.shares, mixture, held, self._latent
        )
        self.runs, self.choices = layer_runs(config, self.kinds.tolist())
        self._programs: dict[MoeForm | None, Program] = {}

    # --- programs ---

    @property
    def program(self) -> Program:
        """The kernel on its mesh; run and read alike. Experts are all chosen equally often."""
        return self.program_for()

    def program_for(self, counts: Any = None) -> Program:
        """The kernel with room for counts, as `read` takes them."""
        if self.experts is None:
            return self._program(None)
        return self._program(self.experts.form(self.experts.counts(counts)))

    def _program(self, mixture: MoeForm | None) -> Program:
        if mixture in self._programs:
            return self._programs[mixture]
        mesh = {CHIP: self.chips}
        core_axis = CORE if self.cores > 1 else None
        # Experts are dealt over an axis of cores, be it of one.
        if core_axis or mixture:
            mesh[CORE] = self.cores
        form = KernelForm(
            self.tiling,
            self.rings,
            self.runs,
            core_axis,
            self.owner,
            self._last[1],
            embedding_scale=self.config.embedding_scale,
            logit_soft_cap=self.config.logit_soft_cap,
            mixture=mixture,
            latent=self._latent,
        )
        by_chip = (CHIP,)
        program = Program(
            functools.partial(prefill_kernel, form=form),
            mesh,
            in_specs=(
                weight_specs(self.weights, core_axis, (CHIP, CORE)),
                by_chip,  # ids
                by_chip,  # positions
                tuple((by_chip, (), (), ()) for _ in self.rings),  # given
                (),  # choices
                _mixture_specs(self._given_experts()),
            ),
        )
        self._programs[mixture] = program
        return program

    @property
    def _latent(self) -> LatentForm | None:
        """The projections before latent attention; None where no layer has it."""
        if self.tiling.latent is None:
            return None
        # Key tiles are the same for all variants.
        span = self.rings[0].sides.tiling.span
        return LatentForm.of_layer(self.tiling, span, *mx_of(self.precision))

    def _given_experts(self, counts: Any = None) -> Mixtures | None:
        if self.experts is None:
            return None
        counts = self.experts.counts(counts)
        return self.experts.given(self.experts.form(counts), counts)

    # --- where tokens stand ---

    @property
    def where(self) -> Placement:
        """The placement of the prompt's tokens."""
        return self.rings[0].where

    @property
    def owner(self) -> int:
        """The chip that holds the prompt's last token."""
        return self._last[0]

    @functools.cached_property
    def _last(self) -> tuple[int, int]:
        """Chip and slot of the prompt's last token."""
        # Of full chips the last has it contiguously and chip 0 in zigzag; padding moves it besides.
        chip, slot = np.argwhere(self.where.positions() == self.tokens - 1)[0]
        return int(chip), int(slot)

    @property
    def held(self) -> list[int]:
        """Tokens that each chip holds, without padding."""
        # Padding stands at positions behind the prompt's.
        return (self.where.positions() < self.tokens).sum(1).tolist()

    @functools.cached_property
    def tables(self) -> Positions:
        """Tables of every chip's positions."""
        positions, shape = self.where.positions(), self._token_shape[1:]
        return position_tables(self.config, positions, self.tokens, shape)

    @property
    def _token_shape(self) -> tuple[int, int, int, int]:
        """The axes of what there is one of a token."""
        tiling = self.tiling
        return self.chips, tiling.blocks, tiling.tiles, tiling.rows

    # --- on numbers ---

    def arguments(self, prompt: list[int], counts: Any = None) -> tuple[PyTree, ...]:
        """The program's arguments for a prompt; padding repeats token 0, which no query sees.

        Args:
          prompt: token ids.
          counts: as `read` takes them.
        """
        return self._arguments(prompt, self._given_experts(counts))

    def _arguments(
        self, prompt: list[int], mixtures: Mixtures | None
    ) -> tuple[PyTree, ...]:
        ids = self.where.spread(np.asarray(prompt, np.int32))
        given, own_mixtures = jax.tree.map(
            lambda x: jnp.asarray(x.value if isinstance(x, Known) else x),
            ([ring.given() for ring in self.rings], mixtures),
            is_leaf=lambda x: isinstance(x, Known),
        )
        return (
            self.weights,
            jnp.asarray(ids.reshape(self._token_shape)),
            jax.tree.map(jnp.asarray, self.tables),
            tuple(given),
            jax.tree.map(jnp.asarray, self.choices),
            own_mixtures,
        )

    def counts(self, prompt: list[int]) -> np.ndarray | None:
        """How many of each chip's tokens choose each expert: int `[layers, chips, experts]`.

        Layers are those that have experts; None: there are none. They are found by a prefill with
        room for whatever is chosen, as what a layer's tokens choose depends on all layers before.
        """
        if self.experts is None:
            return None
        _, counts, _, _ = self._found(prompt, self.experts)
        return _by_layer(counts)

    def _found(self, prompt: list[int], experts: PrefillExperts) -> Any:
        """What the program computes with room for whatever is chosen."""
        form = experts.open
        given = self._arguments(prompt, experts.given(form, None))
        return self._program(form).compiled(*given)

    def compile(self, prompt: list[int]) -> Compiled:
        """The compiled program, to be handed to `run`."""
        counts = self.counts(prompt)
        given = self.arguments(prompt, counts)
        lowered = self.program_for(counts).compiled.lower(*given)  # type: ignore
        return Compiled(lowered.compile(), counts)

    def run(self, prompt: list[int], compiled: Compiled | None = None) -> PrefillResult:
        """Prefills a prompt of `tokens` tokens.

        Layers with experts need no program for the prompt's own counts: what each token computes is
        the same in one with room for whatever is chosen. `compiled` is for those counts, the one
        that is timed.

        Args:
          prompt: token ids.
          compiled: for this prompt.

        Raises:
          LimitExceeded: `compiled` is for a prompt whose tokens choose other experts.
        """
        known = None
        if compiled is not None:
            call, known = compiled
            made = call(*self.arguments(prompt, known))
        elif self.experts is not None:
            made = self._found(prompt, self.experts)
        else:
            made = self.program.compiled(*self.arguments(prompt))
        pieces, counted, keys, values = made
        if self.experts is None and self.cores == 1:
            # The mesh has no axis of cores.
            expanded = jax.tree.map(lambda x: x[:, None], (pieces, keys, values))
            pieces, keys, values = expanded
        counts = None
        if self.experts is not None:
            counts = _by_layer(counted)
            if known is not None:
                self.experts.same(known, counts)
        # Behind chips and cores: layers.
        k, v = (
            jax.tree.map(lambda *runs: jnp.concatenate(runs, axis=2), *each)
            for each in (keys, values)
        )
        gathering = Gathering(
            self.shares,
            self.where,
            self.owner,
            self.config.vocab_size,
            self.config.head_dim,
            of_latents=self.tiling.latent is not None,
        )
        token, logits = gathering.first_token(pieces), gathering.logits(pieces)
        put_together = gathering.cache
        if self.tiling.cache is not None:
            put_together = gathering.coded_cache
        return PrefillResult(token, logits, *put_together(k, v), counts)

    # --- on the clock ---

    def read(
        self, device: Device, counts: Any = None, **options: Any
    ) -> PrefillReading:
        """Reads the clock; needs no data.

        Args:
          device: the machine.
          counts: of tokens that chose each expert, in the layers that have experts: int
            `[layers, chips, experts]`, as `run` tells them, or `[layers, experts]` of all chips;
            None: every expert equally often.
          **options: of `emu.Program.read`.

        Raises:
          EmulationError: the program does not fit the machine, or counts are of no prompt.
          ModelError: counts are not of these layers.
        """
        program = self.program_for(counts)
        clock = program.read(device, *self.abstract(counts), **options)
        return _prefill_reading(clock, *self._outputs)

    def read_bands(
        self, chip: NeuronCoreSheet, counts: Any = None
    ) -> dict[str, PrefillReading]:
        """Reads the clock under every band of a datasheet in one pass; counts as for `read`."""
        program = self.program_for(counts)
        clocks = program.read_bands(chip, *self.abstract(counts))
        return {
            band: _prefill_reading(clock, *self._outputs)
            for band, clock in clocks.items()
        }

    @property
    def _outputs(self) -> tuple[int, int]:
        """Runs, and how many buffers keys of each have, as values."""
        parts = len(CodedPart._fields) if self.tiling.cache is not None else 1
        return len(self.choices), parts

    def memory(self, device: Device) -> dict[str, int]:
        """Peak bytes per memory space of one core.

        Raises:
          OutOfMemory: a space is too small.
        """
        return self.program.memory(device, *self.abstract())

    def release(self) -> None:
        """Drops the packed weights; the clock can still be read."""
        self.weights = self.abstract()[0]

    def abstract(self, counts: Any = None) -> tuple[PyTree, ...]:
        """Shapes and dtypes of `arguments`; counts as for `read`."""
        mixtures = self._given_experts(counts)
        struct = jax.ShapeDtypeStruct
        tokens = self._token_shape
        return (
            jax.tree.map(lambda x: struct(x.shape, x.dtype), self.weights),
            struct(tokens, jnp.int32),
            table_structs(self.config, self.chips, tokens[1:]),
            tuple(ring.abstract() for ring in self.rings),
            jax.tree.map(Known, self.choices),
            None if mixtures is None else mixture_structs(mixtures),
        )

    @property
    def useful_flops(self) -> int:
        """FLOPs the model itself asks for: no padding, no masked scores; multiply-add counts 2."""
        if not self.varied:
            return useful_flops(self.config, self.tokens)
        pairs = sum(self.rings[kind].pairs for kind in self.kinds)
        return useful_flops(self.config, self.tokens, pairs)


def _mixture_specs(mixtures: Mixtures | None) -> Any:
    """Which of a kernel's tables and known integers differ along which mesh axes."""
    if mixtures is None:
        return ()
    own: Any = (CORE,)
    by_chip: Any = () if mixtures.tables.real is None else (CHIP,)
    tables = Order((), own, (), by_chip)  # type: ignore[arg-type]
    works: Any = tuple(
        () if work is None else (None, CHIP, CORE) for work in mixtures.works
    )
    return Mixtures(tables, works)


def _by_layer(counted: Any) -> np.ndarray:
    """Counts of runs, `[chips, cores, layers, 1, experts]`, as `[layers, chips, experts]`."""
    # Every core of a chip counts all of its tokens.
    by_run = [np.asarray(of_run)[:, 0, :, 0] for of_run in counted]
    return np.concatenate(by_run, axis=1).swapaxes(0, 1).astype(np.int64)


__all__ = ["Compiled", "Prefill", "PrefillReading", "PrefillResult"]
