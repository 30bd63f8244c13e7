"""Both ends of the model on one region: token to embedding, and residual stream to next token."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from emu.program import Known, Program
from emu.wse import argmax, chain_argmax, copy, lookup, multicast_2d, sram_tile, walk
from kernels.wse.decode.blocks import gemv, rms_norm
from kernels.wse.decode.mapping import HeadMap
from kernels.wse.decode.sums import reduce_to_first


def first_token(m: HeadMap) -> jax.Array:
    """The lowest token id whose column this PE holds; known."""
    return lax.axis_index("col") * jnp.int32(m.tokens)


def embed(m: HeadMap, table: jax.Array, token: jax.Array) -> jax.Array:
    """The embedding of `token`, float32 `[depth]`, on the first column.

    The id is broadcast from the corner PE. It is data, so every PE spends the same time: the
    owner of its column copies it, the others write zeros, and the row is summed.

    Dimensions: `table` `[depth, tokens]`, `token` int32 `[1]`.
    """
    token = copy(sram_tile(shape=(1,), dtype="int32"), token)
    token = multicast_2d(token, token, axes=("row", "col"))
    x = lookup(
        sram_tile(shape=(m.depth,), dtype="float32"), table, token, first_token(m)
    )
    return reduce_to_first(x, "col")


def predict(
    m: HeadMap, x: jax.Array, norm: jax.Array, table: jax.Array, gap: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Logits, float32 `[tokens]` on the first row, and the next token, int32 `[1]` on its first PE.

    Dimensions: `x` float32 `[depth]` in the last layer's region, `norm` `[depth]`, `table`
    `[depth, tokens]`, `gap` known hops. The lowest token id wins a tie; padding never does.
    """
    x = walk(x, x, gap, axis="col")
    h = rms_norm(x, norm, n=m.hidden, eps=m.eps, dtype=m.dtype)
    logits = reduce_to_first(gemv(table, h), "row")
    first, size = first_token(m), jnp.int32(m.tokens)
    valid = lax.max(lax.min(jnp.int32(m.vocab) - first, size), jnp.int32(0))
    best = (
        sram_tile(shape=(1,), dtype="float32"),
        sram_tile(shape=(1,), dtype="int32"),
    )
    best = lax.cond(
        lax.axis_index("row") == 0,
        lambda top, at, y, n, i: argmax(top, at, y, n, i),
        lambda top, at, y, n, i: (top, at),
        *best,
        logits,
        valid,
        first,
    )
    _, token = chain_argmax(*best, *best, axis="col")
    return logits, token


def embed_program(m: HeadMap) -> Program:
    """`embed` on its mesh: arguments `table` `[rows, cols, depth, tokens]` and `token` `[1]`."""
    return Program(lambda *args: embed(m, *args), m.mesh, (("row", "col"), ()))


def head_program(m: HeadMap) -> Program:
    """`predict` on its mesh: arguments `x` `[rows, depth]`, `norm` alike, `table`, `gap`."""
    specs = (("row",), ("row",), ("row", "col"), ())
    return Program(lambda *args: predict(m, *args), m.mesh, specs)


def head_arguments(m: HeadMap, gap: int) -> tuple[Any, ...]:
    """Shapes in place of data for `head_program(m).read` and `.memory`."""
    table, _ = embed_arguments(m)
    norm = jax.ShapeDtypeStruct((m.rows, m.depth), jnp.dtype(m.dtype))
    x = jax.ShapeDtypeStruct((m.rows, m.depth), jnp.dtype("float32"))
    return x, norm, table, Known(jnp.int32(gap))


def embed_arguments(m: HeadMap) -> tuple[Any, ...]:
    """Shapes in place of data for `embed_program(m).read` and `.memory`."""
    shape = (m.rows, m.cols, m.depth, m.tokens)
    token = jax.ShapeDtypeStruct((1,), jnp.dtype("int32"))
    return jax.ShapeDtypeStruct(shape, jnp.dtype(m.dtype)), token


__all__ = [
    "embed",
    "embed_arguments",
    "embed_program",
    "head_arguments",
    "head_program",
    "predict",
]
