"""The canonical weights laid out for a NeuronCore: padded to tiles, each load contiguous."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kernels.trainium.tiling import BANK_COLUMNS, LayerTiling, pack, split

FEWEST_COLUMNS = 8  # nc_max8 looks at eight values at least


def pack_weights(weights: Any, s: LayerTiling) -> Any:
    """The canonical weights laid out as the kernels load them; structs stay structs."""
    if isinstance(jax.tree.leaves(weights)[0], jax.ShapeDtypeStruct):
        return jax.eval_shape(functools.partial(_packed, s=s, xp=jnp), weights)
    return jax.tree.map(jnp.asarray, _packed(jax.tree.map(np.asarray, weights), s=s, xp=np))


def _packed(weights: Any, *, s: LayerTiling, xp: Any) -> Any:
    layers = {k: v.astype(s.dtype) for k, v in weights["layers"].items()}
    d, f = s.hidden_tiles[1], s.ffn_tiles[1]
    packed = functools.partial(pack, xp=xp)

    def padded(x: Any) -> Any:
        return xp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, s.hidden_padded - x.shape[-1])])

    laid = {
        "attn_norm": padded(layers["attn_norm"])[:, None],
        "mlp_norm": padded(layers["mlp_norm"])[:, None],
        "wqkv": packed(
            xp.concatenate([layers["wq"], layers["wk"], layers["wv"]], axis=-1), d, s.qkv_columns
        ),
        "wo": packed(layers["wo"], s.head_dim, s.hidden_columns),
        "w_gate": packed(layers["w_gate"], d, f),
        "w_up": packed(layers["w_up"], d, f),
        "w_down": packed(layers["w_down"], f, s.hidden_columns),
    }
    laid |= {k: layers[k][:, None] for k in ("q_norm", "k_norm") if k in layers}
    embed = weights["embed"].astype(s.dtype)
    out = weights["head"].astype(s.dtype) if "head" in weights else embed.T
    return {
        "embed": padded(embed),
        "norm": padded(weights["norm"].astype(s.dtype))[None],
        "heads": tuple(packed(p, d, p_width) for p, p_width in _head_parts(out)),
        "layers": laid,
    }


def _head_parts(w: Any) -> list[tuple[Any, int]]:
    """Column blocks of one width, and the narrower rest: a padded column could win the maximum."""
    _, width = split(w.shape[1], BANK_COLUMNS)
    while 0 < w.shape[1] % width < FEWEST_COLUMNS:
        width -= 1
    full = w.shape[1] // width * width
    parts = [(w[:, :full], width), (w[:, full:], w.shape[1] - full)]
    return [p for p in parts if p[1]]
