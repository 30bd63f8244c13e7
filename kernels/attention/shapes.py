"""Shapes of queries, keys and values, `[batch, heads, tokens, features]`, as in FlexAttention."""

import jax

from kernels.refusal import refuse


def check_shapes(q: jax.Array, k: jax.Array, v: jax.Array) -> None:
    """Refuses arrays that are not queries, keys and values of the same sequences."""
    for name, x in (("q", q), ("k", k), ("v", v)):
        if x.ndim != 4:
            refuse(
                f"{name} has shape {x.shape}, must have four dimensions: batch, heads, tokens, "
                "features"
            )
    if q.shape[0] != k.shape[0] or q.shape[3] != k.shape[3]:
        refuse(f"q is {q.shape} and k {k.shape}, must agree in batch and features")
    if k.shape[:3] != v.shape[:3]:
        refuse(f"k is {k.shape} and v {v.shape}, must agree in batch, heads and tokens")
    if q.shape[1] % k.shape[1]:
        refuse(
            f"q has {q.shape[1]} heads and k {k.shape[1]}, must be a multiple of them"
        )


__all__ = ["check_shapes"]
