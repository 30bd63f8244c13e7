"""A layer's prefill on numbers: what one stage leaves is laid out as the next one takes it."""

from typing import Any, TypeAlias

import jax.numpy as jnp
import numpy as np

from kernels.moe.mesh import weights as moe_weights
from kernels.moe.mesh.mixture import Mixed
from kernels.moe.mesh.places import order
from kernels.moe.mesh.program import checked_for, same_counts
from kernels.moe.mesh.work import work
from kernels.trainium.context.attention import ContextAttention
from kernels.trainium.context.latent_program import LatentProgram
from models.errors import ModelError
from models.machines.layer_stages import LayerStages, LayerWeights, mixture_program
from models.plain.projections import rms_norm
from models.plain.rope import rope_tables

Cache: TypeAlias = tuple[np.ndarray, np.ndarray]
"""Keys and values `[tokens, all KV heads, features]`, or latents and turned keys, of all cores."""


def run(stages: LayerStages, x: np.ndarray, weights: LayerWeights) -> np.ndarray:
    """The layer of a sequence, one program after the other.

    Args:
      stages: the layer, with the sinks of its attention if it has any.
      x: hidden states `[tokens, hidden]`.
      weights: of the layer.

    Returns:
      The next hidden states, alike.
    """
    made, _ = run_behind(stages, x, weights, None)
    return made


def run_behind(
    stages: LayerStages, x: np.ndarray, weights: LayerWeights, cache: Cache | None
) -> tuple[np.ndarray, Cache]:
    """The layer of a chunk behind what earlier ones left, as `run`.

    Args:
      stages, x, weights: as of `run`, of the chunk's tokens.
      cache: of the `cached` tokens before them; None: there are none.

    Returns:
      The chunk's next hidden states, and the cache with its own tokens behind.

    Raises:
      ModelError: a cache of another number of tokens.
    """
    held = 0 if cache is None else len(cache[0])
    if held != stages.cached:
        raise ModelError(
            f"{stages.config.name}: a cache of {held} tokens, must be of the {stages.cached} that "
            "the layer's programs have before theirs"
        )
    weights = stages.given(weights)
    laid = _laid(stages, x)
    cos, sin = _tables(stages)
    packed = stages.packed_projections(weights)
    operands = stages.projections.run(laid, cos, sin, packed)
    attended, cache = _attended(stages, operands, weights, cache)
    y = stages.output.run(laid, attended, stages.packed_output(weights))
    # Every core of a place has the sum.
    after = _unlaid(stages, _by_place(stages, y)[:, 0])
    if stages.moe is None:
        made = stages.mlp.run(_laid(stages, after), stages.packed_mlp(weights))
        return _unlaid(stages, _by_place(stages, made)[:, 0]), cache
    return _mixed(stages, after, weights), cache


def _attended(
    stages: LayerStages, operands: Any, weights: LayerWeights, cache: Cache | None
) -> tuple[np.ndarray, Cache]:
    """Attention's output `[*mesh, heads, token tiles, rows, value_dim]`, and the cache."""
    # Behind keys and values could be a cache's codes, which stages have none of.
    arrays = [_by_place(stages, operand) for operand in operands if operand is not None]
    if stages.form.attention.latent is None:
        q, k, v = arrays
        out, cache = _of_heads(stages, q, k, v, cache)
    else:
        out, cache = _of_latents(stages, *arrays, weights=weights, cache=cache)
    return _by_core(stages, out), cache


def _by_place(stages: LayerStages, x: Any) -> np.ndarray:
    """`[*mesh, ...]` to `[places, cores of a place, ...]`."""
    of_core = np.shape(x)[len(stages.places) :]
    return np.asarray(x).reshape(stages.chips, stages.sharers, *of_core)


