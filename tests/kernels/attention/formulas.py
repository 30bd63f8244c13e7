"""Each variant's formula from its paper, in plain NumPy and Python loops: an independent reference.

Nothing here is imported from what it judges.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

TOKENS, HEADS, HEAD_DIM, BATCH = 32, 4, 8, 2


def attend(
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
    change: Callable[..., np.ndarray],
    scale: float | None = None,
    weigh: Callable[..., np.ndarray] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Attention row by row.

    Args:
      q, k, v: `[batch, heads, tokens, head_dim]`.
      change: what becomes of the scores `[batch, heads, L, S]`.
      scale: None: by the square root of the head dimension.
      weigh: of a row's place `(b, h, i)`, the attended keys `[n]` and their scores `[n]`, what of
        each key's value is in the output, `[n]` or `[n, head_dim]`; None: its share in a softmax.

    Returns:
      The output, and the log-sum-exp `[batch, heads, L]`.
    """
    group = q.shape[1] // k.shape[1]
    k, v = np.repeat(k, group, 1), np.repeat(v, group, 1)
    scale = 1 / math.sqrt(q.shape[-1]) if scale is None else scale
    scores = change(q @ np.swapaxes(k, -1, -2) * scale)
    out = np.zeros((*q.shape[:3], v.shape[-1]))
    sums = np.full(q.shape[:3], -np.inf)
    for row in np.ndindex(*q.shape[:3]):
        live = np.flatnonzero(scores[row] != -np.inf)
        if not live.size:
            continue
        weights = np.exp(scores[row][live])
        sums[row] = math.log(weights.sum())
        shares = weights / weights.sum()
        if weigh is not None:
            shares = weigh(row, live, scores[row][live])
        shares = shares.reshape(len(live), -1)
        out[row] = (shares * v[row[:2]][live]).sum(0)
    return out, sums


def pairs(allowed: Callable[[int, int, int, int], Any]) -> Callable[..., np.ndarray]:
    """Keeps the scores of allowed pairs `(b, h, i, j)`."""

    def change(scores: np.ndarray) -> np.ndarray:
        kept = np.full(scores.shape, -np.inf)
        for b, h, i, j in np.ndindex(*scores.shape):
            if allowed(b, h, i, j):
                kept[b, h, i, j] = scores[b, h, i, j]
        return kept

    return change


def causal(b: int, h: int, i: int, j: int) -> bool:
    return j <= i


def documents(i: int, j: int) -> bool:
    """Of 2, 4, 8 and 18 tokens."""
    return any(a <= j <= i < z for a, z in ((0, 2), (2, 6), (6, 14), (14, 32)))


