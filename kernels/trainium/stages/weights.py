"""Weights of a layer's stages as cores take them: dealt out, packed, from arrays or shapes.

Every function takes a model's matrices, `[inputs, outputs]`, and returns what the kernels take with
a leading dimension of cores where cores differ, and one of chips before it where several share a
matrix. With `jax.numpy` for `xp` they can be traced for shapes alone.
"""

import math
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import jax
import numpy as np

from emu import numerics
from kernels.refusal import refuse
from kernels.trainium.gemm.mx_pack import in_quarters, pack_mx
from kernels.trainium.layer.mlp import UpWeights
from kernels.trainium.stages.grouped import GroupedForm, GroupedWeights
from kernels.trainium.stages.latent import LatentForm, LatentWeights
from kernels.trainium.stages.output import MlpWeights, OutputWeights
from kernels.trainium.stages.tiling import (
    StageTiling,
    attended_cut,
    columns_of,
    padded,
)
from kernels.trainium.tiles import Array, pack, with_rows

TENSOR, CORE = "tensor", "core"  # mesh axes
_SAME: Any = ()


def axes_of(tiling: StageTiling) -> tuple[str, ...]:
    """Axes of the mesh over the cores that share a matrix."""
    return (TENSOR, CORE) if tiling.tensor > 1 else (CORE,)


# Along which axes of the mesh each weight is dealt out, for `Program`.


def latent_specs(tiling: StageTiling) -> LatentWeights:
    """Of `latent_weights`: chips that share heads each have the whole way down to latents."""
    each: Any = axes_of(tiling)
    down: Any = (CORE,)
    return LatentWeights(
        norm=_SAME, down=down, query_norm=_SAME, queries=each, latent_norm=_SAME
    )


def grouped_specs(tiling: StageTiling) -> GroupedWeights:
    """Of `grouped_weights`."""
    each: Any = axes_of(tiling)
    return GroupedWeights(
        norm=_SAME, matrix=each, bias=each, q_norm=_SAME, k_norm=_SAME
    )


def output_specs(tiling: StageTiling) -> OutputWeights:
    """Of `output_weights`."""
    each: Any = axes_of(tiling)
    return OutputWeights(matrix=each, bias=_SAME)


def mlp_specs(tiling: StageTiling) -> MlpWeights:
    """Of `mlp_weights`."""
    each: Any = axes_of(tiling)
    return MlpWeights(norm=_SAME, up=each, down=each)


def latent_weights(
    form: LatentForm,
    *,
    norm: Array,
    query_down: Array | None,
    query_norm: Any,
    queries: Array,
    key_down: Array,
    latent_norm: Any,
    xp: ModuleType = np,
) -> LatentWeights:
    """The weights of all cores.

    Args:
      form: sizes.
      norm: `[hidden]`.
      query_down: `[hidden, query rank]`, or None.
      query_norm: `[query rank]`, or None.
      queries: `[query rank or hidden, heads · (plain + turned)]`.
      key_down: `[hidden, rank + turned]`.
      latent_norm: `[rank]`.
      xp: numpy, or jax.numpy.
    """
    tiling = form.tiling
    cores, sharers = tiling.cores, tiling.sharers
    down = [key_down]
    if query_down is not None:
        # Behind a latent of queries zeros, up to whole tiles.
        query_padding = form.query_width - query_down.shape[1]
        down.insert(0, xp.pad(query_down, [(0, 0), (0, query_padding)]))
    joined = xp.concatenate(down, axis=1)
    missing = form.own_down * cores - form.down
    dealt = _columns(xp.pad(joined, [(0, 0), (0, missing)]), cores, xp)
    by_head = queries.reshape(len(queries), sharers, form.heads, -1)
    plain = _flat(by_head[..., : form.latent.plain], xp)
    turned = _flat(by_head[..., form.latent.plain :], xp)
    own = xp.concatenate([plain, turned], axis=2)
    cut = tiling.hidden_tiles if form.latent.query_rank is None else form.query_cut
    if query_norm is not None:
        query_norm = _row(query_norm, form.query_width, xp)
    return LatentWeights(
        norm=_row(norm, tiling.hidden_padded, xp),
        down=_packed(dealt, tiling.hidden_tiles, tiling, xp),
        query_norm=query_norm,
        queries=_shared(_packed(own, cut, tiling, xp), tiling),
        latent_norm=latent_norm[None],
    )


def grouped_weights(
    form: GroupedForm,
    *,
    norm: Array,
    matrices: Sequence[Array],
    biases: Sequence[Array] | None = None,
    q_norm: Any = None,
    k_norm: Any = None,
    xp: ModuleType = np,
) -> GroupedWeights:
    """The weights of all cores.

    Args:
      form: sizes.
      norm: `[hidden]`.
      matrices: of queries, keys and values, `[hidden, heads · head_dim]` each.
      biases: of each, or None.
      q_norm, k_norm: `[head_dim]`, or None.
      xp: numpy, or jax.numpy.
    """
    tiling, head_dim = form.tiling, form.head_dim

    def dealt(matrix: Array, heads: int) -> Array:
        """Columns of each core's heads; of fewer KV heads than cores some stand on several."""
        cores = tiling.sharers
        by_head = matrix.reshape(len(matrix), -1, head_dim)
        copies = cores * heads // by_head.shape[1]
        repeated = xp.repeat(by_head, copies, axis=1)
        return _flat(repeated.reshape(len(matrix), cores, heads, head_dim), xp)

    each = form.heads, form.kv_heads, form.kv_heads
    own = [dealt(matrix, heads) for matrix, heads in zip(matrices, each, strict=True)]
    joined = xp.concatenate(own, axis=2)
    bias: Any = None
    if biases is not None:
        rows = [dealt(b[None], heads) for b, heads in zip(biases, each, strict=True)]
        wide = xp.concatenate(rows, axis=2).astype(np.float32)
        missing = padded(wide.shape[2]) - wide.shape[2]
        bias = xp.pad(wide, [(0, 0), (0, 0), (0, missing)])
    return GroupedWeights(
        norm=_row(norm, tiling.hidden_padded, xp),
        matrix=_shared(_packed(joined, tiling.hidden_tiles, tiling, xp), tiling),
        bias=_shared(bias, tiling),
        q_norm=None if q_norm is None else q_norm[None],
        k_norm=None if k_norm is None else k_norm[None],
    )


