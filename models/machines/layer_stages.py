"""A layer's prefill as programs that follow one another: projections, attention, output, MLP.

Tokens are dealt out to the places of a ring (context parallelism), heads and columns to the cores
of a place, which is one chip or several (tensor parallelism), experts to all cores (expert
parallelism). The programs that time a layer of any size compute a small one on numbers.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from emu.annotations import DType
from emu.program import Program
from emu.trainium import TRN3
from emu.trainium.datasheets import NeuronCoreSheet
from emu.trainium.spaces import Hbm
from kernels.attention.latent import Form, LatentSizes, LatentVariant
from kernels.attention.prefill import context_attention
from kernels.moe.mesh import weights as moe_weights
from kernels.moe.mesh.form import MixtureOfExperts, MoeForm
from kernels.moe.mesh.mixture import Mixed, MoeWeights, moe_layer
from kernels.moe.mesh.places import TABLE_SPECS, Order, order
from kernels.moe.mesh.program import MoeMesh, checked_for
from kernels.moe.mesh.work import MoeWork, work
from kernels.trainium.context.attention import ContextAttention
from kernels.trainium.context.latent_program import LatentProgram
from kernels.trainium.gemm.mx_pack import MxFormats
from kernels.trainium.layer.gate import GATES
from kernels.trainium.stages import program as stages
from kernels.trainium.stages import weights as packing
from kernels.trainium.stages.grouped import GroupedForm
from kernels.trainium.stages.latent import LatentForm
from kernels.trainium.stages.program import CHIP, CORE
from kernels.trainium.stages.tiling import StageTiling, stage_tiling
from models.config import ModelConfig
from models.errors import ModelError
from models.family_attention import variant_of
from models.held_bytes import held_as
from models.layer_form import LayerForm
from models.machines.latents import latent_heads
from models.machines.precisions import mx_of, of_prefill
from models.precision import Precision
from models.tensors import tensors_of

LayerWeights: TypeAlias = Mapping[str, Any]
"""A layer's weights by name, `[inputs, outputs]`, as `models.tensors` has them."""


