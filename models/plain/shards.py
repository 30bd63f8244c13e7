"""The oracle on several devices, inside `jax.shard_map`: each has a part of the sequence.

Positions follow from a device's place on the mesh, and keys and values go round the devices of a
sequence. On three devices with two tokens each, device 1 has queries 2 and 3 and meets

    step   keys
    0      2 3   its own
    1      0 1   from device 0
    2      4 5   from device 2, by way of 0: behind its queries, so that none is attended

The arithmetic is that of one device but for the order of sums.
"""

import dataclasses
from collections.abc import Iterator

import jax
import jax.numpy as jnp

from models.plain.attention import Around


@dataclasses.dataclass(frozen=True)
class Shards:
    """Over which axes of a `jax.sharding.Mesh` a call's tokens `[batch, seq]` are sharded.

    Attributes:
        sequence: The axis over which each sequence is cut into equal parts, in order; None: every
            device has whole sequences.
        batch: The axis over which sequences are dealt out, in order; None: a device has all.
    """

    sequence: str | None = None
    batch: str | None = None

    def whole_length(self, seq: int) -> int:
        """Tokens of a sequence of which this device has `seq`."""
        return seq if self.sequence is None else seq * jax.lax.axis_size(self.sequence)

    def first_token(self, seq: int) -> jax.Array:
        """Position of the first of this device's `seq` tokens, int32."""
        return _first(self.sequence, seq)

    def first_sequence(self, batch: int) -> jax.Array:
        """Number of the first of this device's `batch` sequences, int32."""
        return _first(self.batch, batch)


def _first(axis: str | None, count: int) -> jax.Array:
    rank = jnp.int32(0) if axis is None else jax.lax.axis_index(axis)
    return rank * jnp.int32(count)


WHOLE = Shards()
"""One device has everything."""


def around(axis: str) -> Around:
    """The keys and values of all other devices along an axis of the mesh, one after another."""

    def blocks(
        k: jax.Array, v: jax.Array, stand: jax.Array
    ) -> Iterator[tuple[jax.Array, jax.Array, jax.Array]]:
        devices = jax.lax.axis_size(axis)
        to_next = [(device, (device + 1) % devices) for device in range(devices)]
        block = k, v, stand
        for _ in range(devices - 1):
            # What arrives is where it stood before, so its positions travel with it.
            block = jax.tree.map(lambda x: jax.lax.ppermute(x, axis, to_next), block)
            yield block

    return blocks


__all__ = ["WHOLE", "Shards", "around"]
