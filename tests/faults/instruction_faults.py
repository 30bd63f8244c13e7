"""Faults of a NeuronCore's instructions: operands, spaces, dtypes, shapes and parameters."""

# What is given here is of the wrong type on purpose.
# pyright: reportArgumentType=false, reportCallIssue=false, reportAttributeAccessIssue=false

import jax
import jax.numpy as jnp
import numpy as np

from emu import Known
from emu.trainium import array as stationary
from emu.trainium import dma_store, isa, psum, sbuf
from tests.faults.fault import (
    BF16,
    COLUMN,
    FP8,
    I32,
    TILE,
    U8,
    Fault,
    Faults,
    array,
    computes,
    load,
    reads,
)

HALF = array(128, 512, dtype=BF16)
WHOLE = array(128, 512, dtype=I32)
BYTES = array(128, 512, dtype=U8)
SQUARE = array(128, 128)
CUBE = array(128, 4, 128)


def out(*shape, **options):
    return sbuf(*(shape or (128, 512)), **options)


def unary(instruction, x=TILE, **options):
    """An instruction on one tile and a destination like it."""
    call = lambda tile: instruction(  # noqa: E731
        sbuf(*tile.shape, dtype=tile.dtype), tile
    )
    return computes(call, x, **options)


def pair(a=TILE, b=TILE, **options):
    call = lambda x, y: isa.tensor_tensor(out(), x, y, **options)  # noqa: E731
    return computes(call, a, b)


def matmul(moving=TILE, weights=SQUARE, accumulate=0, columns=512, **options):
    def kernel(x, w):
        total = isa.nc_matmul(
            psum(128, columns), load(w), load(x), accumulate, **options
        )
        return dma_store(isa.tensor_copy(out(128, columns), total))

    return reads(kernel, moving, weights)


def in_psum(x, w):
    return isa.nc_matmul(psum(128, 512), w, x, 0)


def activates(**params):
    return unary(lambda dst, x: isa.activation(dst, x, **params))


def counts(**params):
    return computes(lambda: isa.iota(out(dtype=I32), 0, **params))


def selects(**params):
    return unary(lambda dst, x: isa.affine_select(dst, x, 0, **params))


def shuffles(mask, x=TILE):
    return unary(lambda dst, tile: isa.nc_stream_shuffle(dst, tile, mask=mask), x)