class Stage(NamedTuple):
    """A program and what the clock is told of its arguments.

    Attributes:
      name: of the stage.
      program: what runs.
      arguments: shapes, and known integers.
    """

    name: str
    program: Program
    arguments: tuple[Any, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class LayerStages:
    """One layer of a model, to be run on numbers or timed.

    Attributes:
      config: of the model.
      layer: which of its layers.
      tokens: of the prompt, one sequence; a multiple of `chips`, and of all chips where experts
        follow.
      cached: keys before them that the chips' HBM has already, of earlier chunks of the prompt or
        of one that began alike; a multiple of `chips`. Striped, as `attention_options` may have it,
        every chip finds the keys of its own tokens where earlier chunks left them.
      chips, cores: of the mesh, places of the ring and cores of each chip.
      tensor: chips of each place. They have the same tokens, share heads and columns, and add up
        their parts over their links; a mixture each goes through with its own part of the tokens.
      dtype: of activations and weights, or what each is held in: there are programs for what a
        prefill has kernels for, see `models.machines.precisions`.
      sinks: `[heads]`, where attention has learned scores without a value; None: zeros, which cost
        what others do.
      latent_form: in which multi-head latent attention is computed.
      sheet: of the chip, whose SBUF the tiles must fit.
      attention_options: of `kernels.attention.prefill.context_attention`, such as `scheme`.
      expert_options: of `MoeMesh`, such as `tile_rows`.
    """

    config: ModelConfig
    layer: int
    tokens: int
    chips: int
    cores: int
    dtype: DType | Precision = "bfloat16"
    sinks: Any = None
    latent_form: Form = "expanded"
    sheet: NeuronCoreSheet = TRN3
    attention_options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    expert_options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    cached: int = 0
    tensor: int = 1

    def __post_init__(self) -> None:
        layers = self.config.num_hidden_layers
        if not 0 <= self.layer < layers:
            raise ModelError(
                f"{self.config.name}: layer {self.layer}, must be 0 to {layers - 1}"
            )
        for name, whole, parts in (
            ("tokens", self.tokens, self.chips),
            ("cached tokens", self.cached, self.chips),
            ("query heads", self.config.num_attention_heads, self.sharers),
        ):
            if whole % parts:
                raise ModelError(
                    f"{self.config.name}: {whole} {name} over {parts}, must be a multiple of them"
                )
        if self.mx is None and self.precision.weights.is_coded:
            raise ModelError(
                f"{self.config.name}: stages have products in MX or in one wide dtype, got "
                f"precision {self.precision.name!r}; take mxfp8 or bfloat16"
            )
        told = _not_computed(self.form)
        if told:
            raise ModelError(
                f"{self.config.name}: layer {self.layer} has {', '.join(told)}, which no stage "
                "computes; run the model on the oracle"
            )

    @property
    def form(self) -> LayerForm:
        """What the layer computes."""
        return self.config.forms[self.layer]

    @property
    def sharers(self) -> int:
        """Cores of a place, which share its heads and columns."""
        return self.tensor * self.cores

    # --- what things are held in ---

    @functools.cached_property
    def precision(self) -> Precision:
        """What weights and activations are held in."""
        return of_prefill(self.dtype, self.config, self.sharers)

    @property
    def wide(self) -> DType:
        """Of what is not in codes."""
        return jnp.dtype(self.precision.wide)

    @property
    def mx(self) -> MxFormats | None:
        """What products but experts' have their operands in, where they are in MX."""
        return mx_of(self.precision)[0]

    @property
    def experts_mx(self) -> MxFormats | None:
        """Likewise experts'."""
        return mx_of(self.precision)[1] if self.form.experts else None

    def given(self, weights: LayerWeights) -> LayerWeights:
        """A layer's weights in the dtypes in which they are packed: codes are of float32."""
        return {
            tensor.name: weights[tensor.name]
            if tensor.is_added or held_as(tensor, self.precision).is_coded
            else np.asarray(weights[tensor.name]).astype(self.wide)
            for tensor in tensors_of(self.form)
        }

    # --- sizes ---

    @property
    def heads(self) -> int:
        """Query heads of a core."""
        return self.config.num_attention_heads // self.sharers

    @property
    def kv_heads(self) -> int:
        """KV heads of a core; of fewer than cores each stands on several."""
        whole = max(self.config.num_key_value_heads, self.sharers)
        if whole % self.config.num_key_value_heads or whole % self.sharers:
            raise ModelError(
                f"{self.config.name}: {self.config.num_key_value_heads} KV heads over "
                f"{self.sharers} cores, one must be a multiple of the other"
            )
        return whole // self.sharers

    @functools.cached_property
    def tiling(self) -> StageTiling:
        """Of the tokens of a chip."""
        return stage_tiling(
            hidden=self.config.hidden_size,
            widest=self._widest,
            eps=self.config.rms_norm_eps,
            tokens=self.tokens // self.chips,
            cores=self.cores,
            dtype=self.wide,
            sbuf_partition_bytes=self.sheet.sbuf_partition_bytes,
            mx=self.mx,
            experts_mx=self.experts_mx,
            tensor=self.tensor,
        )

    @property
    def _widest(self) -> int:
        """The most features that a core makes of a token in one stage."""
        config = self.config
        of_heads = (self.heads + 2 * self.kv_heads) * config.key_dim
        of_mlp = (
            0 if self.form.experts else -(-config.intermediate_size // self.sharers)
        )
        latent = self.form.attention.latent
        if latent is None:
            return max(of_heads, of_mlp)
        down = (latent.query_rank or 0) + latent.cached_width
        return max(down + self.heads * latent.key_width, of_mlp)

    @functools.cached_property
    def projection_form(self) -> LatentForm | GroupedForm:
        """Of the projections before attention."""
        attention = self.form.attention
        latent = latent_heads(attention.latent)
        if latent is None:
            turned = 0 if attention.rotation is None else attention.rotation.width
            return GroupedForm(
                self.tiling, self.heads, self.kv_heads, self.config.head_dim, turned
            )
        return LatentForm(self.tiling, self.heads, latent)

    @functools.cached_property
    def moe(self) -> MoeMesh | None:
        """The mixture of experts; None where the layer has an MLP."""
        given = self.form.experts
        if given is None:
            return None
        what = MixtureOfExperts(
            given.routing,
            self.config.hidden_size,
            given.width,
            GATES[self.form.activation],
            router_bias=given.is_biased,
            biases=given.is_biased,
            shared=given.shared_width,
        )
        chips = self.chips * self.tensor
        each, rest = divmod(self.tokens, chips)
        if rest:
            raise ModelError(
                f"{self.config.name}: {self.tokens} tokens over {chips} chips, must be a multiple "
                "of them: each takes its own through the mixture"
            )
        return MoeMesh(
            what,
            chips,
            self.cores,
            each,
            self.wide,
            mx=self.experts_mx,
            others_mx=self.mx,
            **self.expert_options,
        )

    # --- programs ---

    @functools.cached_property
    def projections(self) -> Program:
        """Of `(x, cos, sin, weights)`."""
        form = self.projection_form
        if isinstance(form, LatentForm):
            return stages.latent_program(form, self.chips)
        return stages.grouped_program(form, self.chips)

    @functools.cached_property
    def attention(self) -> ContextAttention | LatentProgram:
        """On its own mesh, of as many chips and cores."""
        form, config = self.form.attention, self.config
        sinks = self.sinks
        if form.has_sinks and sinks is None:
            sinks = np.zeros(config.num_attention_heads, np.float32)
        variant = variant_of(form, sinks)
        options: dict[str, Any] = dict(
            chips=self.chips,
            cores=self.cores,
            tensor=self.tensor,
            dtype=self.wide,
            first_query=self.cached,
        )
        options |= self.attention_options
        heads, keys = config.num_attention_heads, self.cached + self.tokens
        if form.latent is None:
            whole = self.kv_heads * self.sharers
            return context_attention(
                variant.reading,
                q=(1, heads, self.tokens, config.head_dim),
                k=(1, whole, keys, config.head_dim),
                scale=variant.scale,
                **options,
            )
        sizes = LatentSizes(
            batch=1,
            heads=heads,
            queries=self.tokens,
            keys=keys,
            nope=form.latent.plain,
            rope=form.latent.turned,
            rank=form.latent.rank,
            value_dim=form.latent.value_dim,
        )
        latent = LatentVariant(config.name, variant, self.latent_form)
        return latent.program(sizes, mx=self.mx, **options)

    @property
    def placed(self) -> str:
        """The placement of tokens that attention has, one of `kernels.PLACEMENTS`."""
        program = self.attention
        return (
            program.placed
            if isinstance(program, ContextAttention)
            else program.attention.placed
        )

    @functools.cached_property
    def output(self) -> Program:
        """Of `(x, attended, weights)`."""
        return stages.output_program(self.tiling, self.chips)

    @functools.cached_property
    def mlp(self) -> Program:
        """Of `(x, weights)`, where the layer has an MLP."""
        gate = GATES[self.form.activation]
        return stages.mlp_program(self.tiling, gate, self.chips)

    @functools.cached_property
    def joined(self) -> Program:
        """Of a mixture's rows, where the chips of a place had different ones."""
        return stages.joined_program(self.chips, self.tensor, self.cores)

    # --- weights ---

    def packed_projections(self, weights: LayerWeights, xp: Any = np) -> Any:
        """A layer's weights as the projections take them."""
        form = self.projection_form
        if isinstance(form, LatentForm):
            has_rank = form.latent.query_rank is not None
            return packing.latent_weights(
                form,
                norm=weights["attn_norm"],
                query_down=weights["wq_down"] if has_rank else None,
                query_norm=weights["query_norm"] if has_rank else None,
                queries=weights["wq_up" if has_rank else "wq"],
                key_down=weights["wkv_down"],
                latent_norm=weights["latent_norm"],
                xp=xp,
            )
        biases = None
        if self.form.attention.is_biased:
            biases = [weights[name] for name in ("bq", "bk", "bv")]
        return packing.grouped_weights(
            form,
            norm=weights["attn_norm"],
            matrices=[weights[name] for name in ("wq", "wk", "wv")],
            biases=biases,
            q_norm=weights.get("q_norm"),
            k_norm=weights.get("k_norm"),
            xp=xp,
        )

    def packed_output(self, weights: LayerWeights, xp: Any = np) -> Any:
        """A layer's weights as its output projection takes them."""
        return packing.output_weights(
            self.tiling,
            heads=self.heads,
            matrix=weights["wo"],
            bias=weights.get("bo"),
            xp=xp,
        )

    def packed_mlp(self, weights: LayerWeights, xp: Any = np) -> Any:
        """A layer's weights as its MLP takes them."""
        return packing.mlp_weights(
            self.tiling,
            norm=weights["mlp_norm"],
            gate=weights["w_gate"],
            up=weights["w_up"],
            down=weights["w_down"],
            xp=xp,
        )

    @property
    def _weight_shapes(self) -> dict[str, jax.ShapeDtypeStruct]:
        dtype = self.wide
        return {
            tensor.name: jax.ShapeDtypeStruct(self.config.shape_of(tensor), dtype)
            for tensor in tensors_of(self.form)
        }

    # --- what the clock is told ---

    def around_attention(self) -> list[Stage]:
        """Projections and output; attention has a clock of its own, `self.attention`."""
        shapes = self._weight_shapes
        tiling = self.tiling
        x, table = self._x_struct, self.table_struct

        def packed(pack: Any) -> Any:
            return jax.eval_shape(functools.partial(pack, xp=jnp), shapes)

        heads = *self.places, self.heads
        rows = tiling.token_tiles, tiling.rows, self.config.value_dim
        attended = jax.ShapeDtypeStruct((*heads, *rows), tiling.dtype)
        of_projections = (x, table, table, packed(self.packed_projections))
        of_output = (x, attended, packed(self.packed_output))
        return [
            Stage("projections", self.projections, of_projections),
            Stage("output", self.output, of_output),
        ]

    def feed_forward(self, counts: np.ndarray | None) -> list[Stage]:
        """The MLP, or the mixture for counts `[chips, experts]` of tokens and what joins them."""
        if self.moe is None:
            shapes = self._weight_shapes
            pack = functools.partial(self.packed_mlp, xp=jnp)
            arguments = self._x_struct, jax.eval_shape(pack, shapes)
            return [Stage("mlp", self.mlp, arguments)]
        assert counts is not None
        form = self.moe.form(counts)
        x = jax.ShapeDtypeStruct(
            (form.chips, form.tiles, form.rows, form.hidden_padded), form.dtype
        )
        norm = jax.ShapeDtypeStruct((1, form.hidden_padded), form.dtype)
        tables = jax.tree.map(_struct, order(form))
        given = work(form, checked_for(self.moe, counts))
        weights = moe_weights.abstract(form)
        program = mixture_program(form, self.config.rms_norm_eps)
        mixture = Stage("mixture", program, (x, norm, weights, tables, given))
        if self.tensor == 1:
            return [mixture]
        # Each core joins an equal part of the features.
        features = form.hidden_padded // self.cores
        own = jax.ShapeDtypeStruct(
            (*self.places, form.tiles * form.rows, features), form.dtype
        )
        return [mixture, Stage("joined", self.joined, (own,))]

    @property
    def places(self) -> tuple[int, ...]:
        """Sizes of the mesh of cores that have different heads or tokens."""
        chips = (self.tensor,) if self.tensor > 1 else ()
        return self.chips, *chips, self.cores

    @property
    def _x_struct(self) -> jax.ShapeDtypeStruct:
        tiling = self.tiling
        sizes = tiling.blocks, tiling.tiles, tiling.rows, tiling.hidden_padded
        return jax.ShapeDtypeStruct((self.chips, *sizes), tiling.dtype)

    @property
    def table_struct(self) -> jax.ShapeDtypeStruct:
        """Of cosines and of sines."""
        tiling, rotation = self.tiling, self.form.attention.rotation
        pairs = 0 if rotation is None else rotation.width // 2
        sizes = tiling.blocks, tiling.tiles, tiling.rows, pairs
        return jax.ShapeDtypeStruct((self.chips, *sizes), jnp.float32)


def _not_computed(form: LayerForm) -> list[str]:
    """What a layer of that form has that no stage computes."""
    attention = form.attention
    asked = [
        form.has_output_norms and "norms of outputs",
        attention.qk_norm not in (None, "head")
        and f"query and key norms of kind {attention.qk_norm!r}",
        attention.temperature is not None and "a temperature of queries",
        form.experts is None
        and form.activation == "clamped_swiglu"
        and "an MLP of clamped SwiGLU",
    ]
    return [each for each in asked if isinstance(each, str)]


def _struct(x: np.ndarray) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(x.shape, x.dtype)


@functools.lru_cache(maxsize=32)
def mixture_program(form: MoeForm, eps: float) -> Program:
    """`moe_layer` of `(x, norm, weights, tables, work)`."""

    def kernel(
        x: Hbm, norm: Hbm, weights: MoeWeights, tables: Order, known: MoeWork
    ) -> Mixed:
        return moe_layer(
            x,
            norm,
            weights,
            tables,
            known,
            form,
            eps=eps,
            chip_axis=CHIP,
            core_axis=CORE,
        )

    each = (CHIP, CORE)
    specs = ((CHIP,), (), moe_weights.SPECS, TABLE_SPECS, each)
    return Program(kernel, {CHIP: form.chips, CORE: form.cores}, specs)


__all__ = ["LayerStages", "LayerWeights", "Stage", "mixture_program"]