def _of_heads(
    stages: LayerStages,
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
    cache: Cache | None,
) -> tuple[np.ndarray, Cache]:
    """Attention of what `StoredHeads` has: `[tokens, heads, value_dim]`, and the cache."""
    attention = stages.attention
    assert isinstance(attention, ContextAttention)
    # Values have all heads of a row side by side: bring them to the form of queries and keys.
    chips, cores, tiles, rows, _ = v.shape
    by_head = v.reshape(chips, cores, tiles, rows, stages.kv_heads, -1)
    values = np.moveaxis(by_head, 3, -1)
    own = _by_token(stages, k), _by_token(stages, values)
    keys, of_keys = _behind(cache, own)
    out, _ = attention.run(_by_token(stages, q), keys, of_keys)
    return np.asarray(out), (keys, of_keys)


def _behind(cache: Cache | None, own: Cache) -> Cache:
    """A cache with a chunk's own behind it."""
    if cache is None:
        return own
    (keys, values), (own_keys, own_values) = cache, own
    return np.concatenate([keys, own_keys]), np.concatenate([values, own_values])


def _of_latents(
    stages: LayerStages,
    plain: np.ndarray,
    turned: np.ndarray,
    latents: np.ndarray,
    rotary: np.ndarray,
    *,
    weights: LayerWeights,
    cache: Cache | None,
) -> tuple[np.ndarray, Cache]:
    """Attention of what `LatentOperands` has: `[tokens, heads, value_dim]`, and the cache."""
    attention, latent = stages.attention, stages.form.attention.latent
    assert isinstance(attention, LatentProgram) and latent is not None
    heads = stages.config.num_attention_heads
    pair = weights["wkv_up"].reshape(latent.rank, heads, -1)
    of_keys, of_values = np.split(pair, [latent.plain], axis=2)
    # Latents and turned keys are the same on every core: those of the first are taken.
    own = _by_token(stages, latents[:, :1]), _by_token(stages, rotary[:, :1])
    of_token, of_key = _behind(cache, own)
    keys = len(of_token)
    out, _ = attention.run(
        _by_token(stages, np.concatenate([plain, turned], axis=4)),
        of_token.reshape(keys, -1),
        of_key.reshape(keys, -1),
        of_keys,
        of_values,
    )
    return np.asarray(out), (of_token, of_key)


def _by_core(stages: LayerStages, out: np.ndarray) -> np.ndarray:
    """`[tokens, heads, value_dim]` as the output projection takes it, padding as zeros."""
    chips, tiling = stages.chips, stages.tiling
    each = stages.tokens // chips
    of_chip = out.reshape(chips, each, *out.shape[1:])
    missing = tiling.tokens - each
    padded = np.pad(of_chip, [(0, 0), (0, missing), (0, 0), (0, 0)])
    tiles = tiling.token_tiles, tiling.rows
    by_core = padded.reshape(chips, *tiles, stages.sharers, stages.heads, -1)
    chip, tile, row, core, head, feature = range(6)
    in_order = by_core.transpose(chip, core, head, tile, row, feature)
    return in_order.reshape(*stages.places, *in_order.shape[2:])


def _by_token(stages: LayerStages, x: np.ndarray) -> np.ndarray:
    """`[places, cores, tiles, heads, features, rows]` to `[tokens, all heads, features]`."""
    chips, cores, tiles, heads, features, rows = x.shape
    chip, core, tile, head, feature, row = range(6)
    by_token = x.transpose(chip, tile, row, core, head, feature)
    of_chip = by_token.reshape(chips, tiles * rows, cores * heads, features)
    each = stages.tokens // stages.chips
    return of_chip[:, :each].reshape(stages.tokens, cores * heads, features)


