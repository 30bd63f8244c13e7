"""One decoder layer on its region of PEs, for one token: the way in, attention, MLP."""

from typing import Any

import jax.numpy as jnp
from jax import ShapeDtypeStruct

from emu.annotations import DType, KnownInt, Shape
from emu.program import Known, Program
from emu.wse.spaces import Sram
from kernels.wse.decode import sizes
from kernels.wse.decode.arrive import arrive
from kernels.wse.decode.attention import Cache, attend, attention
from kernels.wse.decode.blocks import Weights, mlp
from kernels.wse.decode.latent_attention import latent_attention
from kernels.wse.decode.mapping import PE, LayerMap
from kernels.wse.decode.varied_layer import LayerAttention


def decode_layer(
    layer: LayerMap,
    residual: Sram,
    weights: Weights,
    cache: Cache,
    cos: Sram,
    sin: Sram,
    pos: KnownInt,
    gap: KnownInt,
    *given: Any,
    variant: LayerAttention | None = None,
    crosses: bool = False,
) -> tuple[Sram, Cache, Sram | None]:
    """One layer for the token at `pos`, whose key and value join the cache.

    Args:
      layer: the mapping.
      residual: float32 `[depth]`, the residual stream in the region behind.
      weights: of this PE, shapes `layer.weight_shapes()`.
      cache: of this PE, shapes `layer.cache_shapes()`; positions 0 to `pos - 1` are filled.
      cos, sin: float32 `[turned_pairs]`, the rotation at `pos` of this column's pairs.
      pos: known int32 position.
      gap: known hops between the region behind and this one.
      given: with a temperature, that, float32 `[1]`; then what the variant is given.
      variant: of attention; None: causal.
      crosses: whether the region behind is on another wafer.

    Returns:
      The residual stream on every column, the cache, and what an MLP of the form's chose, if it
      has one.
    """
    residual = arrive(residual, gap, crosses)
    temperature = None
    if layer.form.has_temperature:
        temperature, *of_variant = given
    else:
        of_variant = given

    def attended(q: Sram, cache: Cache) -> Sram:
        if variant is None:
            return attend(layer, q, cache, pos)
        return variant.attend(q, cache, pos, *of_variant)

    turn = cos, sin
    where = layer, residual, weights, cache, turn, pos, attended
    if layer.form.latent is not None:
        residual, cache = latent_attention(*where)
    else:
        residual, cache = attention(*where, temperature)
    residual, chosen = mlp(layer, residual, weights)
    return residual, cache, chosen


def layer_program(
    layer: LayerMap, variant: LayerAttention | None = None, crosses: bool = False
) -> Program:
    """`decode_layer` on its mesh: arguments `residual, weights, cache, cos, sin, pos, gap`, a
    temperature where the form has one, and what a variant of attention is given.

    Every array leads with the mesh axes it is split over: the residual stream `[rows, depth]`, most
    weights `[rows, cols, ...]`, the cache `[rows, cols, ...]`, `cos` and `sin` `[cols,
    turned_pairs]`. A temperature, `[1]`, is the same on all PEs.
    """

    def kernel(*arguments: Any) -> tuple[Sram, Cache, Sram | None]:
        return decode_layer(layer, *arguments, variant=variant, crosses=crosses)

    given = () if variant is None else variant.given_specs
    if layer.form.has_temperature:
        given = ((), *given)
    specs = (
        ("row",),
        layer.weight_specs(),
        PE,
        ("col",),
        ("col",),
        (),
        (),
        *given,
    )
    return Program(kernel, layer.mesh, specs)


def layer_arguments(
    layer: LayerMap, pos: int, gap: int, variant: LayerAttention | None = None
) -> tuple[Any, ...]:
    """Shapes in place of data for `layer_program(layer, variant).read` and `.memory`."""

    sizes.within("pos", pos, 0, layer.context - 1)
    sizes.within("gap", gap, 0, sizes.MOST)

    def struct(
        spec: tuple[str, ...],
        shape: Shape,
        dtype: DType,
    ) -> ShapeDtypeStruct:
        lead = tuple(layer.mesh[axis] for axis in spec)
        return ShapeDtypeStruct(lead + shape, jnp.dtype(dtype))

    specs = layer.weight_specs()
    weights = {}
    dtypes = layer.weight_dtypes()
    for name, shape in layer.weight_shapes().items():
        weights[name] = struct(specs[name], shape, dtypes[name])
    cache = {}
    of_cache = layer.cache_dtypes()
    for name, shape in layer.cache_shapes().items():
        cache[name] = struct(PE, shape, of_cache[name])
    turn = struct(("col",), (layer.turned_pairs,), "float32")
    residual = struct(("row",), (layer.depth,), "float32")
    temperature = [struct((), (1,), "float32")] * layer.form.has_temperature
    return (
        residual,
        weights,
        cache,
        turn,
        turn,
        # Known, not data: how many slots are live and how far a token walks decide how many cycles
        # pass.
        Known(jnp.int32(pos)),
        Known(jnp.int32(gap)),
        *temperature,
        *(() if variant is None else variant.given_structs(pos)),
    )


__all__ = ["decode_layer", "layer_arguments", "layer_program"]
