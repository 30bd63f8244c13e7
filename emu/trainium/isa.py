"""Every compute instruction of a NeuronCore, by the engine that executes it."""

from emu.trainium.control import activation_table_load, semaphore
from emu.trainium.gpsimd import affine_select, iota, local_gather, rsqrt_gpsimd
from emu.trainium.mx import nc_matmul_mx, quantize_mx
from emu.trainium.scalar import (
    activate2,
    activation,
    activation_bias,
    activation_reduce,
    activation_scaled,
)
from emu.trainium.tensor import (
    nc_load_stationary,
    nc_matmul,
    nc_matmul_double_row,
    nc_matmul_moving,
    nc_transpose,
)
from emu.trainium.vector import (
    reciprocal,
    scalar_tensor_tensor,
    tensor_add_at,
    tensor_immediate,
    tensor_scalar,
    tensor_scalars,
    tensor_tensor,
    tensor_tensor_at,
)
from emu.trainium.vector_copy import (
    memset,
    nc_stream_shuffle,
    nc_transpose_vector,
    tensor_copy,
    tensor_copy_at,
    tensor_copy_dynamic_dst,
    tensor_copy_dynamic_src,
    tensor_copy_every,
    tensor_copy_predicated,
)
from emu.trainium.vector_reduce import (
    bn_aggr,
    bn_stats,
    exponential,
    tensor_reduce,
    tensor_scalar_reduce,
    tensor_tensor_scan,
)
from emu.trainium.vector_select import (
    dropout,
    nc_find_index8,
    nc_match_replace8,
    nc_max8,
    rand2,
    range_select,
)

__all__ = [
    "activate2", "activation", "activation_bias", "activation_reduce", "activation_scaled",
    "activation_table_load", "affine_select", "bn_aggr", "bn_stats", "dropout", "exponential",
    "iota", "local_gather", "memset", "nc_find_index8", "nc_load_stationary", "nc_match_replace8",
    "nc_matmul", "nc_matmul_double_row", "nc_matmul_moving", "nc_matmul_mx", "nc_max8",
    "nc_stream_shuffle", "nc_transpose", "nc_transpose_vector", "quantize_mx", "rand2",
    "range_select", "reciprocal", "rsqrt_gpsimd", "scalar_tensor_tensor", "semaphore",
    "tensor_add_at", "tensor_copy", "tensor_copy_at", "tensor_copy_dynamic_dst",
    "tensor_copy_dynamic_src", "tensor_copy_every", "tensor_copy_predicated", "tensor_immediate",
    "tensor_reduce", "tensor_scalar", "tensor_scalar_reduce", "tensor_scalars", "tensor_tensor",
    "tensor_tensor_at", "tensor_tensor_scan",
]  # fmt: skip
