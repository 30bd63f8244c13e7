"""A mixture of experts with its norm and its residual stream as a program of its own."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import ShapeDtypeStruct

from emu.annotations import DType, Shape
from emu.program import Program
from emu.wse import vector
from emu.wse.spaces import Sram
from kernels.moe.wafer.mlp import ExpertMlp
from kernels.wse.decode.blocks import Weights, rms_norm
from kernels.wse.decode.region import Region


def expert_program(mlp: ExpertMlp, region: Region) -> Program:
    """Adds the mixture of the normalised residual stream to it: arguments `residual, weights`.

    Dimensions: `residual` float32 `[rows, depth]`; weights as `layout.expert_tiles` makes them
    of one layer, with the norm as `mlp_norm` `[rows, depth]`.
    """

    def kernel(residual: Sram, weights: Weights) -> Sram:
        normed = rms_norm(
            residual,
            weights["mlp_norm"],
            n=region.hidden,
            eps=region.eps,
            dtype=region.dtype,
        )
        out, _ = mlp.apply(region, normed, weights)
        return vector(residual, residual, out, op="add")

    specs = {"mlp_norm": ("row",), **mlp.weight_specs(region)}
    return Program(kernel, region.mesh, (("row",), specs))


def expert_arguments(mlp: ExpertMlp, region: Region) -> tuple[Any, Any]:
    """Shapes in place of data for `expert_program(mlp, region).read` and `.memory`."""
    specs = mlp.weight_specs(region)
    dtypes = mlp.weight_dtypes(region)

    def struct(
        spec: tuple[str, ...], shape: Shape, dtype: DType
    ) -> jax.ShapeDtypeStruct:
        lead = tuple(region.mesh[axis] for axis in spec)
        return ShapeDtypeStruct(lead + shape, jnp.dtype(dtype))

    weights = {"mlp_norm": struct(("row",), (region.depth,), region.dtype)}
    for name, shape in mlp.weight_shapes(region).items():
        weights[name] = struct(specs[name], shape, dtypes[name])
    return struct(("row",), (region.depth,), "float32"), weights


__all__ = ["expert_arguments", "expert_program"]
