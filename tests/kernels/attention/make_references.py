"""Stores what torch's FlexAttention computes with attention-gym's masks and score functions.

Run `python -m tests.kernels.attention.make_references` where `torch` and `attn-gym` are installed;
it rewrites `data/references.safetensors` beside this file. It imports nothing of this project.
torch runs eagerly, in float64, on the CPU.
"""

import pathlib
from typing import Any

import numpy as np
import safetensors.numpy

DATA = pathlib.Path(__file__).parent / "data" / "references.safetensors"
TOKENS, HEADS, KV_HEADS, HEAD_DIM = 36, 4, 2, 4
PARENTS = [-1, 0, 0, 1, 1, 2, 5]
OFFSETS = [0, 5, 17, 36]
OPERANDS = ("q", "k", "v")


def operands() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(14)
    heads = (HEADS, KV_HEADS, KV_HEADS)
    return {
        name: rng.normal(size=(1, count, TOKENS, HEAD_DIM))
        for name, count in zip(OPERANDS, heads, strict=True)
    }


def cases() -> dict[str, dict[str, Any]]:
    """Arguments of FlexAttention, by name of the case."""
    import attn_gym.masks as gym  # pyright: ignore[reportMissingImports]
    import attn_gym.mods as mods  # pyright: ignore[reportMissingImports]
    import torch  # pyright: ignore[reportMissingImports]
    from torch.nn.attention.flex_attention import (  # pyright: ignore[reportMissingImports]
        and_masks,
    )

    def int32(values: list[int]) -> Any:
        return torch.tensor(values, dtype=torch.int32)

    is_global = torch.arange(TOKENS) < 3
    ancestors = gym.build_tree_ancestor_matrix(PARENTS, device="cpu")
    dilated = gym.generate_dilated_sliding_window(7, 2)
    continuations = int32([0, 12, 18, 25, 36]), int32([0, 0, 0, 0])

    def late(b: Any, h: Any, q: Any, k: Any) -> Any:
        return q >= 4

    causal = gym.causal_mask
    return {
        "causal": {"mask": causal},
        "sliding_window": {"mask": gym.generate_sliding_window(6)},
        "dilated_window": {"mask": and_masks(dilated, causal)},
        "global_local": {"mask": gym.generate_global_sliding_window(5, is_global)},
        "prefix_lm": {"mask": gym.generate_prefix_lm_mask(9)},
        "packed": {
            "mask": gym.generate_doc_mask_mod(
                gym.generate_prefix_lm_mask(2), int32(OFFSETS)
            )
        },
        "shared_prefix": {"mask": gym.generate_shared_prefix_mask_mod(*continuations)},
        "block_diffusion": {"mask": gym.generate_block_diffusion_mask(18, 6)},
        "neighborhood": {"mask": gym.generate_natten(6, 6, 3, 3)},
        "tree": {
            "mask": gym.generate_jetspec_tree_causal_mask_mod(
                TOKENS - len(PARENTS), ancestors
            ),
            "queries": len(PARENTS),
        },
        "rows_without_a_key": {"mask": and_masks(causal, late)},
        "alibi": {"mask": causal, "score": mods.generate_alibi_bias(HEADS)},
        "soft_cap": {"mask": causal, "score": mods.generate_tanh_softcap(2)},
    }


def compute() -> dict[str, np.ndarray]:
    """Operands; and of each case the output and the log-sum-exp."""
    import torch  # pyright: ignore[reportMissingImports]
    from torch.nn.attention.flex_attention import (  # pyright: ignore[reportMissingImports]
        AuxRequest,
        create_block_mask,
        flex_attention,
    )

    found = operands()
    q, k, v = (torch.from_numpy(found[name]) for name in OPERANDS)
    for name, case in cases().items():
        queries = q[:, :, -case["queries"] :] if "queries" in case else q
        blocks = create_block_mask(
            case["mask"], 1, HEADS, queries.shape[2], TOKENS, device="cpu"
        )
        out, aux = flex_attention(
            queries.contiguous(),
            k,
            v,
            score_mod=case.get("score"),
            block_mask=blocks,
            enable_gqa=True,
            return_aux=AuxRequest(lse=True),
        )
        found[f"{name}.out"] = out.numpy()
        found[f"{name}.lse"] = aux.lse.numpy()
    return found


if __name__ == "__main__":
    DATA.parent.mkdir(exist_ok=True)
    safetensors.numpy.save_file(
        {name: np.ascontiguousarray(x) for name, x in compute().items()}, DATA
    )