def output_weights(
    tiling: StageTiling,
    *,
    heads: int,
    matrix: Array,
    bias: Array | None = None,
    xp: ModuleType = np,
) -> OutputWeights:
    """The output projection of all cores.

    Args:
      tiling: sizes.
      heads: of a core.
      matrix: `[heads · value_dim, hidden]`, of all cores' heads.
      bias: `[hidden]`, or None.
      xp: numpy, or jax.numpy.
    """
    inputs, hidden = matrix.shape
    value_dim, rest = divmod(inputs, tiling.sharers * heads)
    if rest:
        refuse(
            f"an output projection of {inputs} inputs over {tiling.sharers} cores of {heads} "
            "heads: must be a multiple of them"
        )
    own = matrix.reshape(tiling.sharers, heads * value_dim, hidden)
    wide: Any = None
    if bias is not None:
        wide = _row(bias, tiling.hidden_padded, xp).astype(np.float32)
    cut = attended_cut(heads, value_dim, tiling)
    return OutputWeights(_shared(_to_hidden(own, cut, tiling, xp), tiling), wide)


def mlp_weights(
    tiling: StageTiling,
    *,
    norm: Array,
    gate: Array,
    up: Array,
    down: Array,
    xp: ModuleType = np,
) -> MlpWeights:
    """A gated MLP of all cores.

    Args:
      tiling: sizes.
      norm: `[hidden]`.
      gate, up: `[hidden, ffn]`; padded with zeros where cores do not divide it.
      down: `[ffn, hidden]`.
      xp: numpy, or jax.numpy.
    """
    cores, ffn = tiling.sharers, down.shape[0]
    # Cores have whole groups of what shares a scale.
    together = 1 if tiling.mx is None or cores == 1 else numerics.GROUP
    own = -(-ffn // (cores * together)) * together
    missing = own * cores - ffn
    cut = tiling.cut(own)

    def columns(matrix: Array) -> Any:
        wide = xp.pad(matrix, [(0, 0), (0, missing)])
        dealt = _columns(wide, cores, xp)
        if tiling.mx is not None:
            dealt = in_quarters(dealt, cut[1])
        return _shared(_matrix(dealt, tiling.hidden_tiles, cut[1], tiling, xp), tiling)

    tall = xp.pad(down, [(0, missing), (0, 0)]).reshape(cores, own, -1)
    return MlpWeights(
        norm=_row(norm, tiling.hidden_padded, xp),
        up=UpWeights(columns(gate), columns(up)),
        down=_shared(_to_hidden(tall, cut, tiling, xp), tiling),
    )


def _shared(dealt: Any, tiling: StageTiling) -> Any:
    """`[cores that share, ...]` to `[chips, cores, ...]` where several chips share."""
    if tiling.tensor == 1:
        return dealt
    sizes = tiling.tensor, tiling.cores
    return jax.tree.map(lambda x: x.reshape(*sizes, *x.shape[1:]), dealt)


def _columns(matrix: Array, cores: int, xp: ModuleType) -> Array:
    """`[inputs, cores · own]` to `[cores, inputs, own]`."""
    return xp.moveaxis(matrix.reshape(len(matrix), cores, -1), 1, 0)


def _flat(by_head: Array, xp: ModuleType) -> Array:
    """`[inputs, cores, heads, features]` to `[cores, inputs, heads · features]`."""
    inputs, cores, _, _ = by_head.shape
    return xp.moveaxis(by_head.reshape(inputs, cores, -1), 1, 0)


def _matrix(
    dealt: Array,
    cut: tuple[int, int],
    columns: int,
    tiling: StageTiling,
    xp: ModuleType,
) -> Any:
    """A product's matrix packed, with rows for all contraction tiles of a `cut`."""
    _, rows = cut
    whole = with_rows(dealt, math.prod(cut), xp)
    if tiling.mx is None:
        return pack(whole, rows, columns, xp)
    return pack_mx(whole, tiling.mx.weights, rows, columns)


def _packed(
    dealt: Array, cut: tuple[int, int], tiling: StageTiling, xp: ModuleType
) -> Any:
    return _matrix(dealt, cut, columns_of(dealt.shape[-1]), tiling, xp)


def _to_hidden(
    own: Array, cut: tuple[int, int], tiling: StageTiling, xp: ModuleType
) -> Any:
    """A matrix whose output is the hidden dimension, with its padding."""
    missing = tiling.hidden_padded - own.shape[-1]
    wide = xp.pad(own, [(0, 0), (0, 0), (0, missing)])
    return _matrix(wide, cut, tiling.hidden_columns, tiling, xp)


def _row(weight: Array, width: int, xp: ModuleType) -> Any:
    return xp.pad(weight, [(0, width - weight.shape[0])])[None]


__all__ = [
    "CORE",
    "TENSOR",
    "axes_of",
    "grouped_specs",
    "grouped_weights",
    "latent_specs",
    "latent_weights",
    "mlp_specs",
    "mlp_weights",
    "output_specs",
    "output_weights",
]