def shared(i: int, j: int) -> bool:
    """Sixteen tokens of a prompt, and four continuations of four."""
    return j <= i and (j < 16 or (j - 16) // 4 == (i - 16) // 4)


def tree(i: int, j: int) -> bool:
    """A binary tree of sixteen tokens behind sixteen: walks from a token to its root."""
    if i < 16 or j < 16:
        return j <= i
    token = i - 16
    while token != j - 16:
        if token == 0:
            return False
        token = (token - 1) // 2
    return True


def diffusion(i: int, j: int) -> bool:
    """Sixteen noised tokens and the same clean, in blocks of eight: the paper's three masks."""
    noised_q, noised_k = i < 16, j < 16
    block_q, block_k = i % 16 // 8, j % 16 // 8
    block_diagonal = block_q == block_k and noised_q and noised_k
    offset_block_causal = block_q > block_k and noised_q and not noised_k
    block_causal = block_q >= block_k and not noised_q and not noised_k
    return block_diagonal or offset_block_causal or block_causal


def neighborhood(i: int, j: int) -> bool:
    """Four rows of eight pixels, squares of three that begin within the image."""

    def begin(place: int, size: int) -> int:
        return min(max(place - 1, 0), size - 3)

    (y, x), (of_y, of_x) = divmod(i, 8), divmod(j, 8)
    return 0 <= of_y - begin(y, 4) < 3 and 0 <= of_x - begin(x, 8) < 3


def alibi(scores: np.ndarray, array: np.ndarray | None = None) -> np.ndarray:
    if array is None:
        array = np.array([2.0 ** (-8 * (n + 1) / HEADS) for n in range(HEADS)])
    kept = pairs(causal)(scores)
    for h, i, j in np.ndindex(*scores.shape[1:]):
        kept[:, h, i, j] += array[h] * -(i - j)
    return kept


def t5_bucket(distance: int) -> int:
    """Of 32: sixteen of one distance each, and logarithmic ones up to 128."""
    if distance < 16:
        return distance
    far = 16 + int(math.log(distance / 16) / math.log(128 / 16) * 16)
    return min(far, 31)


def relative_bias(scores: np.ndarray, array: np.ndarray | None = None) -> np.ndarray:
    if array is None:
        drawn = np.random.default_rng(0).normal(size=(32, HEADS))
        array = drawn.astype(np.float32).astype(float)
    kept = pairs(causal)(scores)
    for h, i, j in np.ndindex(*scores.shape[1:]):
        if j <= i:
            kept[:, h, i, j] += array[t5_bucket(i - j), h]
    return kept


def head_temperature(scores: np.ndarray, array: np.ndarray | None = None) -> np.ndarray:
    if array is None:
        array = np.random.default_rng(0).uniform(0.5, 2, HEADS).astype(np.float32)
    return pairs(causal)(scores) / np.asarray(array, float)[None, :, None, None]


def drawn(*shape: int) -> np.ndarray:
    """What a variant of the catalogue learns, as its entry draws it."""
    array = np.random.default_rng(0).normal(size=shape)
    return array.astype(np.float32).astype(float)


def learned_sink(
    row: tuple[int, int, int],
    live: np.ndarray,
    scores: np.ndarray,
    array: np.ndarray | None = None,
) -> np.ndarray:
    sinks = drawn(HEADS) if array is None else array
    return np.exp(scores) / (np.exp(scores).sum() + np.exp(sinks[row[1]]))


def gated(
    row: tuple[int, int, int], live: np.ndarray, scores: np.ndarray
) -> np.ndarray:
    b, h, i = row
    shares = np.exp(scores) / np.exp(scores).sum()
    gate = drawn(BATCH, HEADS, 64, HEAD_DIM)[b, h, i]
    return shares[:, None] / (1 + np.exp(-gate))


def scales(*shape: int) -> list[np.ndarray]:
    """Of keys and values, as the catalogue draws them."""
    rng = np.random.default_rng(0)
    drawn = [rng.uniform(0.5, 1.5, shape).astype(np.float32) for _ in range(2)]
    return [np.repeat(x.astype(float), HEADS // 2, 1) for x in drawn]


def int8_scores(scores: np.ndarray) -> np.ndarray:
    k_scales, _ = scales(BATCH, 2, TOKENS)
    return pairs(causal)(scores * k_scales[:, :, None, :])


def int8_cache(
    row: tuple[int, int, int], live: np.ndarray, scores: np.ndarray
) -> np.ndarray:
    _, v_scales = scales(BATCH, 2, TOKENS)
    return np.exp(scores) / np.exp(scores).sum() * v_scales[row[:2]][live]


def fp8_scores(scores: np.ndarray) -> np.ndarray:
    k_scales, _ = scales(BATCH, 2)
    return pairs(causal)(scores * k_scales[:, :, None, None])


def fp8_cache(
    row: tuple[int, int, int], live: np.ndarray, scores: np.ndarray
) -> np.ndarray:
    _, v_scales = scales(BATCH, 2)
    return np.exp(scores) / np.exp(scores).sum() * v_scales[row[:2]]


FORMULAS: dict[str, Callable[..., np.ndarray]] = {
    "full": lambda scores: scores,
    "causal": pairs(causal),
    "grouped": pairs(causal),
    "multi_query": pairs(causal),
    "sliding_window": pairs(lambda b, h, i, j: 0 <= i - j < 8),
    "sinks_window": pairs(lambda b, h, i, j: 0 <= i - j and (i - j < 8 or j < 4)),
    "dilated_window": pairs(lambda b, h, i, j: i - j in range(0, 32, 4)),
    "global_local": pairs(lambda b, h, i, j: abs(i - j) <= 8 or min(i, j) < 4),
    "chunked": pairs(lambda b, h, i, j: i - i % 8 <= j <= i),
    "block_causal": pairs(lambda b, h, i, j: j < i - i % 8 + 8),
    "prefix_lm": pairs(lambda b, h, i, j: j < 8 or j <= i),
    "packed_documents": pairs(lambda b, h, i, j: documents(i, j)),
    "shared_prefix": pairs(lambda b, h, i, j: shared(i, j)),
    "tree": pairs(lambda b, h, i, j: tree(i, j)),
    "block_diffusion": pairs(lambda b, h, i, j: diffusion(i, j)),
    "neighborhood": pairs(lambda b, h, i, j: neighborhood(i, j)),
    "cross": pairs(lambda b, h, i, j: j < (16, 12)[b]),
    "alibi": alibi,
    "relative_bias": relative_bias,
    "soft_cap": lambda scores: pairs(causal)(50 * np.tanh(scores / 50)),
    "head_temperature": head_temperature,
    "learned_sink": pairs(causal),
    "off_by_one": pairs(causal),
    "gated": pairs(causal),
    "sigmoid": pairs(causal),
    "int8_cache": int8_scores,
    "fp8_cache": fp8_scores,
}
SCALES = {"relative_bias": 1.0}
# What is in place of shares in a softmax.
WEIGHTS: dict[str, Callable[..., np.ndarray]] = {
    "learned_sink": learned_sink,
    "off_by_one": lambda row, live, s: np.exp(s) / (1 + np.exp(s).sum()),
    "gated": gated,
    "sigmoid": lambda row, live, s: 1 / (1 + TOKENS * np.exp(-s)),
    "int8_cache": int8_cache,
    "fp8_cache": fp8_cache,
}
