"""Faults of kernels for a wafer's timeline: a PE's tiles, its operations, decode and its plans."""

# What is given here is of the wrong type on purpose.
# pyright: reportArgumentType=false, reportCallIssue=false, reportAttributeAccessIssue=false

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from emu import Program, wse
from emu.trainium import TRN2
from emu.wse import WSE2, WSE3, WSE3_SILICON, at_clock, on_silicon
from kernels import TokenClock, plan_wafer
from kernels.wse.decode.layer import layer_arguments, layer_program
from kernels.wse.decode.mapping import LayerMap
from tests.faults.fault import F32, I32, Fault, Faults, array
from tests.kernels.wse.reference import Sizes

DEVICE = WSE3.at()
ROW = array(64)
TABLE = array(4, 64)


def tile(*shape: Any, dtype: Any = F32) -> jax.Array:
    return wse.sram_tile(shape=shape, dtype=jnp.dtype(dtype))


def pe(kernel: Callable[..., Any], *arguments: Any, device: Any = DEVICE):
    """Reads the clock of one PE."""
    program = Program(kernel, {"row": 1, "col": 1}, ((),) * len(arguments))
    return lambda: program.read(device, *arguments)


def plans(
    context: Any = 64, dtype: Any = "float16", device: Any = DEVICE, **sizes: Any
):
    """Plans a small model's regions."""
    small = dict(
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        vocab_size=100,
    )
    return lambda: plan_wafer(Sizes(**(small | sizes)), context, dtype, device)


LAYER: dict[str, Any] = dict(
    hidden=64,
    ffn=96,
    heads=4,
    kv_heads=2,
    head_dim=16,
    eps=1e-5,
    qk_norm=False,
    context=64,
    rows=4,
    parts=1,
)


def maps(**change: Any):
    return lambda: LayerMap(**(LAYER | change))


def decodes(pos: Any = 3, gap: Any = 1, **change: Any):
    """Reads the clock of one decoder layer."""

    def make() -> Any:
        layer = LayerMap(**LAYER)
        arguments = list(layer_arguments(layer, pos, gap))
        for place, argument in change.items():
            arguments[int(place.removeprefix("argument"))] = argument
        return layer_program(layer).read(DEVICE, *arguments)

    return make


def token(pos: Any, **how: Any):
    return lambda: TokenClock(plans()(), DEVICE).read(pos, **how)


