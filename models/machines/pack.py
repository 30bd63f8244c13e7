"""The canonical weights laid out for a chip's NeuronCores: shared out, padded, loads contiguous."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kernels.trainium.layer.tiling import LayerTiling
from kernels.trainium.tiles import BANK_COLUMNS, pack, split
from models.machines.tensor_parallel import FEWEST_LOGITS, Shares, deal

WHOLE = ("attn_norm", "mlp_norm", "q_norm", "k_norm")  # on every core


def pack_weights(weights: Any, s: LayerTiling, shares: Shares) -> Any:
    """The canonical weights laid out as the kernels load them; structs stay structs.

    Args:
      weights: canonical pytree.
      s: one core's sizes.
      shares: what each core holds.

    Returns:
      Embedding and norms as every core has them; everything else with an axis of cores, where
      there are several, behind that of the layers; see `specs`.
    """
    packed = functools.partial(_packed, s=s, shares=shares)
    if isinstance(jax.tree.leaves(weights)[0], jax.ShapeDtypeStruct):
        return jax.eval_shape(functools.partial(packed, xp=jnp), weights)
    return packed(jax.tree.map(np.asarray, weights), xp=np)


def specs(packed: Any, axis: str | None) -> Any:
    """Which packed weights differ along the cores' mesh axis, as `emu.Program` takes it."""
    if axis is None:
        return ()
    layers = {k: () if k in WHOLE else (None, axis) for k in packed["layers"]}
    return {"embed": (), "norm": (), "heads": (axis,), "layers": layers}


def _packed(weights: Any, *, s: LayerTiling, shares: Shares, xp: Any) -> Any:
    """Each part is placed as soon as it is laid out, so that only one is held twice."""
    embed = xp.asarray(weights["embed"], s.dtype)
    out = xp.asarray(weights["head"], s.dtype) if "head" in weights else embed.T
    out = deal(out, shares.vocabulary, -1, 1, xp)
    return {
        "embed": _padded(embed, s, xp),
        "norm": _padded(weights["norm"], s, xp)[None],
        "heads": tuple(
            jnp.asarray(pack(part, s.hidden_tiles[1], width, xp))
            for part, width in _head_parts(out)
        ),
        "layers": _layers(weights["layers"], s, shares, xp),
    }


def _layers(layers: Any, s: LayerTiling, shares: Shares, xp: Any) -> Any:
    d, f = s.hidden_tiles[1], s.ffn_tiles[1]

    def part(name: str, index: Any, axis: int = -1, unit: int = 1) -> Any:
        return deal(xp.asarray(layers[name], s.dtype), index, axis, unit, xp)

    def placed(w: Any, rows: int, columns: int) -> Any:
        return jnp.asarray(pack(w, rows, columns, xp))

    held = {"wq": shares.heads, "wk": shares.kv_heads, "wv": shares.kv_heads}
    fused = xp.concatenate(
        [part(k, i, unit=s.head_dim) for k, i in held.items()], axis=-1
    )
    return {
        "attn_norm": _padded(layers["attn_norm"], s, xp)[:, None],
        "mlp_norm": _padded(layers["mlp_norm"], s, xp)[:, None],
        "wqkv": placed(fused, d, s.qkv_columns),
        "wo": placed(
            part("wo", shares.heads, -2, s.head_dim), s.head_dim, s.hidden_columns
        ),
        "w_gate": placed(part("w_gate", shares.ffn), d, f),
        "w_up": placed(part("w_up", shares.ffn), d, f),
        "w_down": placed(part("w_down", shares.ffn, -2), f, s.hidden_columns),
        **{
            k: jnp.asarray(layers[k], s.dtype)[:, None]
            for k in WHOLE[2:]
            if k in layers
        },
    }


def _padded(x: Any, s: LayerTiling, xp: Any) -> Any:
    lead = [(0, 0)] * (x.ndim - 1)
    padding = [*lead, (0, s.hidden_padded - x.shape[-1])]
    return jnp.asarray(xp.pad(xp.asarray(x, s.dtype), padding))


def _head_parts(w: Any) -> list[tuple[Any, int]]:
    """Column blocks of one width, and the narrower rest: a padded column could win the maximum."""
    count = w.shape[-1]
    _, width = split(count, BANK_COLUMNS)
    while 0 < count % width < FEWEST_LOGITS:
        width -= 1
    full = count // width * width
    parts = [(w[..., :full], width), (w[..., full:], count - full)]
    return [p for p in parts if p[1]]
