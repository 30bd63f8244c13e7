"""A mixture's weights as its cores want them: dealt out, packed, and their shapes for the clock."""

import dataclasses
from collections.abc import Mapping
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kernels.moe.mesh.expert import ExpertWeights
from kernels.moe.mesh.form import MoeForm
from kernels.moe.mesh.mixture import MoeWeights
from kernels.moe.mesh.router import RouterWeights
from kernels.trainium.gemm.mx_pack import MxFormats, in_quarters, pack_mx
from kernels.trainium.layer.mlp import UpWeights
from kernels.trainium.tiles import Array, pack, with_rows

# Of which dimensions are mesh axes, for `Program`: the router is whole on every core.
SPECS: Any = MoeWeights(
    router=(),  # type: ignore[arg-type]
    experts=("chip", "core"),  # type: ignore[arg-type]
    shared=("core",),  # type: ignore[arg-type]
)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PlainMlp:
    """A gated MLP, or several with a leading dimension.

    Attributes:
      gate, up: `[hidden, ffn]`.
      down: `[ffn, hidden]`.
      gate_bias, up_bias: `[ffn]`, or None.
      down_bias: `[hidden]`, or None.
    """

    gate: Array
    up: Array
    down: Array
    gate_bias: Array | None = None
    up_bias: Array | None = None
    down_bias: Array | None = None


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PlainMoe:
    """A mixture's weights as a model has them.

    Attributes:
      router: `[hidden, experts]`.
      experts: with a leading dimension of experts.
      router_bias: `[experts]` of the logits, or None.
      selection: `[experts]`, added where experts are compared, or None.
      shared: the MLP that every token goes through, or None.
      shared_scale: `[hidden, 1]`, or None.
    """

    router: Array
    experts: PlainMlp
    router_bias: Array | None = None
    selection: Array | None = None
    shared: PlainMlp | None = None
    shared_scale: Array | None = None


def named(arrays: Mapping[str, Array]) -> PlainMoe:
    """One layer's mixture, from arrays by the names that models give them.

    Args:
      arrays: `router`, `expert_gate`, `expert_up`, `expert_down`, and where there are such
        `router_bias`, `selection_bias`, `expert_gate_bias`, `expert_up_bias`, `expert_down_bias`,
        `shared_gate`, `shared_up`, `shared_down`; without a dimension of layers.
    """
    bias = arrays.get
    experts = PlainMlp(
        arrays["expert_gate"],
        arrays["expert_up"],
        arrays["expert_down"],
        *(bias(f"expert_{part}_bias") for part in ("gate", "up", "down")),
    )
    shared = None
    if "shared_gate" in arrays:
        shared = PlainMlp(
            *(arrays[f"shared_{part}"] for part in ("gate", "up", "down"))
        )
    return PlainMoe(
        arrays["router"],
        experts,
        bias("router_bias"),
        bias("selection_bias"),
        shared,
    )


def packed(plain: PlainMoe, form: MoeForm, xp: ModuleType = np) -> MoeWeights:
    """The weights of all cores: experts' with dimensions of chips and cores, see `SPECS`.

    Args:
      plain: of the model.
      form: who has what.
      xp: numpy, or jax.numpy where only shapes are wanted.
    """
    dealt = _dealt(plain.experts, form, xp)
    shared = None
    if plain.shared is not None:
        own, size = _cut(plain.shared, form, xp), form.shared_tiles[1]
        shared = _mlp(own, form, size, form.others_mx, xp)
    experts = _mlp(dealt, form, form.ffn_tiles[1], form.mx, xp)
    return MoeWeights(_router(plain, form, xp), experts, shared)


