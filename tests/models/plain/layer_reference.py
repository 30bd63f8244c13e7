"""A decoder in NumPy and float64, with what becomes of each layer's scores written out."""

from collections.abc import Sequence

import numpy as np

from models.config import ModelConfig
from models.plain.rope import rope_tables
from models.plain.weights import Weights


def logits(
    config: ModelConfig,
    weights: Weights,
    tokens: np.ndarray,
    changed: Sequence,
) -> np.ndarray:
    """Logits `[batch, seq, vocab]`.

    Args:
        config: sizes.
        weights: canonical.
        tokens: `[batch, seq]`.
        changed: for each layer, what becomes of its scaled scores `[batch, heads, seq, seq]`, -inf
            where a pair is not attended; further keys have values of 0.
    """
    weights = {key: value for key, value in weights.items()}
    seq = tokens.shape[1]
    cos, sin = (
        np.asarray(x, np.float64)[:, None]
        for x in rope_tables(config, np.arange(seq), seq)
    )
    x = np.asarray(weights["embed"], np.float64)[tokens]

    def norm(x: np.ndarray, scale: np.ndarray) -> np.ndarray:
        mean = np.mean(x**2, axis=-1, keepdims=True)
        return x / np.sqrt(mean + config.rms_norm_eps) * np.float64(scale)

    def turned(x: np.ndarray) -> np.ndarray:
        first, second = np.split(x, 2, axis=-1)
        return np.concatenate(
            [first * cos - second * sin, second * cos + first * sin], -1
        )

    for layer in range(config.num_hidden_layers):
        own = {
            name: np.asarray(stacked[layer], np.float64)
            for name, stacked in weights["layers"].items()
        }
        h = norm(x, own["attn_norm"])
        q, k, v = (
            (h @ own[name]).reshape(*h.shape[:2], -1, config.head_dim)
            for name in ("wq", "wk", "wv")
        )
        q, k = turned(q), turned(k)
        group = q.shape[2] // k.shape[2]
        k, v = (np.repeat(each, group, axis=2) for each in (k, v))
        scores = np.einsum("bshd,bthd->bhst", q, k) / np.sqrt(config.head_dim)
        scores = changed[layer](scores)
        further = scores.shape[-1] - seq
        v = np.pad(v, [(0, 0), (0, further), (0, 0), (0, 0)])
        greatest = scores.max(-1, keepdims=True)
        weight = np.exp(scores - np.where(np.isinf(greatest), 0, greatest))
        total = weight.sum(-1, keepdims=True)
        shares = weight / np.where(total == 0, 1, total)
        mixed = np.einsum("bhst,bthd->bshd", shares, v).reshape(*h.shape[:2], -1)
        x = x + mixed @ own["wo"]
        h = norm(x, own["mlp_norm"])
        gate = h @ own["w_gate"]
        x = x + (gate / (1 + np.exp(-gate)) * (h @ own["w_up"])) @ own["w_down"]
    return norm(x, weights["norm"]) @ np.asarray(weights["embed"], np.float64).T
