"""Weights of a layer's stages as cores take them: dealt out, packed, from arrays or shapes.

Every function takes a model's matrices, `[inputs, outputs]`, and returns what the kernels take with
a leading dimension of cores where cores differ. With `jax.numpy` for `xp` they can be traced for
shapes alone.
"""

from collections.abc import Sequence
from types import ModuleType
from typing import Any

import numpy as np

from kernels.refusal import refuse
from kernels.trainium.layer.mlp import UpWeights
from kernels.trainium.stages.grouped import GroupedForm, GroupedWeights
from kernels.trainium.stages.latent import LatentForm, LatentWeights
from kernels.trainium.stages.output import MlpWeights, OutputWeights
from kernels.trainium.stages.tiling import StageTiling, columns_of, joined_heads, padded
from kernels.trainium.tiles import PARTITIONS, Array, pack, split

# Along which axes of the mesh each weight is dealt out, for `Program`.
_EACH: Any = ("core",)
_SAME: Any = ()
LATENT_SPECS = LatentWeights(
    norm=_SAME, down=_EACH, query_norm=_SAME, queries=_EACH, latent_norm=_SAME
)
GROUPED_SPECS = GroupedWeights(
    norm=_SAME, matrix=_EACH, bias=_EACH, q_norm=_SAME, k_norm=_SAME
)
OUTPUT_SPECS = OutputWeights(matrix=_EACH, bias=_SAME)
MLP_SPECS = MlpWeights(norm=_SAME, up=_EACH, down=_EACH)


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
    cores = tiling.cores
    down = [key_down] if query_down is None else [query_down, key_down]
    joined = xp.concatenate(down, axis=1)
    missing = form.own_down * cores - form.down
    dealt = _columns(xp.pad(joined, [(0, 0), (0, missing)]), cores, xp)
    by_head = queries.reshape(len(queries), cores, form.heads, -1)
    plain = _flat(by_head[..., : form.latent.plain], xp)
    turned = _flat(by_head[..., form.latent.plain :], xp)
    own = xp.concatenate([plain, turned], axis=2)
    _, rows = tiling.hidden_tiles
    if form.latent.query_rank is not None:
        _, rows = split(form.latent.query_rank, PARTITIONS)
    return LatentWeights(
        norm=_row(norm, tiling.hidden_padded, xp),
        down=_packed(dealt, tiling.hidden_tiles[1], xp),
        query_norm=None if query_norm is None else query_norm[None],
        queries=_packed(own, rows, xp),
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
        cores = tiling.cores
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
        matrix=_packed(joined, tiling.hidden_tiles[1], xp),
        bias=bias,
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
    value_dim, rest = divmod(inputs, tiling.cores * heads)
    if rest:
        refuse(
            f"an output projection of {inputs} inputs over {tiling.cores} cores of {heads} heads: "
            "must be a multiple of them"
        )
    own = matrix.reshape(tiling.cores, heads * value_dim, hidden)
    wide: Any = None
    if bias is not None:
        wide = _row(bias, tiling.hidden_padded, xp).astype(np.float32)
    return OutputWeights(
        _to_hidden(own, joined_heads(heads, value_dim), tiling, xp), wide
    )


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
    cores, (_, rows) = tiling.cores, tiling.hidden_tiles
    ffn = down.shape[0]
    own = -(-ffn // cores)
    missing = own * cores - ffn
    _, size = split(own, PARTITIONS)

    def columns(matrix: Array) -> Any:
        wide = xp.pad(matrix, [(0, 0), (0, missing)])
        return pack(_columns(wide, cores, xp), rows, size, xp)

    tall = xp.pad(down, [(0, missing), (0, 0)]).reshape(cores, own, -1)
    return MlpWeights(
        norm=_row(norm, tiling.hidden_padded, xp),
        up=UpWeights(columns(gate), columns(up)),
        down=_to_hidden(tall, size, tiling, xp),
    )


def _columns(matrix: Array, cores: int, xp: ModuleType) -> Array:
    """`[inputs, cores · own]` to `[cores, inputs, own]`."""
    return xp.moveaxis(matrix.reshape(len(matrix), cores, -1), 1, 0)


def _flat(by_head: Array, xp: ModuleType) -> Array:
    """`[inputs, cores, heads, features]` to `[cores, inputs, heads · features]`."""
    inputs, cores, _, _ = by_head.shape
    return xp.moveaxis(by_head.reshape(inputs, cores, -1), 1, 0)


def _packed(dealt: Array, rows: int, xp: ModuleType) -> Any:
    return pack(dealt, rows, columns_of(dealt.shape[-1]), xp)


def _to_hidden(own: Array, rows: int, tiling: StageTiling, xp: ModuleType) -> Any:
    """A matrix whose output is the hidden dimension, with its padding."""
    missing = tiling.hidden_padded - own.shape[-1]
    wide = xp.pad(own, [(0, 0), (0, 0), (0, missing)])
    return pack(wide, rows, tiling.hidden_columns, xp)


def _row(weight: Array, width: int, xp: ModuleType) -> Any:
    return xp.pad(weight, [(0, width - weight.shape[0])])[None]


__all__ = [
    "GROUPED_SPECS",
    "LATENT_SPECS",
    "MLP_SPECS",
    "OUTPUT_SPECS",
    "grouped_weights",
    "latent_weights",
    "mlp_weights",
    "output_weights",
]