def _mixed(stages: LayerStages, x: np.ndarray, weights: LayerWeights) -> np.ndarray:
    """`x` with the mixture of experts added, `[tokens, hidden]`."""
    assert stages.moe is not None
    eps, hidden = stages.config.rms_norm_eps, x.shape[1]
    plain = moe_weights.named(weights)
    by_chip = x.reshape(stages.moe.chips, -1, hidden)
    # Buffers have room for the rows that there are, so the router is asked first.
    of_norm = jnp.asarray(weights["mlp_norm"], jnp.float32)
    normed = rms_norm(jnp.asarray(by_chip), of_norm, eps)
    counts = stages.moe.counts(np.asarray(normed, stages.wide), plain)
    form = stages.moe.form(counts)

    missing = form.hidden_padded - hidden
    padded = np.pad(by_chip, [(0, 0), (0, 0), (0, missing)])
    tiles = padded.reshape(form.chips, form.tiles, form.rows, -1)
    tiles = tiles.astype(stages.wide)
    norm = np.pad(np.asarray(weights["mlp_norm"]), (0, missing))
    mixed: Mixed = mixture_program(form, eps).run(
        tiles,
        norm[None],
        moe_weights.packed(plain, form),
        order(form),
        work(form, checked_for(stages.moe, counts)),
    )
    # Every core of a chip has all rows and counts.
    same_counts(counts, np.asarray(mixed.counts)[:, 0, 0])
    rows = np.asarray(mixed.rows)[:, 0].reshape(form.chips, -1, form.hidden_padded)
    if stages.tensor > 1:
        rows = _joined(stages, rows)
    by_token = rows.reshape(stages.tokens, -1)
    return by_token[:, :hidden].astype(np.float32)


def _joined(stages: LayerStages, rows: np.ndarray) -> np.ndarray:
    """Each chip's rows `[chips, tokens, features]` as the first chip of each place gets them."""
    _, tokens, features = rows.shape
    by_core = rows.reshape(stages.chips, stages.tensor, tokens, stages.cores, -1)
    place, chip, token, core, feature = range(5)
    own = by_core.transpose(place, chip, core, token, feature)
    whole = np.asarray(stages.joined.run(own))[:, 0]
    place, core, token, feature = range(4)
    return whole.transpose(place, token, core, feature).reshape(-1, features)


def _laid(stages: LayerStages, x: np.ndarray) -> np.ndarray:
    """`[tokens, hidden]` as stages take it, `[chips, blocks, tiles, rows, hidden padded]`."""
    tiling, (tokens, hidden) = stages.tiling, x.shape
    each = tokens // stages.chips
    padding = [(0, tiling.tokens - each), (0, tiling.hidden_padded - hidden)]
    wide = np.pad(x.reshape(stages.chips, each, hidden), [(0, 0), *padding])
    laid = wide.reshape(stages.chips, tiling.blocks, tiling.tiles, tiling.rows, -1)
    return laid.astype(stages.wide)


def _unlaid(stages: LayerStages, x: np.ndarray) -> np.ndarray:
    """The inverse of `_laid`: `[tokens, hidden]`."""
    each = stages.tokens // stages.chips
    by_token = x.reshape(stages.chips, stages.tiling.tokens, -1)
    real = by_token[:, :each, : stages.config.hidden_size]
    return real.reshape(stages.tokens, -1).astype(np.float32)


def _tables(stages: LayerStages) -> tuple[np.ndarray, np.ndarray]:
    """Cosines and sines of all tokens."""
    rotation = stages.form.attention.rotation
    sizes = stages.table_struct.shape
    if rotation is None:
        return np.zeros(sizes, np.float32), np.zeros(sizes, np.float32)
    all_tokens = stages.cached + stages.tokens
    positions = np.arange(stages.cached, all_tokens)
    tables = rope_tables(stages.config, positions, all_tokens, rotation)
    each = stages.tokens // stages.chips
    missing = [(0, 0), (0, stages.tiling.tokens - each), (0, 0)]
    by_chip = (np.pad(t.reshape(stages.chips, each, -1), missing) for t in tables)
    cos, sin = (table.reshape(sizes) for table in by_chip)
    return cos, sin


__all__ = ["Cache", "run", "run_behind"]
