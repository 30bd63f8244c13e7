"""What the operators named in instructions compute, in float32.

Constants are Python numbers, which take the dtype of what they meet: float64 in the exact reading.
Names are those of `nki.language`, shortened where kernels here always did (`max` for `maximum`).
Source of the lists and of the ranges: nki/api/nki.api.shared.rst of aws-neuron-sdk 2.26.1.
"""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp

from emu import given, numerics
from emu.annotations import Tile
from emu.checks import precision
from emu.errors import LimitExceeded, WrongShape
from emu.tracing.jaxpr import caller
from emu.trainium.engines.memory import f32

Operator: TypeAlias = Callable[..., jax.Array]


def _rounding(operator: Operator) -> Operator:
    """The operator with its result rounded, for another operator of the same instruction."""

    def apply(*operands: jax.Array, **where: Any) -> jax.Array:
        return numerics.rounded(operator(*operands, **where))

    return apply


def _divided(x: jax.Array, y: jax.Array) -> jax.Array:
    # By what depends on `x`: of a constant XLA would multiply by the inverse (`numerics.quotient`).
    return numerics.rounded(x / jnp.where(x == x, y, x))


def _larger(x: jax.Array, y: jax.Array) -> jax.Array:
    # Of equal magnitudes the second: of 1 and -1 it is -1.
    return jnp.where(jnp.abs(x) > jnp.abs(y), x, y)


def _smaller(x: jax.Array, y: jax.Array) -> jax.Array:
    return jnp.where(jnp.abs(x) < jnp.abs(y), x, y)


def _of_left(operator: Operator) -> Operator:
    """A function of one value, as an operator whose other side does not count."""

    def apply(left: jax.Array, _: jax.Array) -> jax.Array:
        return numerics.rounded(operator(left))

    return apply


def _rsqrt(x: jax.Array) -> jax.Array:
    # Rounded in between, or XLA makes an operation of its own of it, one place off in a third.
    return 1 / numerics.rounded(jnp.sqrt(x))


BINARY: Mapping[str, Operator] = {
    "add": _rounding(jnp.add),
    "subtract": _rounding(jnp.subtract),
    "multiply": _rounding(jnp.multiply),
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
    "divide": _divided,
    "power": _rounding(jnp.power),
    # By magnitude, with its sign: of -5 and 3 they are -5 and 3.
    "abs_max": _larger,
    "abs_min": _smaller,
    # Of the left side alone, whatever the right one is.
    "abs": _of_left(jnp.abs),
    "rsqrt": _of_left(_rsqrt),
    "reciprocal": _of_left(lambda x: 1 / x),
}
COMPARE = ("equal", "greater_equal", "greater", "less_equal", "less")
BITWISE: Mapping[str, Operator] = {
    "bitwise_and": jnp.bitwise_and,
    "bitwise_or": jnp.bitwise_or,
    "bitwise_xor": jnp.bitwise_xor,
    "left_shift": jnp.left_shift,
    "right_shift": jax.lax.shift_right_logical,
}


def _absmax(x: jax.Array, **where: Any) -> jax.Array:
    return numerics.largest(jnp.abs(x), **where)


def _absmin(x: jax.Array, **where: Any) -> jax.Array:
    return numerics.smallest(jnp.abs(x), **where)


REDUCE: Mapping[str, Operator] = {
    "add": _rounding(jnp.sum),
    "multiply": _rounding(jnp.prod),
    "max": numerics.largest,
    "min": numerics.smallest,
    "absmax": _absmax,
    "absmin": _absmin,
}
REDUCE_BITS: Mapping[str, Operator] = {
    "bitwise_and": jnp.bitwise_and.reduce,
    "bitwise_or": jnp.bitwise_or.reduce,
    "bitwise_xor": jnp.bitwise_xor.reduce,
}
TWO_OVER_ROOT_PI = 2 / math.sqrt(math.pi)


def _silu_dx(x: jax.Array) -> jax.Array:
    sigmoid = jax.nn.sigmoid(x)
    return sigmoid * (1 + x * (1 - sigmoid))


def _gelu_dx(x: jax.Array) -> jax.Array:
    # Elements do not mix, so the gradient of their sum is each one's own derivative.
    return jax.grad(lambda value: jnp.sum(jax.nn.gelu(value, approximate=False)))(x)


