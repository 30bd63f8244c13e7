"""What Vector, Scalar and GpSimd instructions refuse: engines, sizes, dtypes, memory spaces.

Tiles are [128, 512] unless they say otherwise.
"""

import pytest

from emu.errors import LimitExceeded, WrongSpace
from emu.trainium import isa
from tests.emu.trainium.operands import (
    BF16,
    E4M3,
    GENERATIONS,
    I32,
    REGISTER,
    U8,
    U16,
    psum,
    sbuf,
)

P, N = 128, 512
ONE = sbuf(P, 1)
X, Y, OUT = sbuf(P, N), psum(P, N), sbuf(P, N)
HALF, FP8 = sbuf(P, N, dtype=BF16), sbuf(P, N, dtype=E4M3)
MASK = (*range(31), 255)
LONG = sbuf(P, 65537, dtype=U8)
REFUSED = {
    "trn.tensor_copy: engine is 'scalar', must be vector or gpsimd on Trainium1": (
        2,
        isa.tensor_copy,
        (OUT, X),
        {"engine": "scalar"},
    ),
    "trn.tensor_copy: engine is 'tensor', must be vector or scalar or gpsimd": (
        3,
        isa.tensor_copy,
        (OUT, X),
        {"engine": "tensor"},
    ),
    "trn.memset: engine is 'scalar', must be vector or gpsimd": (
        4,
        isa.memset,
        (X,),
        {"value": 0.0, "engine": "scalar"},
    ),
    "trn.tensor_tensor: engine is 'scalar', must be vector or gpsimd": (
        4,
        isa.tensor_tensor,
        (OUT, X, X),
        {"op": "add", "engine": "scalar"},
    ),
    "trn.tensor_scalar: engine is 'scalar', must be vector or gpsimd on Trainium1": (
        2,
        isa.tensor_scalar,
        (OUT, X, ONE),
        {"op": "add", "engine": "scalar"},
    ),
    "trn.tensor_scalar: operators are add, multiply, must be multiply, add or multiply then": (
        4,
        isa.tensor_scalar,
        (OUT, X, ONE),
        {"op": "add", "op1": "multiply", "engine": "scalar"},
    ),
    "trn.tensor_tensor: number of operands in PSUM is 2, at most 1": (
        4,
        isa.tensor_tensor,
        (OUT, Y, Y),
        {"op": "add"},
    ),
    "trn.scalar_tensor_tensor: number of operands in PSUM is 2, at most 1": (
        4,
        isa.scalar_tensor_tensor,
        (OUT, Y, ONE, Y),
        {"op0": "add", "op1": "add"},
    ),
    "trn.tensor_tensor_scan: number of operands in PSUM is 2, at most 1": (
        4,
        isa.tensor_tensor_scan,
        (OUT, Y, Y, ONE),
        {"op0": "add", "op1": "add"},
    ),
    "trn.tensor_copy: elements per partition in sbuf is 65537, at most 65536": (
        4,
        isa.tensor_copy,
        (LONG, LONG),
        {},
    ),
    "trn.tensor_copy: elements per partition in psum is 4097, at most 4096": (
        4,
        isa.tensor_copy,
        (sbuf(P, 4097, dtype=BF16), psum(P, 4097, dtype=BF16)),
        {},
    ),
    "trn.tensor_copy: free dimensions is 5, at most 4": (
        4,
        isa.tensor_copy,
        (sbuf(P, 2, 2, 2, 2, 2), sbuf(P, 2, 2, 2, 2, 2)),
        {},
    ),
    "trn.tensor_copy_predicated: predicate is float32, must be an unsigned integer": (
        4,
        isa.tensor_copy_predicated,
        (OUT, X, X),
        {},
    ),
    "source and destination are bfloat16 and float32, must be the same": (
        4,
        isa.tensor_copy_predicated,
        (OUT, HALF, sbuf(P, N, dtype=U8)),
        {},
    ),
    "trn.nc_transpose_vector: partitions is 33, at most 32": (
        4,
        isa.nc_transpose_vector,
        (sbuf(8, 33), sbuf(33, 8)),
        {},
    ),
    "trn.nc_transpose_vector: free size is 33, at most 32": (
        4,
        isa.nc_transpose_vector,
        (sbuf(33, 8), sbuf(8, 33)),
        {},
    ),
    "trn.nc_stream_shuffle: mask is .* for 40 partitions of 40, must be 32 entries below 32": (
        4,
        isa.nc_stream_shuffle,
        (sbuf(40, 8), sbuf(40, 8)),
        {"mask": tuple(reversed(range(32)))},
    ),
    "trn.nc_stream_shuffle: mask is .*32.* for 32 partitions of 32": (
        4,
        isa.nc_stream_shuffle,
        (sbuf(32, 8), sbuf(32, 8)),
        {"mask": (*range(31), 32)},
    ),
    "trn.bn_stats: elements per partition is 513, at most 512": (
        4,
        isa.bn_stats,
        (sbuf(P, 6), sbuf(P, 513)),
        {},
    ),
    "trn.nc_max8: source has 7 elements per partition, must be 8 to 16384": (
        4,
        isa.nc_max8,
        (sbuf(P, 8), sbuf(P, 7)),
        {},
    ),
    "trn.nc_find_index8: source has 16385 elements per partition, must be 8 to 16384": (
        4,
        isa.nc_find_index8,
        (sbuf(P, 8, dtype=I32), sbuf(P, 16385), sbuf(P, 8)),
        {},
    ),
    "trn.rand2: low is 2.0, must be less than high, 1.0": (
        4,
        isa.rand2,
        (OUT, REGISTER),
        {"low": 2.0, "high": 1.0},
    ),
    "trn.activation_bias: reciprocal takes no bias on Trainium1": (
        2,
        isa.activation_bias,
        (OUT, X, ONE),
        {"op": "reciprocal"},
    ),
    "trn.activate2: operators are add, add, must be one of": (
        4,
        isa.activate2,
        (OUT, ONE, X, ONE, ONE),
        {"op": "exp", "op0": "add", "op1": "add", "reduce": "add"},
    ),
    "trn.activate2: reduce is multiply, must be add, max, min, absmax or absmin": (
        4,
        isa.activate2,
        (OUT, ONE, X, ONE, ONE),
        {"op": "exp", "op0": "bypass", "op1": "bypass", "reduce": "multiply"},
    ),
    r"trn.iota: steps are \[1, 2\] for a tile of 1 free dimensions, must be one each": (
        4,
        isa.iota,
        (OUT, REGISTER),
        {"steps": (1, 2)},
    ),
    "trn.local_gather: indices of a GpSimd core is 4112, at most 4096": (
        4,
        isa.local_gather,
        (sbuf(P, 4112, 1), X, sbuf(P, 257, dtype=U16)),
        {},
    ),
    "trn.local_gather: 3 elements an index on 128 partitions of 128, must be one of": (
        4,
        isa.local_gather,
        (sbuf(P, 64, 3), X, sbuf(P, 4, dtype=U16)),
        {},
    ),
    "trn.local_gather: 4 elements an index on 24 partitions of 24, must be .* multiple of 16": (
        4,
        isa.local_gather,
        (sbuf(24, 64, 4), sbuf(24, N), sbuf(24, 4, dtype=U16)),
        {},
    ),
}


@pytest.mark.parametrize("message", REFUSED)
def test_refused(message):
    generation, inst, operands, params = REFUSED[message]
    with pytest.raises(LimitExceeded, match=message):
        inst.cost(GENERATIONS[generation], *operands, **params)


@pytest.mark.parametrize(
    "inst, operands, params",
    [
        (isa.tensor_copy, (OUT, Y), {"engine": "gpsimd"}),
        (isa.memset, (Y,), {"engine": "gpsimd", "value": 0.0}),
        (isa.tensor_tensor, (OUT, X, Y), {"engine": "gpsimd", "op": "add"}),
    ],
    ids=["copy", "memset", "pair"],
)
def test_gpsimd_cannot_access_psum(inst, operands, params):
    message = f"{inst.name}: an operand is in psum, must be in sbuf on GpSimd"
    with pytest.raises(WrongSpace, match=message):
        inst.cost(GENERATIONS[4], *operands, **params)
