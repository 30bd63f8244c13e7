"""The canonical weights laid out for a chip's NeuronCores: shared out, padded, loads contiguous."""

import dataclasses
import functools
import math
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from emu.annotations import PyTree
from emu.numerics import GROUP
from kernels.formats.formats import FORMATS, POWER_OF_TWO, Format
from kernels.moe.mesh import weights as moe_weights
from kernels.moe.mesh.form import MoeForm
from kernels.moe.mesh.mixture import MoeWeights
from kernels.trainium.context.latent import expansion_weights, heads_at_once
from kernels.trainium.gemm.mx_pack import in_quarters, pack_mx
from kernels.trainium.gemm.scaled import AnyWeight
from kernels.trainium.gemm.scaled_pack import (
    BLOCK,
    Columns,
    in_columns,
    pack_blocks,
    pack_nibbles,
    pack_scaled,
)
from kernels.trainium.layer.tiling import LayerTiling
from kernels.trainium.stages.latent import LatentForm
from kernels.trainium.stages.weights import latent_weights
from kernels.trainium.tiles import BANK_COLUMNS, pack, split, with_rows
from models.config import ModelConfig
from models.machines.tensor_parallel import (
    FEWEST_LOGITS,
    PADDING,
    Array,
    Shares,
    deal,
)
from models.plain.weights import weights_of_run
from models.tensors import (
    ATTENTION_NORM,
    EXPERT_BIASES,
    EXPERTS,
    LATENT_CACHED,
    LATENT_NORM,
    LATENT_PAIR,
    LATENT_QUERIES,
    LATENT_QUERY,
    ROUTER,
    ROUTER_BIAS,
    SELECTION_BIAS,
    SHARED_EXPERT,
)

HEAD_NORMS = ("q_norm", "k_norm")
LATENT_NORMS = ("query_norm", "latent_norm")
# As wide as the residual stream.
HIDDEN_ROWS = ("attn_norm", "attn_output_norm", "mlp_norm", "mlp_output_norm", "bo")
OF_EXPERTS = frozenset(
    tensor.name
    for tensor in (
        ROUTER,
        ROUTER_BIAS,
        SELECTION_BIAS,
        *EXPERTS,
        *EXPERT_BIASES,
        *SHARED_EXPERT,
    )
)
OF_LATENTS = frozenset(
    tensor.name
    for tensor in (
        ATTENTION_NORM,
        LATENT_CACHED,
        LATENT_NORM,
        LATENT_PAIR,
        LATENT_QUERY,
        *LATENT_QUERIES,
    )
)
ON_EVERY_CORE = (*HIDDEN_ROWS, *HEAD_NORMS, *LATENT_NORMS)


def pack_weights(
    config: ModelConfig,
    weights: PyTree,
    tiling: LayerTiling,
    shares: Shares,
    mixture: MoeForm | None = None,
    held: Format = FORMATS["bfloat16"],
    latent: LatentForm | None = None,
) -> PyTree:
    """The canonical weights laid out as the kernels load them; structs stay structs.

    Args:
      config: of the model.
      weights: canonical pytree.
      tiling: one core's sizes.
      shares: what each core holds.
      mixture: of layers with experts, of any room for rows; it knows what these are held in.
      held: what the weights of all other products are held in, if it is coded; else they have the
        dtype of the tiling.
      latent: of the projections before latent attention, where layers have it; any span.

    Returns:
      Embedding and norms as every core has them; everything else with an axis of cores, where
      there are several, behind that of the layers; see `weight_specs`. `layers` has an entry for
      each of the config's runs; of layers with experts `mixture` are `MoeWeights`.
    """
    packer = functools.partial(Packer, config, tiling, shares, mixture, held, latent)
    # To read the clock nobody needs the 16 GB that Llama 3.1 8B has in bfloat16.
    if isinstance(jax.tree.leaves(weights)[0], jax.ShapeDtypeStruct):
        return jax.eval_shape(packer(xp=jnp).model, weights)
    return packer(xp=np).model(jax.tree.map(np.asarray, weights))


def weight_specs(
    packed: PyTree, axis: str | None, mesh_axes: tuple[str, str]
) -> PyTree:
    """Which packed weights differ along mesh axes, as `emu.Program` takes it.

    Args:
      packed: by `pack_weights`.
      axis: of the cores that share a layer; None where one has it all.
      mesh_axes: of chips and of cores, over which experts are dealt.
    """
    chip, core = mesh_axes
    specs: dict[str, Any] = dict.fromkeys(ON_EVERY_CORE, ())
    specs["mixture"] = MoeWeights(
        router=(),  # type: ignore[arg-type]
        experts=(None, chip, core),  # type: ignore[arg-type]
        shared=(None, core),  # type: ignore[arg-type]
    )
    dealt = () if axis is None else (None, axis)
    runs = tuple(
        {name: specs.get(name, dealt) for name in run} for run in packed["layers"]
    )
    heads = () if axis is None else (axis,)
    return {"embed": (), "norm": (), "heads": heads, "layers": runs}