def abstract(form: MoeForm) -> MoeWeights:
    """Shapes and dtypes of `packed`, for the clock."""

    def shape(*sizes: int, dtype: Any = form.dtype) -> Any:
        return jax.ShapeDtypeStruct(sizes, dtype)

    what = form.mixture
    experts, hidden = what.routing.experts, what.hidden

    def mlp(*lead: int, ffn: int, biases: bool) -> PlainMlp:
        wide, narrow = shape(*lead, ffn), shape(*lead, hidden)
        return PlainMlp(
            shape(*lead, hidden, ffn),
            shape(*lead, hidden, ffn),
            shape(*lead, ffn, hidden),
            *((wide, wide, narrow) if biases else (None,) * 3),
        )

    plain = PlainMoe(
        shape(hidden, experts),
        mlp(experts, ffn=what.ffn, biases=what.biases),
        shape(experts) if what.router_bias else None,
        shape(experts) if what.routing.selection_bias else None,
        mlp(ffn=what.shared, biases=False) if what.shared else None,
        shape(hidden, 1) if what.shared_is_scaled else None,
    )
    return jax.eval_shape(lambda plain: packed(plain, form, jnp), plain)


def _router(plain: PlainMoe, form: MoeForm, xp: ModuleType) -> RouterWeights:
    count, size = form.hidden_tiles
    matrix = plain.router
    if plain.shared_scale is not None:
        matrix = xp.concatenate([matrix, plain.shared_scale], axis=1)
    padded = xp.pad(matrix, [(0, form.hidden_padded - form.mixture.hidden), (0, 0)])

    def row(bias: Array | None) -> Any:
        return None if bias is None else bias.astype(np.float32)[None]

    return RouterWeights(
        xp.swapaxes(padded.reshape(count, size, -1), 0, 1),
        row(plain.router_bias),
        row(plain.selection),
    )


def _dealt(experts: PlainMlp, form: MoeForm, xp: ModuleType) -> PlainMlp:
    """Experts as `[chips, cores, local, ...]`."""

    def deal(array: Array) -> Array:
        _, *shape = array.shape
        by_period = array.reshape(form.cores, form.local, form.period, *shape)
        first = xp.moveaxis(by_period, 2, 0)
        return xp.concatenate([first] * (form.chips // form.period))

    return jax.tree.map(deal, experts)


def _cut(mlp: PlainMlp, form: MoeForm, xp: ModuleType) -> PlainMlp:
    """A core's part of the features, `[cores, ...]`."""

    def columns(array: Array) -> Any:
        parts = array.reshape(array.shape[0], form.cores, form.shared)
        return xp.moveaxis(parts, 1, 0)

    down = mlp.down.reshape(form.cores, form.shared, mlp.down.shape[1])
    return PlainMlp(columns(mlp.gate), columns(mlp.up), down)


def _mlp(
    mlp: PlainMlp, form: MoeForm, size: int, mx: MxFormats | None, xp: ModuleType
) -> ExpertWeights:
    """Packed: `size` features a tile."""
    _, hidden = form.hidden_tiles

    def ordered(columns: Array) -> Any:
        """Features in the order in which products are to give them."""
        return columns if mx is None else in_quarters(columns, size)

    def from_hidden(matrix: Array) -> Any:
        return tiled(ordered(with_rows(matrix, form.hidden_padded, xp)), hidden, size)

    def column(bias: Array | None) -> Any:
        if bias is None:
            return None
        wide = ordered(bias.astype(np.float32))
        *lead, ffn = wide.shape
        padded = xp.pad(wide, [(0, 0)] * len(lead) + [(0, -ffn % size)])
        return padded.reshape(*lead, -1, size, 1)

    def tiled(matrix: Array, rows: int, columns: int) -> Any:
        if mx is None:
            return pack(matrix, rows, columns, xp)
        return pack_mx(matrix, mx.weights, rows, columns)

    up = UpWeights(
        from_hidden(mlp.gate),
        from_hidden(mlp.up),
        column(mlp.gate_bias),
        column(mlp.up_bias),
    )
    bias: Any = mlp.down_bias
    if bias is not None:
        padding = form.hidden_padded - bias.shape[-1]
        wide = bias.astype(np.float32)
        bias = xp.pad(wide, [(0, 0)] * (bias.ndim - 1) + [(0, padding)])
        bias = bias[..., None, :]
    return ExpertWeights(up, tiled(mlp.down, size, form.hidden_columns), bias)


__all__ = ["SPECS", "PlainMlp", "PlainMoe", "abstract", "named", "packed"]
