"""The keys and values that a transformer remembers between tokens."""

import dataclasses

import jax
import jax.numpy as jnp

from models.config import ModelConfig


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class KVCache:
    """Keys (after RoPE) and values of every layer.

    Attributes:
        k: float32 `[layers, batch, kv_heads, capacity, key_dim]`.
        v: float32 `[layers, batch, kv_heads, capacity, value_dim]`.
        length: int32 scalar; how many of `capacity` positions are filled, from 0.
    """

    k: jax.Array
    v: jax.Array
    length: jax.Array

    @property
    def capacity(self) -> int:
        """Most positions that the cache can hold."""
        return self.k.shape[3]


def empty_cache(config: ModelConfig, batch: int, capacity: int) -> KVCache:
    """A cache of `capacity` positions with none filled."""
    shape = (
        config.num_hidden_layers,
        batch,
        config.num_key_value_heads,
        capacity,
    )
    return KVCache(
        k=jnp.zeros((*shape, config.key_dim), jnp.float32),
        v=jnp.zeros((*shape, config.value_dim), jnp.float32),
        length=jnp.zeros((), jnp.int32),
    )