@dataclasses.dataclass(frozen=True, eq=False)
class Packer:
    """Lays weights out; each is placed as soon as it is, so that only one is held twice.

    Attributes:
      config: of the model.
      tiling: one core's sizes.
      shares: what each core holds.
      mixture: of layers with experts.
      held: what the weights of products are held in, where that is coded.
      latent: of the projections before latent attention.
      xp: numpy, or jax.numpy where only shapes are wanted.
    """

    config: ModelConfig
    tiling: LayerTiling
    shares: Shares
    mixture: MoeForm | None
    held: Format
    latent: LatentForm | None
    xp: ModuleType

    def model(self, weights: dict[str, Any]) -> dict[str, Any]:
        """All weights; the output head in column blocks, `heads`, see `column_blocks`."""
        layers = tuple(
            self.layers(weights_of_run(self.config, weights, run))
            for run in self.config.runs
        )
        return self.ends(weights) | {"layers": layers}

    def ends(self, weights: dict[str, Any]) -> dict[str, Any]:
        """Those before the layers and behind them: embedding, last norm and output head."""
        embed = self.converted(weights["embed"])
        # A tied head is the embedding itself, turned.
        head = self.converted(weights["head"]) if "head" in weights else embed.T
        head = deal(head, self.shares.vocabulary, -1, 1, self.xp)
        head = self.of_hidden(head)
        rows = self.tiling.hidden_tiles[1]
        return {
            "embed": self.padded(embed),
            "norm": self.padded(weights["norm"])[None],
            "heads": tuple(
                self.packed(part, rows, columns)
                for part, columns in column_blocks(head)
            ),
        }

    def layers(self, layers: dict[str, Array]) -> dict[str, Any]:
        """The weights of layers that have the same."""
        tiling = self.tiling
        made: dict[str, Any] = (
            self.latents(layers) if tiling.latent else self.grouped(layers)
        )
        unit = tiling.value_dim
        wo = self.dealt(
            self.matrix(layers["wo"]), self.shares.heads, axis=-2, unit=unit
        )
        rows = tiling.attended_tiles[1]
        made["wo"] = self.product(wo, rows, tiling.hidden_columns)
        if "router" in layers:
            made["mixture"] = self.experts(layers)
        else:
            made |= self.mlp(layers)
        for name in HIDDEN_ROWS:
            if name in layers:
                made[name] = self.padded(layers[name])[:, None]
        return made

    def grouped(self, layers: dict[str, Array]) -> dict[str, Any]:
        """What q, k and v are made by, side by side in one, and normalised."""
        tiling, shares = self.tiling, self.shares
        head_dim = tiling.head_dim
        # What multiplies the residual stream is cut by columns; what returns to it, by rows.
        # A core's columns of q make its own heads, and its rows of `wo` take them up: nothing
        # crosses cores between, and only the sums that return to the residual stream do.
        owned = ("wq", shares.heads), ("wk", shares.kv_heads), ("wv", shares.kv_heads)
        dealt = [
            self.dealt(self.matrix(layers[name]), own, unit=head_dim)
            for name, own in owned
        ]
        wqkv = jax.tree.map(lambda *own: self.xp.concatenate(own, axis=-1), *dealt)
        placed: dict[str, Any] = {
            "wqkv": self.product(
                self.of_hidden(wqkv), tiling.hidden_tiles[1], tiling.qkv_columns
            ),
        }
        held = shares.heads, shares.kv_heads
        for name, own in zip(HEAD_NORMS, held, strict=True):
            if name not in layers:
                continue
            if tiling.norm_widths is None:
                placed[name] = jnp.asarray(layers[name], tiling.dtype)[:, None]
                continue
            # Over all heads: a core has the weights of its own.
            dealt = self.dealt(layers[name][:, None], own, unit=head_dim)
            placed[f"wide_{name}"] = jnp.asarray(dealt)
        if "bq" in layers:
            # As matrices of one row, of which a core has its columns.
            bq = self.dealt(layers["bq"][:, None], shares.heads, unit=head_dim)
            bk = self.dealt(layers["bk"][:, None], shares.kv_heads, unit=head_dim)
            bv = self.dealt(layers["bv"][:, None], shares.kv_heads, unit=head_dim)
            biases = self.xp.concatenate([bq, bk, bv], axis=-1)
            placed["bqkv"] = jnp.asarray(self.converted(biases))
        return placed

    def latents(self, layers: dict[str, Array]) -> dict[str, Any]:
        """What queries and latents are made by, and keys and values of these."""
        form = self.latent
        assert form is not None
        # Codes are of the numbers as they were given.
        own = {
            name: layers[name]
            if self.held.is_coded and name not in ON_EVERY_CORE
            else self.converted(layers[name])
            for name in OF_LATENTS & set(layers)
        }
        made = [
            self._latent_layer(form, {name: w[layer] for name, w in own.items()})
            for layer in range(len(own["wkv_down"]))
        ]
        return jax.tree.map(lambda *each: jnp.asarray(self.xp.stack(each)), *made)

    def _latent_layer(
        self, form: LatentForm, layer: dict[str, Array]
    ) -> dict[str, Array]:
        """Those of one layer, with an axis of cores where there are several."""
        xp, latent = self.xp, self.tiling.latent
        assert latent is not None
        heads, cores = self.shares.heads, len(self.shares.heads)
        queries = layer["wq_up" if "wq_up" in layer else "wq"]
        by_core = self.dealt(queries, heads, unit=latent.plain + latent.turned)
        if cores > 1:
            # Side by side again, with the padding of the last cores' heads.
            by_core = xp.moveaxis(by_core, 0, 1).reshape(len(queries), -1)
        given = latent_weights(
            form,
            norm=layer["attn_norm"],
            query_down=layer.get("wq_down"),
            query_norm=layer.get("query_norm"),
            queries=by_core,
            key_down=layer["wkv_down"],
            latent_norm=layer["latent_norm"],
            xp=xp,
        )
        pair = self.dealt(layer["wkv_up"], heads, unit=latent.plain + latent.value_dim)
        by_head = pair.reshape(*pair.shape[:-1], form.heads, -1)
        together = heads_at_once(form.heads, latent.value_dim)
        ends = by_head[..., : latent.plain], by_head[..., latent.plain :]
        mx = form.tiling.mx
        keys_up, values_up = (expansion_weights(w, together, xp, mx) for w in ends)

        def of_cores(packed: Any) -> Any:
            return packed if cores > 1 else jax.tree.map(lambda leaf: leaf[0], packed)

        made: dict[str, Any] = {
            "latents_down": of_cores(given.down),
            "queries_up": of_cores(given.queries),
            "latent_norm": given.latent_norm,
            "keys_up": keys_up,
            "values_up": values_up,
        }
        if given.query_norm is not None:
            made["query_norm"] = given.query_norm
        return made

    def mlp(self, layers: dict[str, Array]) -> dict[str, AnyWeight]:
        """The gated MLP of layers."""
        hidden_rows, ffn_rows = self.tiling.hidden_tiles[1], self.tiling.ffn_tiles[1]
        w_gate, w_up, w_down = (
            self.dealt(self.matrix(layers[name]), self.shares.ffn, axis=axis)
            for name, axis in (("w_gate", -1), ("w_up", -1), ("w_down", -2))
        )
        down = self.product(w_down, ffn_rows, self.tiling.hidden_columns)
        if self.tiling.by_token is not None:
            both = jax.tree.map(self.side_by_side, w_gate, w_up)
            columns = 2 * self.tiling.gated_columns
            return {
                "w_gate_up": self.product(both, hidden_rows, columns),
                "w_down": down,
            }
        if self.held.scale == POWER_OF_TWO:
            # So that features come out as the down projection contracts them, in the checkpoint's
            # own order: groups of 32 of its rows stay groups.
            w_gate, w_up = in_quarters(w_gate, ffn_rows), in_quarters(w_up, ffn_rows)
        return {
            "w_gate": self.product(self.of_hidden(w_gate), hidden_rows, ffn_rows),
            "w_up": self.product(self.of_hidden(w_up), hidden_rows, ffn_rows),
            "w_down": down,
        }

    def side_by_side(self, gate: Array, up: Array) -> Array:
        """Two matrices in one, in each block of columns those of the gate and then the other's."""
        count, size = self.tiling.ffn_tiles
        missing = [(0, 0)] * (gate.ndim - 1) + [(0, count * size - gate.shape[-1])]
        apart = [
            self.xp.pad(own, missing).reshape(
                *own.shape[:-1], -1, self.tiling.gated_columns
            )
            for own in (gate, up)
        ]
        return self.xp.stack(apart, axis=-2).reshape(*gate.shape[:-1], -1)

    def experts(self, layers: dict[str, Array]) -> MoeWeights:
        """The mixtures of layers."""
        assert self.mixture is not None
        own = {name: array for name, array in layers.items() if name in OF_EXPERTS}
        coded: set[str] = set()
        if self.mixture.mx is not None:
            coded |= {tensor.name for tensor in EXPERTS}
        if self.mixture.others_mx is not None:
            coded |= {tensor.name for tensor in SHARED_EXPERT}
        made = []
        for layer in range(len(own["router"])):
            # Biases are added in float32, and codes are of the numbers as they were given.
            of_layer = {
                name: array[layer]
                if name.endswith("_bias") or name in coded
                else self.converted(array[layer])
                for name, array in own.items()
            }
            made.append(
                moe_weights.packed(moe_weights.named(of_layer), self.mixture, self.xp)
            )
        return jax.tree.map(lambda *each: jnp.asarray(self.xp.stack(each)), *made)

    def converted(self, weight: Array) -> Array:
        """In the layer's dtype."""
        return self.xp.asarray(weight, self.tiling.dtype)

    def matrix(self, weight: Array) -> Any:
        """A product's matrix before it is dealt out: in codes, but for scales of groups of 32.

        Of such, cores have whole groups.
        """
        if not self.held.is_coded or self.held.block == (GROUP, 1):
            return weight
        return in_columns(weight, self.held, self.xp)

    def dealt(
        self, weight: Any, index: np.ndarray, axis: int = -1, unit: int = 1
    ) -> Any:
        """Each core's part, see `deal`; of codes with the scales of its columns."""
        if not isinstance(weight, Columns):
            return deal(weight, index, axis, unit, self.xp)
        codes = deal(weight.codes, index, axis, unit, self.xp)
        if axis == -1:
            return Columns(codes, deal(weight.scale, index, axis, unit, self.xp))
        rows = index[..., None] * unit + np.arange(unit)
        rows = np.where(index[..., None] == PADDING, PADDING, rows)
        return weight.of_rows(rows.reshape(len(index), -1), codes, self.xp)

    def of_hidden(self, weight: Any) -> Any:
        """A matrix that contracts the residual stream, with rows for all of its tiles."""
        if isinstance(weight, Columns):
            # `pack_scaled` fills up what it packs.
            return weight
        return with_rows(weight, self.tiling.hidden_padded, self.xp)

    def product(self, weight: Any, rows: int, columns: int) -> AnyWeight:
        """A matrix of a layer, packed as its products take it."""
        if isinstance(weight, Columns) and self.held.block == (BLOCK, BLOCK):
            # Heads of 64 features begin in the middle of blocks of columns.
            run = math.gcd(BLOCK, columns, self.tiling.head_dim)
            return pack_blocks(weight, columns, run, self.xp)
        if isinstance(weight, Columns):
            double = self.tiling.by_token is not None
            return pack_scaled(weight, rows, columns, double=double, xp=self.xp)
        if self.held.scale == POWER_OF_TWO:
            return pack_mx(weight, self.held, rows, columns)
        if self.held.is_coded:
            return pack_nibbles(weight, self.held, rows, columns, self.xp)
        return self.packed(self.converted(weight), rows, columns)

    def packed(self, weight: Array, rows: int, columns: int) -> jax.Array:
        """Cut into tiles of `rows` by `columns`, each load contiguous."""
        return jnp.asarray(pack(weight, rows, columns, self.xp))

    def padded(self, weight: Array) -> jax.Array:
        """The last dimension, `hidden`, lengthened by zeros to whole tiles."""
        # Zeros, so that the padded columns of the residual stream stay 0 through every layer and
        # add nothing to its squares in the norms.
        missing = self.tiling.hidden_padded - weight.shape[-1]
        widths = [(0, 0)] * (weight.ndim - 1) + [(0, missing)]
        return jnp.asarray(self.xp.pad(self.converted(weight), widths))


def column_blocks(head: Array) -> list[tuple[Array, int]]:
    """The output head's columns in blocks of one width, and the narrower rest, each with its width.

    No column is padded, as its logit, 0, could be the largest: 1030 columns are two blocks of 344
    and one of 342. `nc_max8` looks at eight values at least, so the width falls where the rest
    would be narrower.
    """
    columns = head.shape[-1]
    _, width = split(columns, BANK_COLUMNS)
    # Of 258,567 columns a width of 512 leaves 7, 511 leaves 1, and 510 leaves 507.
    while 0 < columns % width < FEWEST_LOGITS:
        width -= 1
    full = columns // width * width
    parts = [(head[..., :full], width), (head[..., full:], columns - full)]
    return [(part, width) for part, width in parts if width]