UNARY: Mapping[str, Operator] = {
    "copy": lambda x: x,
    "identity": lambda x: x,
    "exp": jnp.exp,
    "silu": lambda x: x / (1 + jnp.exp(-x)),
    "silu_dx": _silu_dx,
    "square": jnp.square,
    "sqrt": jnp.sqrt,
    "rsqrt": _rsqrt,
    "reciprocal": lambda x: 1 / x,
    "sigmoid": jax.nn.sigmoid,
    "tanh": jnp.tanh,
    "relu": lambda x: jnp.maximum(x, 0),
    "gelu": functools.partial(jax.nn.gelu, approximate=False),
    "gelu_apprx_tanh": functools.partial(jax.nn.gelu, approximate=True),
    "gelu_apprx_sigmoid": lambda x: x * jax.nn.sigmoid(1.702 * x),
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


def named(table: Mapping[str, Operator], name: str, what: str, key: str) -> Operator:
    """The entry `key` of a table of operators.

    Raises:
      LimitExceeded: there is none, for instruction `name` and its parameter `what`.
    """
    if key not in table:
        raise LimitExceeded(
            f"{name}: {what} is {key!r}, must be one of {', '.join(table)}", caller()
        )
    return table[key]


def check(name: str, ops: Sequence[str | None], dst: Tile, *sources: Tile) -> None:
    """Raises `LimitExceeded` where operators do not go together, or not with the dtypes.

    Operators on bits take integers of one dtype to integers, and none goes with arithmetic: an
    engine's pipeline computes in float32, or passes bits by.

    Args:
      name: of the instruction.
      ops: its operators; None for one that is left out.
      dst: the destination.
      sources: all that the operators take.
    """
    on_bits = [op in BITWISE for op in ops if op is not None]
    if not any(on_bits):
        return
    chain = " then ".join(op for op in ops if op is not None)
    if not all(on_bits):
        given.refuse(f"{name}: operators are {chain}, must be both on bits or neither")
    dtypes = {source.dtype for source in sources}
    told = " and ".join(sorted(str(dtype) for dtype in dtypes))
    if len(dtypes) > 1 or not jnp.issubdtype(sources[0].dtype, jnp.integer):
        given.refuse(f"{name}: {chain} of {told}, must be integers of one dtype")
    if not jnp.issubdtype(dst.dtype, jnp.integer):
        given.refuse(f"{name}: {chain} into {dst.dtype}, must be an integer")


def alike(name: str, *tiles: Tile) -> None:
    """Raises `WrongShape` unless tiles are alike in each partition: no engine repeats a column.

    That they are of as many partitions, the cost rules look to (`cost.compute`).
    """
    shapes = {tile.shape[1:] for tile in tiles}
    if len(shapes) > 1:
        told = ", ".join(given.described(tile) for tile in tiles)
        raise WrongShape(f"{name}: cannot take {told}, must be of one shape", caller())


def two_dimensions(name: str, *tiles: Tile) -> None:
    """Raises `LimitExceeded` for a tile that is not `[partitions, elements]`."""
    for tile in tiles:
        if len(tile.shape) != 2:
            given.refuse(f"{name}: a tile is {given.described(tile)}, must be [p, n]")


def combine(
    name: str,
    op: str,
    left: Tile,
    right: Tile,
    *,
    reverse: bool = False,
    exact: bool = False,
) -> Tile:
    """`left op right`, or `right op left` if reversed, in float32; bit operators keep integers.

    Comparisons and logical operators give 0 or 1. `exact` keeps the integers of any operator.
    """
    if reverse:
        left, right = right, left
    apply = named({**BINARY, **BITWISE}, name, "op", op)
    keeps_integers = op in BITWISE
    # float32 has 24 bits, so that 2**24 + 1 would come out as 2**24: on the engines that compute in
    # float32 it does, on GpSimd it does not.
    if exact:
        both = (jnp.issubdtype(x.dtype, jnp.integer) for x in (left, right))
        keeps_integers = keeps_integers or all(both)
    if keeps_integers:
        return apply(left, right).astype(left.dtype)
    # The outer cast makes 0 and 1 of a comparison's booleans.
    return f32(apply(f32(left), f32(right)))


def immediate(name: str, value: float, op: str, like: Tile) -> Tile:
    """A constant as an operand of `op`: in the integers of `like` for bit operators."""
    if op not in BITWISE:
        return jnp.asarray(value, precision.arithmetic_dtype())
    # Bits are those of an integer: a mask of 255 in float32 would have none of its meaning.
    held = jnp.iinfo(like.dtype)
    number = given.whole(
        f"{name}: operand of {op}", value, int(held.min), int(held.max)
    )
    return jnp.asarray(number, like.dtype)


def column(values: Tile, like: Tile) -> Tile:
    """One value a partition, `[p, 1]`, shaped to broadcast over the tile `like`.

    Raises:
      ValueError: there is not one for each partition.
    """
    wanted = like.shape[0], 1
    if values.shape != wanted:
        raise ValueError(
            f"{list(values.shape)} is not one value for each of {like.shape[0]} partitions: must "
            f"be {list(wanted)}"
        )
    # `[128, 1]` beside `[128, 4, 512]` is `[128, 1, 1]`: without it the 128 values would meet the
    # last dimension.
    return values.reshape(-1, *(1,) * (like.ndim - 1))


def reduce_free(name: str, op: str, x: Tile) -> Tile:
    """`op` over every free element of `x[p, ...]`, in float32: `[p, 1]`."""
    flat = f32(x).reshape(x.shape[0], -1)
    reduce = named(REDUCE, name, "reduce", op)
    return reduce(flat, axis=1, keepdims=True)


def activate(name: str, op: str, x: Tile) -> Tile:
    """An activation function in float32; NaN where the Scalar Engine's result is invalid."""
    result = numerics.rounded(named(UNARY, name, "op", op)(x))
    if op not in VALID_RANGE:
        return result
    low, high = VALID_RANGE[op]
    ranged = jnp.abs(x) if op == "reciprocal" else x
    # A NaN compares false on both sides and so stays NaN.
    valid = (ranged >= low) & (ranged <= high)
    return jnp.where(valid, result, math.nan)
