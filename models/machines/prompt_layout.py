"""How a prompt is laid out on a ring of chips: tiles of a core's share, and where tokens stand."""

from collections.abc import Callable, Sequence

import numpy as np

from emu.annotations import DType
from emu.trainium.datasheets import NeuronCoreSheet
from kernels.formats.formats import Format
from kernels.masks.catalogue import or_masks
from kernels.tokens.choose import Slots, choose
from kernels.tokens.placement import PLACEMENTS
from kernels.trainium.context.sizes import LEAST_COLUMNS, ContextTiling
from kernels.trainium.gemm.scaled_pack import widened_bytes
from kernels.trainium.layer.ring import LayerScores, attention_tiling
from kernels.trainium.layer.tiling import LayerTiling, tile_tokens
from models.attention_pattern import Pattern
from models.config import ModelConfig
from models.family_attention import with_scale
from models.machines.latents import latent_heads
from models.machines.tensor_parallel import PADDING, Shares


def layer_tiling(
    config: ModelConfig,
    shares: Shares,
    tokens: int,
    dtype: DType,
    placement: str = "contiguous",
    *,
    chip: NeuronCoreSheet,
    elements: DType | None = None,
    by_token: Format | None = None,
    expert_elements: DType | None = None,
    weights: Format | None = None,
    cache: Format | None = None,
) -> LayerTiling:
    """How one core cuts its share of a layer for the chip's `tokens`.

    Args:
      config: of the model.
      shares: what each core holds.
      tokens: of the chip.
      dtype: of what is not in codes.
      placement: of the prompt's tokens.
      chip: the datasheet.
      elements, by_token, expert_elements, cache: see `LayerTiling`.
      weights: in codes that are made wide for products; None: they are not.
    """
    together = 1
    if weights is not None and weights.block is not None:
        together = weights.block[0] or 1
    ffn = shares.ffn.shape[1]
    # Zigzag gives a chip a run of positions from each end of the prompt.
    chunks = 2 if placement == "zigzag" else 1
    with_experts = [form.experts is not None for form in config.forms]
    outputs_apart = any(form.has_output_norms for form in config.forms)
    heads, cores = shares.heads.shape[1], len(shares.heads)
    # Where all layers have experts no block of tokens holds an MLP's features.
    widest = 0 if all(with_experts) else ffn
    latent = latent_heads(config.latent)
    if latent is not None:
        # Latents of a token, and what queries are made of the first of them.
        down = (latent.query_rank or 0) + latent.rank + latent.turned
        widest = max(widest, down + heads * config.key_dim)
    wide_norms = any(form.attention.qk_norm == "width" for form in config.forms)
    blocks, tiles, rows = tile_tokens(
        tokens,
        config.hidden_size,
        widest,
        dtype,
        chunks,
        sbuf_partition_bytes=chip.sbuf_partition_bytes,
        streams=2 if outputs_apart else 1,
        quantised=elements is not None or expert_elements is not None,
        by_token=by_token is not None,
        widened_bytes=0 if weights is None else widened_bytes(weights),
    )
    return LayerTiling(
        hidden=config.hidden_size,
        ffn=ffn,
        heads=heads,
        kv_heads=shares.kv_heads.shape[1],
        head_dim=config.key_dim,
        eps=config.rms_norm_eps,
        blocks=blocks,
        tiles=tiles,
        rows=rows,
        dtype=dtype,
        chunks=chunks,
        hidden_parts=cores if any(with_experts) or latent else 1,
        latent=latent,
        norm_widths=norm_widths(config, shares) if wide_norms else None,
        elements=elements,
        by_token=by_token,
        expert_elements=expert_elements,
        together=together,
        cache=cache,
    )


def norm_widths(config: ModelConfig, shares: Shares) -> tuple[int, int]:
    """See `LayerTiling.norm_widths`."""
    held = shares.kv_heads[shares.kv_heads != PADDING].size
    return config.query_width, held * config.head_dim


def scores_of(
    pattern: Pattern | None, shares: Shares, scale: float
) -> tuple[LayerScores, ...]:
    """What each distinct variant does to the scores of a decoder's layers.

    Args:
      pattern: of variants; None: all layers are causal, at the usual scale.
      shares: of the model.
      scale: of scores where a variant has none of its own.
    """
    heads = shares.heads.ravel()
    if pattern is None:
        return (LayerScores(heads=heads),)
    scaled = [with_scale(variant, scale) for variant in pattern.causal]
    return tuple(
        LayerScores.of(variant.reading, variant.scale, heads) for variant in scaled
    )


def choose_placement(
    tiling: Callable[[str], LayerTiling],
    tokens: int,
    chips: int,
    weighted: Sequence[tuple[LayerScores, int]],
) -> str:
    """The placement of least work over all layers.

    Args:
      tiling: gives sizes for a placement.
      tokens: of the prompt.
      chips: of the ring.
      weighted: what layers do to scores, and how many do.
    """
    total = {name: np.zeros(2) for name in PLACEMENTS}
    for scores, layers in weighted:
        own = {
            name: attention_tiling(tiling(name), scores, name) for name in PLACEMENTS
        }

        def slots(placement: str, own: dict[str, ContextTiling] = own) -> Slots:
            sizes = own[placement]
            k_tile = sizes.block_tiles * sizes.rows
            return Slots(sizes.slots, sizes.rows, k_tile, sizes.columns)

        def cost(
            placement: str,
            own: dict[str, ContextTiling] = own,
            scores: LayerScores = scores,
        ) -> float:
            sizes = own[placement]
            if scores.score is None:
                return sizes.block_cost
            # Of a score function every instruction takes a while besides its columns, which tells
            # where tiles are small.
            return sizes.block_tiles * (LEAST_COLUMNS + sizes.columns)

        masks = tuple(dict.fromkeys(scores.masks))
        choice = choose(
            # Of heads with masks of their own, a tile is work where it is for any.
            masks[0] if len(masks) == 1 else or_masks(*masks),
            tokens,
            chips,
            slots_of=slots,
            # A hop counts as one contiguous tile's work at least: with a single smaller tile, as
            # zigzag may have, it would else cost less, though its transfer takes as long.
            hop_tiles=1.0,
            cost=cost,
        )
        for name, score in choice.scores.items():
            total[name] += layers * np.asarray(score.rank)
    # Of equals the first, and so the plainest.
    return min(PLACEMENTS, key=lambda name: tuple(total[name]))


__all__ = ["choose_placement", "layer_tiling", "scores_of"]
