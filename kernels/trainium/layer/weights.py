"""One decoder layer's weights, as they stand in HBM."""

from typing import NotRequired, TypedDict

from emu.trainium.spaces import Hbm
from kernels.trainium.gemm.operands import Weight


class LayerWeights(TypedDict):
    """What `models.machines.pack` packs, one core's share of it.

    Packed weights are `[blocks, chunks, rows, tiles a chunk, columns]` of a `[K, N]` matrix: each
    `[rows, tiles a chunk, columns]` is one contiguous read; see `kernels.trainium.tiles.pack`, and
    for MX `kernels.trainium.gemm.mx_pack`.

    Keys:
      attn_norm, mlp_norm: `[1, hidden padded]`.
      attn_output_norm, mlp_output_norm: alike; where outputs are normalised before they are added
        to the residual stream, as Gemma's are.
      q_norm, k_norm: `[1, head_dim]`; where `PrefillForm.qk_norm` is "head", as for Qwen3.
      wqkv: packed, hidden to q, k and v of all heads side by side.
      bqkv: `[1, (heads + 2 · kv_heads) · head_dim]`; where they have biases, as Qwen2's.
      wo: packed, heads to hidden.
      bo: `[1, hidden padded]`; where attention's output has a bias.
      w_gate, w_up: packed, hidden to FFN.
      w_down: packed, FFN to hidden.
    """

    attn_norm: Hbm
    mlp_norm: Hbm
    attn_output_norm: NotRequired[Hbm]
    mlp_output_norm: NotRequired[Hbm]
    q_norm: NotRequired[Hbm]
    k_norm: NotRequired[Hbm]
    wqkv: Weight
    bqkv: NotRequired[Hbm]
    wo: Weight
    bo: NotRequired[Hbm]
    w_gate: Weight
    w_up: Weight
    w_down: Weight


__all__ = ["LayerWeights"]
