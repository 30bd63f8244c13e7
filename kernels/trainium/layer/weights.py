"""One decoder layer's weights, as they stand in HBM."""

from typing import TypedDict

from emu.trainium.spaces import Hbm


class LayerWeights(TypedDict):
    """What `models.machines.pack` packs, one core's share of it.

    Packed weights are `[blocks, chunks, rows, tiles a chunk, columns]` of a `[K, N]` matrix: each
    `[rows, tiles a chunk, columns]` is one contiguous read; see `kernels.trainium.tiles.pack`.

    Keys:
      attn_norm, mlp_norm: `[1, hidden padded]`.
      q_norm, k_norm: `[1, head_dim]`; only where `LayerTiling.qk_norm`, as for Qwen3.
      wqkv: packed, hidden to q, k and v of all heads side by side.
      wo: packed, heads to hidden.
      w_gate, w_up: packed, hidden to FFN.
      w_down: packed, FFN to hidden.
    """

    attn_norm: Hbm
    mlp_norm: Hbm
    q_norm: Hbm
    k_norm: Hbm
    wqkv: Hbm
    wo: Hbm
    w_gate: Hbm
    w_up: Hbm
    w_down: Hbm


__all__ = ["LayerWeights"]