WHOLE = "must be a whole number"
FAULTS: Faults = {
    # --- tiles ---
    "0 elements": Fault(
        pe(lambda x: wse.copy(tile(0), x), ROW),
        f"wse.sram_tile: dimension 0 is 0, {WHOLE}",
    ),
    "-1 elements": Fault(pe(lambda x: wse.copy(tile(-1), x), ROW), "dimension 0 is -1"),
    "4.5 elements": Fault(
        pe(lambda x: wse.copy(tile(4.5), x), ROW), r"shape is \(4.5,\), must be whole"
    ),
    "a shape by number": Fault(
        pe(lambda x: wse.copy(wse.sram_tile(shape=64, dtype=jnp.dtype(F32)), x), ROW),
        "shape is 64, must be whole numbers in brackets",
    ),
    "an unknown dtype": Fault(
        pe(lambda x: wse.copy(wse.sram_tile(shape=(64,), dtype="floaty"), x), ROW),
        "wse.sram_tile: dtype is 'floaty', must be one of float32",
    ),
    "float64": Fault(
        pe(lambda x: wse.copy(wse.sram_tile(shape=(64,), dtype="float64"), x), ROW),
        "wse.sram_tile: dtype is float64, must be one of",
    ),
    "complex": Fault(
        pe(lambda x: wse.copy(wse.sram_tile(shape=(64,), dtype="complex64"), x), ROW),
        "wse.sram_tile: dtype is complex64",
    ),
    "10^9 elements": Fault(
        pe(lambda x: wse.copy(tile(10**9), x), array(10**9)),
        "bytes of sram, has 49,152",
    ),
    "more than a PE's SRAM": Fault(
        pe(lambda x: wse.copy(tile(12289), x), array(12289)),
        "bytes of sram, has 49,152",
    ),
    # --- operations ---
    "a copy of another shape": Fault(
        pe(lambda x: wse.copy(tile(32), x), ROW),
        r"wse.copy: the result is float32\[64\]",
    ),
    "an operation that divides": Fault(
        pe(lambda x: wse.vector(tile(64), x, x, op="div"), ROW),
        "wse.vector: op is 'div', must be one of add, sub, mul, max",
    ),
    "an operation by number": Fault(
        pe(lambda x: wse.vector(tile(64), x, x, op=1), ROW),
        "wse.vector: op is 1",
    ),
    "sources of two shapes": Fault(
        pe(lambda x, y: wse.vector(tile(64), x, y, op="add"), ROW, array(32)),
        "wse.vector: shapes must be equal",
    ),
    "a number for a tile": Fault(
        pe(lambda x: wse.vector(tile(64), x, 2.0, op="mul"), ROW),
        "wse.vector: shapes must be equal",
    ),
    "a word for a tile": Fault(
        pe(lambda x: wse.vector(tile(64), x, "x", op="mul"), ROW),
        "wse.vector: operand 2 is 'x', must be an array",
    ),
    "an operand less": Fault(
        pe(lambda x: wse.vector(x, x, op="mul"), ROW),
        "wse.vector: 2 operands, must be 1 destination and 2 sources",
    ),
    "scales of another count": Fault(
        pe(lambda x, s: wse.vector_scale(tile(4, 64), x, s), TABLE, array(3)),
        "wse.vector_scale",
    ),
    "a fill in words": Fault(
        pe(lambda: wse.fill(tile(64), value="0")),
        "value is '0', must be a number",
    ),
    "a copy along axis 5": Fault(
        pe(lambda x: wse.copy_into(tile(4, 64), x, 0, axis=5), TABLE),
        "wse.copy_into: axis is 5, .* from 0 to 1",
    ),
    "a copy along axis -1": Fault(
        pe(lambda x: wse.copy_into(tile(4, 64), x, 0, axis=-1), TABLE), "axis is -1"
    ),
    "a copy that is longer than the tile": Fault(
        pe(lambda x: wse.copy_into(tile(4, 32), x, 0, axis=1), TABLE),
        "extent of dimension 1 is 64, at most 32",
    ),
    "a copy to 0.5": Fault(
        pe(lambda x: wse.copy_into(tile(8, 64), x, 0.5, axis=0), TABLE),
        "wse.copy_into: operand 2 is 0.5, must be a whole number",
    ),
    "a fold that multiplies": Fault(
        pe(lambda x: wse.fold(tile(4), x, 64, op="mul"), TABLE),
        "wse.fold: op is 'mul', must be one of add, max",
    ),
    "a fold of 65 of 64": Fault(
        pe(lambda x: wse.fold(tile(4), x, 65, op="add"), TABLE),
        "wse.fold: live is 65, .* from 0 to 64",
    ),
    "a fold of -1": Fault(
        pe(lambda x: wse.fold(tile(4), x, -1, op="add"), TABLE), "live is -1"
    ),
    "a fold of 1.5": Fault(
        pe(lambda x: wse.fold(tile(4), x, 1.5, op="add"), TABLE),
        "wse.fold: operand 2 is 1.5, must be a whole number",
    ),
    "an exponential of 65 slots": Fault(
        pe(lambda x, t: wse.exp(tile(4, 64), x, t, 65, scale=1.0), TABLE, array(4)),
        "wse.exp: live is 65, .* from 0 to 64",
    ),
    "an exponential of another row": Fault(
        pe(lambda x, t: wse.exp(tile(4, 64), x, t, 64, scale=1.0), TABLE, array(3)),
        "wse.exp",
    ),
    "a gate of 65 elements": Fault(
        pe(lambda x: wse.silu(tile(64), x, 65), ROW),
        "wse.silu: count is 65, .* 0 to 64",
    ),
    "a gate of -1 elements": Fault(
        pe(lambda x: wse.silu(tile(64), x, -1), ROW), "wse.silu: count is -1"
    ),
    "a mean of 0": Fault(
        pe(lambda x: wse.rsqrt_mean(tile(1), x, n=0, eps=1e-5), array(1)),
        "wse.rsqrt_mean: n is 0, .* of 1 or more",
    ),
    "a mean with a negative eps": Fault(
        pe(lambda x: wse.rsqrt_mean(tile(1), x, n=4, eps="1"), array(1)),
        "eps is '1', must be a number",
    ),
    "an argmax of 65": Fault(
        pe(lambda x: wse.argmax(tile(1), tile(1, dtype=I32), x, 65, 0), ROW),
        "wse.argmax: valid is 65, .* from 0 to 64",
    ),
    "a place in floats": Fault(
        pe(lambda x: wse.argmax(tile(1), tile(1), x, 64, 0), ROW),
        r"wse.argmax: the result is int32\[1\] but destination 1 is float32\[1\]",
    ),
    "a look-up by halves": Fault(
        pe(
            lambda t, i: wse.lookup(tile(4), t, i, 0), TABLE, array(1, dtype="bfloat16")
        ),
        "wse.lookup: dtype of token is 'bfloat16', must be one of int32, float32",
    ),
    "weights of another depth": Fault(
        pe(
            lambda w, x: wse.fmac_map(wse.fill(tile(64), value=0.0), w, x),
            TABLE,
            array(5),
        ),
        r"wse.fmac_map: .*\[4, 64\].*\[5\]",
    ),
    "keys of another depth": Fault(
        pe(
            lambda k, q: wse.score_map(wse.fill(tile(2, 64), value=0.0), k, q, 64),
            TABLE,
            array(2, 5),
        ),
        r"wse.score_map: .*\[4, 64\].*\[2, 5\]",
    ),
    "values of another count": Fault(
        pe(
            lambda v, p: wse.value_map(wse.fill(tile(2, 8), value=0.0), v, p, 4),
            array(4, 8),
            array(2, 5),
        ),
        r"wse.value_map: .*\[4, 8\].*\[2, 5\]",
    ),
    "rotations of another size": Fault(
        pe(lambda x, c, s: wse.rope(tile(4, 64), x, c, s), TABLE, array(40), array(40)),
        "wse.rope",
    ),
    "NumPy's arithmetic": Fault(
        pe(lambda x: wse.copy(tile(64), x * 2), ROW),
        "WSE-3 has no instruction for 'mul'",
    ),
    "a NeuronCore for a wafer": Fault(
        pe(lambda x: wse.copy(tile(64), x), ROW, device=TRN2.at()),
        "device is Trainium2, must have the instructions `wse.`",
        line=False,
    ),
    # --- maps and plans ---
    "4 heads over 3": Fault(maps(kv_heads=3), "4 heads must be a multiple of 3"),
    "parts that do not divide": Fault(
        maps(parts=3), "head_dim 16 a multiple of 3 parts"
    ),
    "0 rows": Fault(maps(rows=0), f"rows is 0, {WHOLE}"),
    "-1 rows": Fault(maps(rows=-1), "rows is -1"),
    "2.5 rows": Fault(maps(rows=2.5), "rows is 2.5"),
    "0 parts": Fault(maps(parts=0), "parts is 0"),
    "0 KV heads": Fault(maps(kv_heads=0), "kv_heads is 0"),
    "context 0": Fault(maps(context=0), "context is 0"),
    "10^9 rows": Fault(maps(rows=10**9), "rows is 1000000000"),
    "int8 weights": Fault(
        maps(dtype="int8"), "dtype is 'int8', must be one of float32"
    ),
    "a layer's unknown dtype": Fault(maps(dtype="fp4"), "dtype is 'fp4'"),
    "a plan of 0 tokens": Fault(plans(0), "context is 0"),
    "a plan of 2.5 tokens": Fault(plans(2.5), "context is 2.5"),
    "a plan of 10^9 tokens": Fault(plans(10**9), "context is 1000000000, must be"),
    "a plan of int8": Fault(plans(dtype="int8"), "dtype is 'int8', must be one of"),
    "a plan of 0 layers": Fault(
        plans(num_hidden_layers=0), "num_hidden_layers is 0, must be a whole number"
    ),
    "a plan of -1 words": Fault(plans(vocab_size=-1), "vocab_size is -1"),
    "a plan of 0 heads": Fault(
        plans(num_attention_heads=0), "num_attention_heads is 0"
    ),
    "a plan of odd heads": Fault(plans(head_dim=15), "head_dim.*15"),
    "a plan of 4 heads over 3": Fault(
        plans(num_key_value_heads=3), "4 heads must be a multiple of 3"
    ),
    "a plan on a datasheet": Fault(
        plans(device=WSE3), "device is the datasheet of WSE-3, must be at a band"
    ),
    "a plan on a NeuronCore": Fault(
        plans(device=TRN2.at()), "device is Trainium2, must be a wafer"
    ),
    # --- decode ---
    "position -1": Fault(decodes(pos=-1), "pos is -1, .* from 0 to 63"),
    "position 64 of 64": Fault(decodes(pos=64), "pos is 64, .* from 0 to 63"),
    "position 2.5": Fault(decodes(pos=2.5), "pos is 2.5"),
    "gap -1": Fault(decodes(gap=-1), "gap is -1, .* from 0 to"),
    "a residual of another size": Fault(
        decodes(argument0=array(4, 17)), "17", line=False
    ),
    "a residual on other rows": Fault(
        decodes(argument0=array(3, 16)),
        "argument 0 is float32.3, 16.: dimension 0 must be 4",
    ),
    "a position in data": Fault(
        decodes(argument5=array(dtype=I32)), "depends on data", line=False
    ),
    "token -1": Fault(token(-1), "pos is -1, .* from 0 to 63"),
    "token 64 of 64": Fault(token(64), "pos is 64, .* from 0 to 63"),
    "a token in an unknown band": Fault(
        token(3, band="mid"),
        "band is 'mid', must be one of low, nominal, high",
        line=False,
    ),
    # --- datasheets ---
    "silicon that nobody published": Fault(
        lambda: on_silicon(WSE2), "WSE-2 has no published constants of its silicon"
    ),
    "a clock of 0": Fault(lambda: at_clock(WSE3, 0), "clock in Hz is 0, must be"),
    "a clock of NaN": Fault(lambda: at_clock(WSE3, float("nan")), "nan"),
    "a clock in words": Fault(lambda: at_clock(WSE3, "fast"), "'fast', must be"),
    "an unknown band": Fault(lambda: WSE3_SILICON.at("mid"), "band is 'mid'"),
    "an array of words": Fault(
        lambda: Program(lambda x: x, {"row": 2}, (("row",),)).read(
            DEVICE, np.array(["a", "b"])
        ),
        "argument 0 is <U1",
    ),
}
