"""Every compute instruction of a NeuronCore, by the engine that executes it."""

from emu.trainium.gpsimd import affine_select
from emu.trainium.scalar import activation, activation_bias, activation_reduce
from emu.trainium.tensor import nc_matmul, nc_transpose
from emu.trainium.vector import (
    memset,
    nc_find_index8,
    nc_max8,
    reciprocal,
    scalar_tensor_tensor,
    tensor_add_at,
    tensor_copy,
    tensor_copy_at,
    tensor_immediate,
    tensor_reduce,
    tensor_scalar,
    tensor_tensor,
    tensor_tensor_at,
)

__all__ = [
    "activation", "activation_bias", "activation_reduce", "affine_select", "memset",
    "nc_find_index8", "nc_matmul", "nc_max8", "nc_transpose", "reciprocal",
    "scalar_tensor_tensor", "tensor_add_at", "tensor_copy", "tensor_copy_at", "tensor_immediate",
    "tensor_reduce", "tensor_scalar", "tensor_tensor", "tensor_tensor_at",
]  # fmt: skip
