"""One decoder layer on its region of PEs, for one token: the walk in, attention, MLP."""

from typing import Any

import jax
import jax.numpy as jnp

from emu.program import Known, Program
from emu.wse import walk
from kernels.wse.decode.attention import Cache, attention
from kernels.wse.decode.blocks import mlp
from kernels.wse.decode.mapping import LayerMap


def decode_layer(
    m: LayerMap,
    x: jax.Array,
    w: dict[str, Any],
    cache: Cache,
    cos: jax.Array,
    sin: jax.Array,
    pos: jax.Array,
    gap: jax.Array,
) -> tuple[jax.Array, Cache]:
    """One layer for the token at `pos`, whose key and value join the cache.

    Args:
      m: the mapping.
      x: float32 `[depth]`, the residual stream in the region behind.
      w: weights of this PE, shapes `m.weight_shapes()`.
      cache: of this PE, shapes `m.cache_shapes()`; positions 0 to `pos - 1` are filled.
      cos, sin: float32 `[dims / 2]`, the rotation at `pos` of this column's pairs.
      pos: known int32 position.
      gap: known hops between the region behind and this one.

    Returns:
      The residual stream on every column, and the cache.
    """
    x = walk(x, x, gap, axis="col")
    x, cache = attention(m, x, w, cache, (cos, sin), pos)
    return mlp(m, x, w), cache


def layer_program(m: LayerMap) -> Program:
    """`decode_layer` on its mesh: arguments `x, w, cache, cos, sin, pos, gap`.

    Every array leads with the mesh axes it is split over: `x` `[rows, depth]`, most weights
    `[rows, cols, ...]`, the cache `[rows, cols, ...]`, `cos` and `sin` `[cols, dims / 2]`.
    """

    def kernel(*args: Any) -> Any:
        return decode_layer(m, *args)

    pe = ("row", "col")
    specs = (("row",), m.weight_specs(), pe, ("col",), ("col",), (), ())
    return Program(kernel, m.mesh, specs)


def layer_arguments(m: LayerMap, pos: int, gap: int) -> tuple[Any, ...]:
    """Shapes in place of data for `layer_program(m).read` and `.memory`."""
    lead = {"row": m.rows, "col": m.cols}

    def struct(spec: tuple[Any, ...], shape: tuple[int, ...], dtype: Any) -> Any:
        return jax.ShapeDtypeStruct(
            (*(lead[a] for a in spec), *shape), jnp.dtype(dtype)
        )

    specs = m.weight_specs()
    weights = {k: struct(specs[k], s, m.dtype) for k, s in m.weight_shapes().items()}
    cache = {k: struct(("row", "col"), s, m.dtype) for k, s in m.cache_shapes().items()}
    turn = struct(("col",), (m.dims // 2,), "float32")
    x = struct(("row",), (m.depth,), "float32")
    return x, weights, cache, turn, turn, Known(jnp.int32(pos)), Known(jnp.int32(gap))


__all__ = ["decode_layer", "layer_arguments", "layer_program"]
