"""Greedy text from the oracle: one prefill, then one token at a time, both jitted."""

import dataclasses
import math
from collections.abc import Collection, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from kernels.formats.formats import Format
from models.config import ModelConfig
from models.errors import ModelError
from models.plain.held import taken_as
from models.plain.kv_cache import KVCache, empty_cache
from models.plain.transformer import Transformer, extend, weights
from models.precision import Taken

# Capacities are rounded up to this, so that one compiled step serves many lengths.
CAPACITY_STEP = 128

jitted_extend = jax.jit(extend, static_argnums=(0, 4, 5, 6))


def generate(
    model: Transformer,
    prompt_ids: Sequence[int],
    n: int,
    eos_id: int | Collection[int] | None = None,
    held: Taken = Taken(),
    cached: Format | None = None,
) -> tuple[list[int], NDArray[np.float32]]:
    """Continues a prompt greedily; the lowest token id wins a tie.

    Args:
        model: The oracle.
        prompt_ids: At least one token id.
        n: Most tokens to generate.
        eos_id: Stop after this token (or any of these); it is the last one returned.
        held: What products of layers have the prompt's activations in, as a prefill may; those of
            the answer's tokens are float32.
        cached: What the cache is held in behind the prompt, which sees its keys and values as they
            are; None: float32.

    Returns:
        The generated token ids, and the logits each was chosen from, float32 `[tokens, vocab]`.

    Raises:
        ModelError: The ids are not of this model, prompt and answer exceed its context, or latents
            are to be held in codes.
    """
    check_ids(model.config, prompt_ids, n)
    if model.config.latent is not None and cached is not None and cached.is_coded:
        raise ModelError(
            f"{model.config.name}: a prompt sees its latents as they are, and the cache has keys "
            f"and values made of them, so that none are left to be held in {cached.name} behind "
            "it; extend an empty cache token by token"
        )
    stops = {eos_id} if isinstance(eos_id, int) else set(eos_id or ())
    longest = len(prompt_ids) + n
    # Slots that are never filled weigh exactly 0.
    capacity = math.ceil(longest / CAPACITY_STEP) * CAPACITY_STEP
    canonical = weights(model)
    cache = empty_cache(model.config, 1, capacity)
    # Two shapes, so two compilations for an answer of any length: the prompt, then one token.
    pending = np.asarray([prompt_ids], np.int32)
    tokens: list[int] = []
    rows: list[NDArray[np.float32]] = []
    while len(tokens) < n and not (tokens and tokens[-1] in stops):
        logits, cache = jitted_extend(
            *(model.config, canonical, jnp.asarray(pending), cache),
            *(
                (model.attention, Taken(), cached)
                if tokens
                else (model.attention, held)
            ),
        )
        if not tokens:
            cache = cache_as_held(cache, cached)
        rows.append(np.asarray(logits[0, -1]))
        tokens.append(int(np.argmax(rows[-1])))
        pending = np.asarray([tokens[-1:]], np.int32)
    shape = (len(rows), model.config.vocab_size)
    return tokens, np.reshape(rows, shape).astype(np.float32)


def cache_as_held(cache: KVCache, held: Format | None) -> KVCache:
    """The cache with what a format makes of each token's key and value of a head.

    Not of latents, of which keys and values of all heads are here: these may join the cache held.
    """
    k, v = taken_as(held, cache.k), taken_as(held, cache.v)
    return dataclasses.replace(cache, k=k, v=v)


def check_ids(config: ModelConfig, ids: Sequence[int], n: int) -> None:
    """Raises ModelError unless `ids` and `n` more tokens suit the model."""
    if not len(ids):
        raise ModelError(
            f"{config.name}: the prompt must hold at least one token, got none"
        )
    wrong = [token for token in ids if not 0 <= token < config.vocab_size]
    if wrong:
        raise ModelError(
            f"{config.name}: token ids must be from 0 to {config.vocab_size - 1}, got {wrong[0]}; "
            "encode the prompt with this model's own tokenizer"
        )
    if n < 0 or len(ids) + n > config.max_position_embeddings:
        raise ModelError(
            f"{config.name}: prompt and answer must fit {config.max_position_embeddings} tokens, "
            f"got {len(ids)} and {n}; shorten one of them"
        )
