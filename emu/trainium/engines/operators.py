"""What the operators named in instructions compute, in float32.

Constants are Python numbers, which take the dtype of what they meet: float64 in the exact reading.
Names are those of `nki.language`, shortened where kernels here always did (`max` for `maximum`).
Source of the lists and of the ranges: nki/api/nki.api.shared.rst of aws-neuron-sdk 2.26.1.
"""

import functools
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from emu.checks import precision
from emu.errors import LimitExceeded
from emu.instruction import caller
from emu.trainium.engines.memory import f32

BINARY = {
    "add": jnp.add,
    "subtract": jnp.subtract,
    "multiply": jnp.multiply,
    "max": jnp.maximum,
    "min": jnp.minimum,
    "equal": jnp.equal,
    "not_equal": jnp.not_equal,
    "greater_equal": jnp.greater_equal,
    "greater": jnp.greater,
    "less_equal": jnp.less_equal,
    "less": jnp.less,
    "logical_and": jnp.logical_and,
    "logical_or": jnp.logical_or,
    "logical_xor": jnp.logical_xor,
}
COMPARE = ("equal", "greater_equal", "greater", "less_equal", "less")
BITWISE = {
    "bitwise_and": jnp.bitwise_and,
    "bitwise_or": jnp.bitwise_or,
    "bitwise_xor": jnp.bitwise_xor,
    "left_shift": jnp.left_shift,
    "right_shift": jax.lax.shift_right_logical,
}
REDUCE = {
    "add": jnp.sum,
    "multiply": jnp.prod,
    "max": jnp.max,
    "min": jnp.min,
    "absmax": lambda x, **where: jnp.max(jnp.abs(x), **where),
    "absmin": lambda x, **where: jnp.min(jnp.abs(x), **where),
}
TWO_OVER_ROOT_PI = 2 / math.sqrt(math.pi)


def _silu_dx(x: Any) -> Any:
    s = jax.nn.sigmoid(x)
    return s * (1 + x * (1 - s))


def _gelu_dx(x: Any) -> Any:
    return jax.grad(lambda v: jnp.sum(jax.nn.gelu(v, approximate=False)))(x)


UNARY = {
    "copy": lambda x: x,
    "identity": lambda x: x,
    "exp": jnp.exp,
    "silu": lambda x: x / (1 + jnp.exp(-x)),
    "silu_dx": _silu_dx,
    "square": jnp.square,
    "sqrt": jnp.sqrt,
    "rsqrt": lambda x: 1 / jnp.sqrt(x),
    "reciprocal": lambda x: 1 / x,
    "sigmoid": jax.nn.sigmoid,
    "tanh": jnp.tanh,
    "relu": lambda x: jnp.maximum(x, 0),
    "gelu": functools.partial(jax.nn.gelu, approximate=False),
    "gelu_apprx_tanh": functools.partial(jax.nn.gelu, approximate=True),
    "gelu_dx": _gelu_dx,
    "softplus": jax.nn.softplus,
    "mish": jax.nn.mish,
    "erf": jax.lax.erf,
    "erf_dx": lambda x: TWO_OVER_ROOT_PI * jnp.exp(-jnp.square(x)),
    "log": jnp.log,
    "sin": jnp.sin,
    "arctan": jnp.arctan,
    "sign": jnp.sign,
    "abs": jnp.abs,
}
# Outside, the Scalar Engine's result is invalid; reciprocal's range is of the magnitude.
VALID_RANGE = {
    "log": (2.0**-64, 2.0**64),
    "sin": (-math.pi, math.pi),
    "arctan": (-math.pi / 2, math.pi / 2),
    "sqrt": (2.0**-116, 2.0**118),
    "rsqrt": (2.0**-87, 2.0**97),
    "reciprocal": (2.0**-42, 2.0**42),
}


def named(table: Mapping[str, Any], name: str, what: str, key: str) -> Any:
    """The entry `key` of a table of operators.

    Raises:
      LimitExceeded: there is none, for instruction `name` and its parameter `what`.
    """
    if key not in table:
        raise LimitExceeded(
            f"{name}: {what} is {key!r}, must be one of {', '.join(table)}", caller()
        )
    return table[key]


def combine(
    name: str, op: str, a: Any, b: Any, *, reverse: bool = False, exact: bool = False
) -> Any:
    """`a op b`, or `b op a` if reversed, in float32; bit operators keep their integers.

    Comparisons and logical operators give 0 or 1. `exact` keeps the integers of any operator.
    """
    if reverse:
        a, b = b, a
    apply = named(BINARY | BITWISE, name, "op", op)
    if op in BITWISE or exact and jnp.issubdtype(jnp.result_type(a, b), jnp.integer):
        return apply(a, b).astype(a.dtype)
    return f32(apply(f32(a), f32(b)))


def immediate(value: float, op: str, like: Any) -> Any:
    """A constant as an operand of `op`: in the integers of `like` for bit operators."""
    return jnp.asarray(
        value, like.dtype if op in BITWISE else precision.arithmetic_dtype()
    )


def column(x: Any, like: Any) -> Any:
    """One value a partition, `[p, 1]`, shaped to broadcast over the tile `like`."""
    return x.reshape(-1, *(1,) * (like.ndim - 1))


def reduce_free(name: str, op: str, x: Any) -> Any:
    """`op` over every free element of `x[p, ...]`, in float32: `[p, 1]`."""
    flat = f32(x).reshape(x.shape[0], -1)
    return named(REDUCE, name, "reduce", op)(flat, axis=1, keepdims=True)


def activate(name: str, op: str, x: Any) -> Any:
    """An activation function in float32; NaN where the Scalar Engine's result is invalid."""
    y = named(UNARY, name, "op", op)(x)
    if op not in VALID_RANGE:
        return y
    low, high = VALID_RANGE[op]
    size = jnp.abs(x) if op == "reciprocal" else x
    return jnp.where((size >= low) & (size <= high), y, math.nan)
