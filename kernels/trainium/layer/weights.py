"""One decoder layer's weights, as they stand in HBM."""

from typing import NotRequired, TypedDict

from emu.trainium.spaces import Hbm
from kernels.trainium.gemm.operands import Weight
from kernels.trainium.gemm.scaled import AnyWeight, BlockWeight, ScaledWeight


class LayerWeights(TypedDict):
    """What `models.machines.pack` packs, one core's share of it.

    Packed weights are `[blocks, chunks, rows, tiles a chunk, columns]` of a `[K, N]` matrix: each
    `[rows, tiles a chunk, columns]` is one contiguous read; see `kernels.trainium.tiles.pack`, and
    for MX `kernels.trainium.gemm.mx_pack`, for codes with scales of columns
    `kernels.trainium.gemm.scaled_pack`.

    Keys:
      attn_norm, mlp_norm: `[1, hidden padded]`.
      attn_output_norm, mlp_output_norm: alike; where outputs are normalised before they are added
        to the residual stream, as Gemma's are.
      q_norm, k_norm: `[1, head_dim]`; where `PrefillForm.qk_norm` is "head", as for Qwen3.
      wide_q_norm, wide_k_norm: `[1, heads · head_dim]` and `[1, kv_heads · head_dim]`; where it is
        "width", as for MiniMax-M2.
      wqkv: packed, hidden to q, k and v of all heads side by side; where keys and values are made
        of latents, there are these instead:
      latents_down: packed, hidden to this core's columns of a token's latents, see
        `kernels.trainium.stages.latent.LatentWeights.down`.
      query_norm: `[1, query rank]`; where queries have a latent.
      queries_up: packed, from that latent, or from hidden, to queries.
      latent_norm: `[1, rank]`.
      keys_up, values_up: from a latent to this core's heads, see
        `kernels.trainium.context.latent.expand`.
      bqkv: `[1, (heads + 2 · kv_heads) · head_dim]`; where they have biases, as Qwen2's.
      wo: packed, heads to hidden.
      bo: `[1, hidden padded]`; where attention's output has a bias.
      w_gate, w_up: packed, hidden to FFN; or in one:
      w_gate_up: packed, in each block of columns the gate's and then as many of the other; where
        activations are in codes by token.
      w_down: packed, FFN to hidden.
    """

    attn_norm: Hbm
    mlp_norm: Hbm
    attn_output_norm: NotRequired[Hbm]
    mlp_output_norm: NotRequired[Hbm]
    q_norm: NotRequired[Hbm]
    k_norm: NotRequired[Hbm]
    wide_q_norm: NotRequired[Hbm]
    wide_k_norm: NotRequired[Hbm]
    wqkv: AnyWeight
    latents_down: NotRequired[Weight]
    query_norm: NotRequired[Hbm]
    queries_up: NotRequired[Weight]
    latent_norm: NotRequired[Hbm]
    keys_up: NotRequired[Weight]
    values_up: NotRequired[Weight]
    bqkv: NotRequired[Hbm]
    wo: AnyWeight
    bo: NotRequired[Hbm]
    w_gate: NotRequired[Weight | ScaledWeight]
    w_up: NotRequired[Weight | ScaledWeight]
    w_gate_up: NotRequired[ScaledWeight | BlockWeight]
    w_down: AnyWeight


__all__ = ["LayerWeights"]