FAULTS: Faults = {
    # --- operands ---
    "an operand less": Fault(
        computes(lambda x: isa.tensor_tensor(out(), x, op="add"), TILE),
        "trn.tensor_tensor: 2 operands, must be 1 destination and 2 sources",
    ),
    "an operand more": Fault(
        computes(lambda x: isa.activation(out(), x, x, op="exp"), TILE),
        "trn.activation: 3 operands, must be 1 destination and 1 source",
    ),
    "None for a tile": Fault(
        computes(lambda x: isa.activation(None, x, op="exp"), TILE),
        "trn.activation: operand 0 is None, must be an array",
    ),
    "a word for a tile": Fault(
        computes(lambda x: isa.activation(x, "x", op="exp"), TILE), "operand 1 is 'x'"
    ),
    "a list for a tile": Fault(
        computes(lambda x: isa.activation(x, [x], op="exp"), TILE), r"operand 1 is \["
    ),
    "a shape for a tile": Fault(
        computes(lambda x: isa.activation(TILE, x, op="exp"), TILE),
        "operand 0 is ShapeDtypeStruct",
    ),
    "a Known for a register": Fault(
        matmul(accumulate=Known(np.int32(1))), "operand 3 is Known.*"
    ),
    "a complex tile": Fault(
        computes(
            lambda x: isa.activation(
                out(), np.ones((128, 512), np.complex64), op="exp"
            ),
            TILE,
        ),
        "operand 1 is complex64",
    ),
    "words in NumPy": Fault(
        computes(lambda x: isa.activation(out(), np.array(["a"]), op="exp"), TILE),
        "operand 1 is array",
    ),
    "a NumPy tile": Fault(
        computes(
            lambda: isa.activation(out(), np.ones((128, 512), np.float32), op="exp")
        ),
        "trn.activation: operand 1 is in hbm, must be in sbuf or psum",
    ),
    "a number for a tile": Fault(
        computes(lambda x: isa.tensor_tensor(out(), x, 2.0, op="add"), TILE),
        "trn.tensor_tensor: .*",
    ),
    "an engine that reads HBM": Fault(
        reads(lambda x: dma_store(isa.activation(out(), x, op="exp")), TILE),
        "trn.activation: operand 1 is in hbm, must be in sbuf or psum",
    ),
    "data for a register": Fault(
        reads(
            lambda x, w, n: dma_store(
                isa.tensor_copy(
                    out(), isa.nc_matmul(psum(128, 512), load(w), load(x), n)
                )
            ),
            TILE,
            SQUARE,
            array(dtype=I32),
        ),
        "trn.nc_matmul: an operand that must be a known integer depends on data",
    ),
    "0.5 for a register": Fault(
        matmul(accumulate=0.5),
        "trn.nc_matmul: operand 3 is 0.5, must be a whole number",
    ),
    "an array for a register": Fault(
        matmul(accumulate=np.arange(2)),
        r"trn.nc_matmul: operand 3 is int..\[2\], must be a whole number",
    ),
    # --- parameters ---
    "an unknown parameter": Fault(
        activates(op="exp", scaling=2.0),
        "trn.activation: no parameter 'scaling', has op, scale",
    ),
    "a parameter left out": Fault(activates(), "trn.activation: op is missing"),
    "a parameter of another instruction": Fault(
        unary(lambda dst, x: isa.reciprocal(dst, x, op="exp")),
        "trn.reciprocal: no parameter 'op', has none",
    ),
    "an unknown function": Fault(
        activates(op="foo"), "trn.activation: op is 'foo', must be one of copy,"
    ),
    "a function by number": Fault(activates(op=3), "trn.activation: op is 3, must be"),
    "no function": Fault(activates(op=None), "trn.activation: op is None"),
    "JAX's function": Fault(activates(op=jnp.exp), "trn.activation: op is <"),
    "a list of functions": Fault(
        activates(op=["exp"]), r"trn.activation: op is \['exp'"
    ),
    "a scale in words": Fault(
        activates(op="exp", scale="2"), "scale is '2', must be a number"
    ),
    "a complex scale": Fault(
        activates(op="exp", scale=1j), "scale is 1j, must be a num"
    ),
    "a scale of True": Fault(
        activates(op="exp", scale=True), "scale is True, must be a"
    ),
    "a scale by array": Fault(
        activates(op="exp", scale=np.ones(2)), r"scale is array\(.*must be a number"
    ),
    "a scale by JAX array": Fault(
        activates(op="exp", scale=jnp.float32(2)), "scale is .*must be a number"
    ),
    "a traced scale": Fault(
        computes(lambda x: isa.activation(out(), x, op="exp", scale=x[0, 0]), TILE),
        "trn.activation: scale is .*, must be a number",
    ),
    "negation by number": Fault(
        computes(
            lambda x: isa.tensor_reduce(out(128, 1), x, op="add", negate=-1), TILE
        ),
        "negate is -1, must be True or False",
    ),
    "reversal in words": Fault(
        computes(
            lambda x, c: isa.tensor_scalar(out(), x, c, op="add", reverse="no"),
            TILE,
            COLUMN,
        ),
        "reverse is 'no', must be True or False",
    ),
    "an unknown engine": Fault(
        unary(lambda dst, x: isa.tensor_copy(dst, x, engine="warp")),
        "trn.tensor_copy: engine is 'warp', must be vector",
    ),
    "an engine that Trainium1 lacks": Fault(
        unary(lambda dst, x: isa.tensor_copy(dst, x, engine="scalar"), trn=1),
        "engine is 'scalar', must be vector or gpsimd on Trainium1",
    ),
    "a semaphore of no engine": Fault(
        computes(lambda x: (isa.semaphore(engine="sync"), x)[1], TILE),
        "trn.semaphore: engine is 'sync', must be one of tensor",
    ),
    "an unknown table": Fault(
        computes(lambda x: (isa.activation_table_load(op="foo"), x)[1], TILE),
        "trn.activation_table_load: op is 'foo', must be one of",
    ),
    # --- matmul ---
    "513 moving columns": Fault(
        matmul(array(128, 513), columns=513), "moving columns is 513, at most 512"
    ),
    "129 stationary columns": Fault(
        reads(
            lambda x, w: isa.nc_matmul(psum(129, 512), load(w), load(x), 0),
            TILE,
            array(128, 129),
        ),
        "trn.(psum|nc_matmul): .* is 129, at most 128",
    ),
    "a contraction that differs": Fault(
        matmul(weights=array(64, 128)), r"trn.nc_matmul: cannot take float32\[64, 128\]"
    ),
    "a matmul into SBUF": Fault(
        computes(lambda x, w: isa.nc_matmul(out(), w, x, 0), TILE, SQUARE),
        "trn.nc_matmul: operand 0 is in sbuf, must be in psum",
    ),
    "a matmul of PSUM": Fault(
        computes(
            lambda x, w: isa.nc_matmul(psum(128, 512), w, in_psum(x, w), 0),
            TILE,
            SQUARE,
        ),
        "trn.nc_matmul: operand 2 is in psum, must be in sbuf",
    ),
    "a matmul of integers": Fault(
        matmul(WHOLE, array(128, 128, dtype=I32)),
        r"trn.nc_matmul: stationary is int32\[128, 128\], must be floats",
    ),
    "a matmul of bytes": Fault(
        matmul(BYTES, array(128, 128, dtype=BF16)), "trn.nc_matmul: moving is uint8"
    ),
    "a matmul into bfloat16": Fault(
        reads(
            lambda x, w: isa.nc_matmul(psum(128, 512, dtype=BF16), load(w), load(x), 0),
            TILE,
            SQUARE,
        ),
        "destination is bfloat16, must be float32 in the PSUM of Trainium2",
    ),
    "a matmul in words": Fault(
        matmul(tf32="yes"), "tf32 is 'yes', must be True or Fal"
    ),
    "a matmul of three dimensions": Fault(
        matmul(CUBE, array(128, 4, 128), columns=128), "trn.nc_matmul: .*128, 4, 128"
    ),
    "double rows of bfloat16": Fault(
        computes(
            lambda x, w: isa.nc_matmul_double_row(psum(128, 256), w, x, 0),
            array(128, 2, 256, dtype=BF16),
            array(128, 2, 128, dtype=BF16),
        ),
        "trn.nc_matmul_double_row: .*bfloat16",
    ),
    "double rows of two dimensions": Fault(
        computes(
            lambda x, w: isa.nc_matmul_double_row(psum(128, 512), w, x, 0),
            array(128, 512, dtype=FP8),
            array(128, 128, dtype=FP8),
        ),
        "trn.nc_matmul_double_row",
    ),
    "a moving tile on no stationary one": Fault(
        computes(
            lambda x, w: isa.nc_matmul_moving(psum(128, 512), w, x, 0), TILE, SQUARE
        ),
        "trn.nc_matmul_moving: operand 1 is in sbuf, must be in array",
    ),
    "a stationary tile of 200 columns": Fault(
        reads(
            lambda x: isa.nc_load_stationary(stationary(128, 200), load(x)),
            array(128, 200),
        ),
        "is 200, at most 128|nothing reads",
    ),
    # --- transposes ---
    "a transpose into its own shape": Fault(
        computes(lambda x: isa.nc_transpose(psum(64, 128), x), array(64, 128)),
        r"trn.nc_transpose: the result is float32\[128, 64\] but destination 0",
    ),
    "a transpose of 512 columns": Fault(
        computes(lambda x: isa.nc_transpose(psum(512, 128), x), TILE),
        "is 512, at most 128",
    ),
    "a transpose of three dimensions": Fault(
        computes(lambda x: isa.nc_transpose(psum(128, 4, 128), x), CUBE), "trn."
    ),
    "a transpose of integers": Fault(
        computes(
            lambda x: isa.nc_transpose(psum(128, 128, dtype=I32), x),
            array(128, 128, dtype=I32),
        ),
        "trn.nc_transpose: .*int32",
    ),
    "a Vector Engine's transpose of 33": Fault(
        computes(lambda x: isa.nc_transpose_vector(out(33, 8), x), array(8, 33)),
        "trn.nc_transpose_vector: free size is 33, at most 32",
    ),
    "a shuffle by 31 entries": Fault(
        shuffles(tuple(range(31))), "mask is .* must be 32 entries below 32 or 255"
    ),
    "a shuffle from partition 32": Fault(
        shuffles((*range(31), 32)), "trn.nc_stream_shuffle: mask"
    ),
    "a shuffle by words": Fault(
        shuffles("identity"), "mask is 'identity', must be whole"
    ),
    "a shuffle by floats": Fault(
        shuffles((0.0,) * 32), r"mask is \(0.0.*must be whole"
    ),
    "a shuffle by a number": Fault(shuffles(3), "mask is 3, must be whole numbers"),
    # --- elementwise ---
    "two sources in PSUM": Fault(
        computes(
            lambda x, w: isa.tensor_tensor(
                out(), in_psum(x, w), in_psum(x, w), op="add"
            ),
            TILE,
            SQUARE,
        ),
        "trn.tensor_tensor: number of operands in PSUM is 2, at most 1",
    ),
    "GpSimd on PSUM": Fault(
        computes(
            lambda x, w: isa.tensor_copy(out(), in_psum(x, w), engine="gpsimd"),
            TILE,
            SQUARE,
        ),
        "an operand is in psum, must be in sbuf on GpSimd",
    ),
    "an unknown operator": Fault(
        pair(op="hypot"), "trn.tensor_tensor: op is 'hypot', must be one of add"
    ),
    "an operator of symbols": Fault(pair(op="+"), r"op is '\+', must be one of add"),
    "shapes that differ": Fault(
        pair(b=array(128, 511), op="add"), r"trn.tensor_tensor: .*128, 511"
    ),
    "ranks that differ": Fault(
        pair(b=array(128, 4, 128), op="add"), r"trn.tensor_tensor: .*128, 4, 128"
    ),
    "bits of floats": Fault(
        pair(op="bitwise_and"), "trn.tensor_tensor: bitwise_and of float32"
    ),
    "bits of a float and an integer": Fault(
        pair(b=WHOLE, op="bitwise_xor"),
        "bitwise_xor of float32 and int32, must be integers",
    ),
    "bits of two widths": Fault(
        pair(WHOLE, BYTES, op="bitwise_or"), "bitwise_or of int32 and uint8"
    ),
    "a shift of floats": Fault(
        computes(
            lambda x: isa.tensor_immediate(out(), x, op="left_shift", value=1), TILE
        ),
        "left_shift of float32",
    ),
    "a shift by 1.5": Fault(
        computes(
            lambda x: isa.tensor_immediate(
                out(dtype=I32), x, op="left_shift", value=1.5
            ),
            WHOLE,
        ),
        "operand of left_shift is 1.5, must be a whole number",
    ),
    "a mask that the dtype lacks": Fault(
        computes(
            lambda x: isa.tensor_immediate(
                out(dtype=U8), x, op="bitwise_and", value=256
            ),
            BYTES,
        ),
        "operand of bitwise_and is 256, must be a whole number from 0 to 255",
    ),
    "bits into a float": Fault(
        computes(
            lambda x, y: isa.tensor_tensor(out(), x, y, op="bitwise_and"), WHOLE, WHOLE
        ),
        "bitwise_and into float32",
    ),
    "a column of 64 partitions": Fault(
        computes(
            lambda x, c: isa.tensor_scalar(out(), x, c, op="add"), TILE, array(64, 1)
        ),
        r"trn.tensor_scalar: .*\[64, 1\] is not one value for each of 128 partitions",
    ),
    "a row for a column": Fault(
        computes(
            lambda x, c: isa.tensor_scalar(out(), x, c, op="add"), TILE, array(1, 128)
        ),
        r"trn.tensor_scalar: .*\[1, 128\] is not one value for each of 128 partitions",
    ),
    "one value for all partitions": Fault(
        computes(
            lambda x, c: isa.activation_bias(out(), x, c, op="exp"), TILE, array(1, 1)
        ),
        r"trn.activation_bias: .*\[1, 1\] is not one value for each of 128 partitions",
    ),
    "a second operator that is none": Fault(
        computes(
            lambda x: isa.tensor_immediate(
                out(), x, op="add", value=1.0, op1="plus", value1=1.0
            ),
            TILE,
        ),
        "op is 'plus', must be one of",
    ),
    "a fill in words": Fault(
        computes(lambda: isa.memset(out(), value="zero")),
        "value is 'zero', must be",
    ),
    "1.5 in an integer tile": Fault(
        computes(lambda: isa.memset(out(dtype=I32), value=1.5)),
        "trn.memset: value is 1.5, must be a whole number from -2147483648",
    ),
    "300 in a byte": Fault(
        computes(lambda: isa.memset(out(dtype=U8), value=300)),
        "trn.memset: value is 300, must be a whole number from 0 to 255",
    ),
    "a predicate of floats": Fault(
        computes(lambda x, y: isa.tensor_copy_predicated(x, y, y), TILE, TILE),
        "predicate is float32, must be an unsigned integer",
    ),
    "a predicate of another shape": Fault(
        computes(
            lambda x, y, p: isa.tensor_copy_predicated(x, y, p),
            TILE,
            TILE,
            array(128, 1, dtype=U8),
        ),
        r"trn.tensor_copy_predicated: .*128, 1",
    ),
    # --- reductions and searches ---
    "a reduction into a tile": Fault(
        computes(lambda x: isa.tensor_reduce(out(), x, op="add"), TILE),
        r"result is float32\[128, 1\] but destination 0 is float32\[128, 512\]",
    ),
    "a reduction that divides": Fault(
        computes(lambda x: isa.tensor_reduce(out(128, 1), x, op="mean"), TILE),
        "trn.tensor_reduce: op is 'mean', must be one of add",
    ),
    "statistics of 513": Fault(
        computes(lambda x: isa.bn_stats(out(128, 6), x), array(128, 513)),
        "elements per partition is 513, at most 512",
    ),
    "statistics of no triples": Fault(
        computes(lambda x: isa.bn_aggr(out(128, 2), x), array(128, 7)), "trn.bn_aggr"
    ),
    "a scan of three dimensions": Fault(
        computes(
            lambda x, y, c: isa.tensor_tensor_scan(
                out(128, 4, 128), x, y, c, op0="add", op1="add"
            ),
            CUBE,
            CUBE,
            COLUMN,
        ),
        "trn.tensor_tensor_scan",
    ),
    "the eight largest of 7": Fault(
        computes(lambda x: isa.nc_max8(out(128, 8), x), array(128, 7)),
        "trn.nc_max8: source has 7 elements per partition, must be 8 to 16384|k",
    ),
    "places in floats": Fault(
        computes(
            lambda x, v: isa.nc_find_index8(out(128, 8), x, v), TILE, array(128, 8)
        ),
        "trn.nc_find_index8: destination is float32, must be an integer",
    ),
    "nine values to find": Fault(
        computes(
            lambda x, v: isa.nc_find_index8(out(128, 9, dtype=I32), x, v),
            TILE,
            array(128, 9),
        ),
        r"trn.nc_find_index8: values are \[128, 9\], must be \[128, 8\]",
    ),
    "an unknown comparison": Fault(
        computes(
            lambda x, a: isa.range_select(
                out(), out(128, 1), x, a, a, compare0="add", compare1="less"
            ),
            TILE,
            COLUMN,
            trn=3,
        ),
        "trn.range_select: compare0 is 'add', must be one of equal",
    ),
    "a range that starts at 0.5": Fault(
        computes(
            lambda x, a: isa.range_select(
                out(), out(128, 1), x, a, a, compare0="less", compare1="less", start=0.5
            ),
            TILE,
            COLUMN,
            trn=3,
        ),
        "start is 0.5, must be a whole number",
    ),
    "chances that are none": Fault(
        computes(lambda: isa.rand2(out(), 7, low=2.0, high=1.0), trn=3),
        "trn.rand2: low is 2.0, must be less than high, 1.0",
    ),
    "a seed of 1.5": Fault(
        computes(lambda: isa.rand2(out(), 1.5, low=0.0, high=1.0), trn=3),
        "trn.rand2: operand 1 is 1.5, must be a whole number",
    ),
    # --- GpSimd ---
    "steps for two dimensions": Fault(
        counts(steps=(1, 2)), r"trn.iota: steps are \[1, 2\] for a tile of 1 free"
    ),
    "no steps": Fault(counts(steps=()), "trn.iota: steps are .* for a tile of 1"),
    "a step of 0.5": Fault(
        counts(steps=(0.5,)), r"steps is \(0.5,\), must be whole num"
    ),
    "steps by number": Fault(counts(steps=1), "steps is 1, must be whole numbers"),
    "a multiplier of 1.5": Fault(
        counts(steps=(1,), multiplier=1.5), "multiplier is 1.5, must be a whole number"
    ),
    "a multiplier of 10^12": Fault(
        counts(steps=(1,), multiplier=10**12), "multiplier is 1000000000000"
    ),
    "a selection that adds": Fault(
        selects(fill=0.0, compare="add"),
        "trn.affine_select: compare is 'add', must be one of equal",
    ),
    "a selection that fills with words": Fault(
        selects(fill="nothing"), "fill is 'nothing', must be a number"
    ),
    "a selection of PSUM": Fault(
        computes(
            lambda x, w: isa.affine_select(out(), in_psum(x, w), 0, fill=0.0),
            TILE,
            SQUARE,
        ),
        "trn.affine_select: operand 1 is in psum, must be in sbuf",
    ),
    "a gather by floats": Fault(
        computes(
            lambda x, i: isa.local_gather(out(128, 64, 4), x, i), TILE, array(128, 4)
        ),
        "trn.local_gather: index is float32, must be an integer",
    ),
    # --- microscaling ---
    "MX on Trainium2": Fault(
        computes(
            lambda x: isa.quantize_mx(out(32, 4, 4, dtype=FP8), out(4, 4, dtype=U8), x),
            array(32, 4, 4, dtype=BF16),
        ),
        "trn.quantize_mx: device is Trainium2, must be Trainium3",
    ),
    "MX of 16 partitions": Fault(
        computes(
            lambda x: isa.quantize_mx(out(16, 4, 4, dtype=FP8), out(2, 4, dtype=U8), x),
            array(16, 4, 4, dtype=BF16),
            trn=3,
        ),
        "16 partitions, must be a multiple of 32",
    ),
    "MX of float32": Fault(
        computes(
            lambda x: isa.quantize_mx(out(32, 4, 4, dtype=FP8), out(4, 4, dtype=U8), x),
            array(32, 4, 4),
            trn=3,
        ),
        "must be a 16-bit float to MXFP8",
    ),
    "MX of three elements": Fault(
        computes(
            lambda x: isa.quantize_mx(out(32, 4, 3, dtype=FP8), out(4, 4, dtype=U8), x),
            array(32, 4, 3, dtype=BF16),
            trn=3,
        ),
        "trn.quantize_mx",
    ),
    # --- what has no instruction ---
    "arithmetic on a tile": Fault(
        computes(lambda x: x + 1, TILE), "no instruction for 'add': call tensor_tensor"
    ),
    "a function on a tile": Fault(
        computes(lambda x: jnp.exp(x), TILE),
        "no instruction for 'exp': call activation",
    ),
    "a sum of a tile": Fault(
        computes(lambda x: jnp.sum(x, 1, keepdims=True), TILE), "call tensor_reduce"
    ),
    "a transpose of a tile": Fault(computes(lambda x: x.T, TILE), "call nc_transpose"),
    "a sine inside jit": Fault(
        computes(lambda x: jax.jit(jnp.sin)(x), TILE),
        "no instruction for 'sin'",
        line=False,
    ),
    "a while loop": Fault(
        computes(
            lambda x: jax.lax.while_loop(
                lambda carry: carry[0] < 3,
                lambda carry: (
                    carry[0] + 1,
                    isa.activation(carry[1], carry[1], op="exp"),
                ),
                (0, x),
            )[1],
            TILE,
        ),
        "no instruction for 'while'",
    ),
    "a mapped instruction": Fault(
        computes(jax.vmap(lambda row: isa.activation(row, row, op="exp")), TILE),
        "under jax.vmap there is no instruction",
    ),
    "a branch on data": Fault(
        reads(
            lambda x, n: dma_store(
                jax.lax.cond(
                    n > 0,
                    lambda t: isa.activation(t, t, op="exp"),
                    lambda t: t,
                    load(x),
                )
            ),
            TILE,
            array(dtype=I32),
        ),
        "depends on data.* emu.Known",
    ),
    "an address in data": Fault(
        reads(
            lambda x, n: dma_store(jax.lax.dynamic_slice(load(x), (0, n), (128, 8))),
            TILE,
            array(dtype=I32),
        ),
        "depends on data",
    ),
}
