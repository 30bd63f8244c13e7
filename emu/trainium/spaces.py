"""Names for annotations: a NeuronCore's memories. A tile's first dimension is its partitions."""

from typing import TypeAlias

import jax

Sbuf: TypeAlias = jax.Array
"""A tile in SBUF, `[partitions, ...]`, at most 128 partitions."""

Psum: TypeAlias = jax.Array
"""A tile in PSUM, `[partitions, ...]`: where matmuls accumulate, in float32."""

Hbm: TypeAlias = jax.Array
"""A buffer in HBM, of any shape."""

OnChip: TypeAlias = jax.Array
"""A tile in SBUF or PSUM: the engines read and write both."""

Stationary: TypeAlias = jax.Array
"""A tile in the Tensor Engine's array, `[rows, columns]`, at most 128 x 128."""

__all__ = ["Hbm", "OnChip", "Psum", "Sbuf", "Stationary"]
