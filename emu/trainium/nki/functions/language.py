"""What `nki.language` has beyond the instructions: mathematics on tiles, one call each.

A function of one tile is an activation, of two a tensor_tensor, over an axis a tensor_reduce;
softmax and its like are short programs of these, as the vendor's compiler makes them.
"""

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from emu.annotations import DType
from emu.trainium.nki.functions import operands, spread
from emu.trainium.nki.functions.activation import activation
from emu.trainium.nki.functions.checks import refuse
from emu.trainium.nki.functions.copy import tensor_copy
from emu.trainium.nki.functions.elementwise import (
    reciprocal,
    scalar_tensor_tensor,
    select,
    tensor_scalar,
    tensor_tensor,
)
from emu.trainium.nki.functions.make import full, ndarray
from emu.trainium.nki.functions.matmul import nc_transpose
from emu.trainium.nki.functions.reduce import free_axes, tensor_reduce
from emu.trainium.nki.handles import Handle

LANGUAGE = "nki.language"

ACTIVATIONS = (
    *("exp", "log", "sin", "arctan", "tanh", "sqrt", "rsqrt", "square", "sigmoid"),
    *("relu", "gelu", "gelu_dx", "gelu_apprx_tanh", "gelu_apprx_sigmoid", "silu"),
    *("silu_dx", "erf", "erf_dx", "softplus", "mish", "sign", "abs"),
)
PAIRS = (
    *("add", "subtract", "multiply", "divide", "maximum", "minimum", "power"),
    *("bitwise_and", "bitwise_or", "bitwise_xor", "left_shift", "right_shift"),
)
COMPARISONS = (
    *("equal", "not_equal", "greater", "greater_equal", "less", "less_equal"),
    *("logical_and", "logical_or", "logical_xor"),
)
REDUCTIONS = {"max": "max", "min": "min", "sum": "add", "prod": "multiply"}
TRUTH = np.uint8
"""What a comparison gives where no dtype is asked for: a byte of 0 or 1."""


def _named(function: Callable[..., Handle], name: str) -> Callable[..., Handle]:
    function.__name__ = function.__qualname__ = name
    return function


def _activation(op: str) -> Callable[..., Handle]:
    def apply(
        x: object,
        *,
        dtype: DType | None = None,
        mask: object = None,
        name: str | None = None,
    ) -> Handle:
        return activation(None, op, x, dtype=dtype, mask=mask, name=f"{LANGUAGE}.{op}")

    return _named(apply, op)


def _pair(op: str, default: DType | None) -> Callable[..., Handle]:
    def apply(
        x: object,
        y: object,
        *,
        dtype: DType | None = None,
        mask: object = None,
        name: str | None = None,
    ) -> Handle:
        kind = default if dtype is None else _held(dtype)
        title = f"{LANGUAGE}.{op}"
        return tensor_tensor(None, x, y, op, dtype=kind, mask=mask, name=title)

    return _named(apply, op)


def _held(dtype: DType) -> DType:
    """Truth values are held as bytes."""
    return TRUTH if np.dtype(dtype) == np.bool_ else dtype


def _reduction(name: str, op: str) -> Callable[..., Handle]:
    def apply(
        x: object,
        axis: object,
        *,
        dtype: DType | None = None,
        mask: object = None,
        keepdims: bool = False,
    ) -> Handle:
        return tensor_reduce(
            None,
            op,
            x,
            axis,
            keepdims=keepdims,
            dtype=dtype,
            mask=mask,
            name=f"{LANGUAGE}.{name}",
        )

    return _named(apply, name)


def _count(x: Handle, axis: object, name: str) -> int:
    """Elements that a reduction over `axis` takes together."""
    shape = operands.full(x, name, "x")
    return math.prod(shape[place] for place in free_axes(axis, len(shape), name))


def mean(
    x: Handle,
    axis: object,
    *,
    dtype: DType | None = None,
    mask: object = None,
    keepdims: bool = False,
) -> Handle:
    """The average over free axes."""
    name = f"{LANGUAGE}.mean"
    total = tensor_reduce(
        None,
        "add",
        x,
        axis,
        keepdims=keepdims,
        dtype=np.float32,
        mask=mask,
        name=name,
    )
    part = 1.0 / _count(x, axis, name)
    kind = x.dtype if dtype is None else dtype
    return tensor_scalar(None, total, "multiply", part, dtype=kind, name=name)


def var(
    x: Handle, axis: object, *, dtype: DType | None = None, mask: object = None
) -> Handle:
    """The variance over free axes: the mean of squares about the mean."""
    center = mean(x, axis, dtype=np.float32, mask=mask, keepdims=True)
    apart = tensor_tensor(
        None, x, center, "subtract", dtype=np.float32, mask=mask, name=f"{LANGUAGE}.var"
    )
    squares = activation(None, "square", apart, mask=mask, name=f"{LANGUAGE}.var")
    kind = x.dtype if dtype is None else dtype
    return mean(squares, axis, dtype=kind, mask=mask)


def every(
    x: Handle, axis: object, *, dtype: DType | None = None, mask: object = None
) -> Handle:
    """`nl.all`: 1 where no element over the axes is 0."""
    name = f"{LANGUAGE}.all"
    kind = TRUTH if dtype is None else _held(dtype)
    truth = tensor_scalar(
        None, x, "not_equal", 0.0, dtype=np.float32, mask=mask, name=name
    )
    return tensor_reduce(None, "min", truth, axis, dtype=kind, mask=mask, name=name)


def softmax(
    x: Handle,
    axis: object,
    *,
    dtype: DType | None = None,
    compute_dtype: DType | None = None,
    mask: object = None,
) -> Handle:
    """`exp(x - max) / Σ exp(x - max)` over the free axes."""
    name = f"{LANGUAGE}.softmax"
    shape = operands.full(x, name, "x")
    if free_axes(axis, len(shape), name) != list(range(1, len(shape))):
        refuse(name, f"axis is {axis}, must be all free axes of {list(shape)}")
    inner = np.float32 if compute_dtype is None else compute_dtype
    lowest = tensor_reduce(
        None, "max", x, axis, negate=True, dtype=np.float32, mask=mask, name=name
    )
    total = _column(shape[0])
    powers = activation(
        None,
        "exp",
        x,
        lowest,
        reduce_op="add",
        reduce_res=total,
        dtype=inner,
        mask=mask,
        name=name,
    )
    part = reciprocal(None, total, name=name)
    kind = x.dtype if dtype is None else dtype
    return tensor_scalar(
        None, powers, "multiply", part, dtype=kind, mask=mask, name=name
    )


def _column(partitions: int) -> Handle:
    return ndarray((partitions, 1), np.float32, "sbuf")


def rms_norm(
    x: Handle,
    w: Handle,
    axis: object,
    n: int,
    epsilon: float = 1e-6,
    *,
    dtype: DType | None = None,
    compute_dtype: DType | None = None,
    mask: object = None,
) -> Handle:
    """`x / sqrt(Σ x² / n + epsilon) · w`."""
    name = f"{LANGUAGE}.rms_norm"
    squares = activation(None, "square", x, dtype=np.float32, mask=mask, name=name)
    total = tensor_reduce(None, "add", squares, axis, mask=mask, name=name)
    mean_square = tensor_scalar(
        None, total, "multiply", 1.0 / n, False, "add", epsilon, name=name
    )
    scale = activation(None, "rsqrt", mean_square, name=name)
    kind = x.dtype if dtype is None else dtype
    if operands.full(w, name, "w")[0] == 1:
        w = spread.broadcast_to(w, operands.full(x, name, "x"), name)
    return scalar_tensor_tensor(
        None, x, "multiply", scale, "multiply", w, dtype=kind, mask=mask, name=name
    )


def negative(
    x: object,
    *,
    dtype: DType | None = None,
    mask: object = None,
    name: str | None = None,
) -> Handle:
    """`-x`."""
    title = f"{LANGUAGE}.negative"
    return tensor_scalar(None, x, "multiply", -1.0, dtype=dtype, mask=mask, name=title)


def logical_not(
    x: object, *, dtype: DType | None = None, mask: object = None
) -> Handle:
    """1 where `x` is 0, else 0."""
    kind = TRUTH if dtype is None else _held(dtype)
    title = f"{LANGUAGE}.logical_not"
    return tensor_scalar(None, x, "equal", 0.0, dtype=kind, mask=mask, name=title)


def invert(x: object, *, dtype: DType | None = None, mask: object = None) -> Handle:
    """All bits of an integer turned over."""
    title = f"{LANGUAGE}.invert"
    kind = operands.handle(x, title, "x").dtype
    ones = -1 if np.issubdtype(kind, np.signedinteger) else np.iinfo(kind).max
    return tensor_scalar(
        None, x, "bitwise_xor", ones, dtype=dtype, mask=mask, name=title
    )


def inverse(
    x: object,
    *,
    dtype: DType | None = None,
    mask: object = None,
    name: str | None = None,
) -> Handle:
    """`nl.reciprocal`."""
    return reciprocal(None, x, dtype=dtype, mask=mask, name=f"{LANGUAGE}.reciprocal")


def where(
    condition: object,
    x: object,
    y: object,
    *,
    dtype: DType | None = None,
    mask: object = None,
) -> Handle:
    """`x` where the condition holds, else `y`."""
    return select(None, condition, x, y, dtype=dtype, mask=mask)


def copy(
    src: object,
    *,
    dtype: DType | None = None,
    mask: object = None,
    engine: object = None,
    name: str | None = None,
) -> Handle:
    """A copy on chip, cast."""
    return tensor_copy(
        None, src, dtype=dtype, mask=mask, engine=engine, name=f"{LANGUAGE}.copy"
    )


def static_cast(value: object, dtype: DType) -> Handle:
    """A copy of another format."""
    return tensor_copy(None, value, dtype=dtype, name=f"{LANGUAGE}.static_cast")


def transpose(x: object, *, dtype: DType | None = None, mask: object = None) -> Handle:
    """A tile with partitions and columns changed over, by the Tensor Engine."""
    return nc_transpose(None, x, dtype=dtype, mask=mask, name=f"{LANGUAGE}.transpose")


def broadcast_to(
    src: Handle, shape: Sequence[int], *, dtype: DType | None = None
) -> Handle:
    """A tile of one row or column as a larger one."""
    name = f"{LANGUAGE}.broadcast_to"
    handle = operands.handle(src, name, "src")
    wide = handle.broadcast_to(tuple(int(size) for size in shape))
    if dtype is None or wide.dtype == dtype:
        return wide
    return tensor_copy(None, wide, dtype=dtype, name=name)


def expand_dims(data: Handle, axis: int) -> Handle:
    """A further dimension of one."""
    return operands.handle(data, f"{LANGUAGE}.expand_dims", "data").expand_dim(axis)


def zeros_like(
    x: Handle,
    *,
    dtype: DType | None = None,
    buffer: object = None,
    name: str = "",
) -> Handle:
    """A tensor of zeros of the shape of another one."""
    kind = x.dtype if dtype is None else dtype
    return full(x.shape, 0, kind, buffer or x.buffer, name=name)


def empty_like(
    x: Handle,
    *,
    dtype: DType | None = None,
    buffer: object = None,
    name: str = "",
) -> Handle:
    """An uninitialised tensor of the shape of another one."""
    kind = x.dtype if dtype is None else dtype
    return ndarray(x.shape, kind, buffer or x.buffer, name=name)


MATHEMATICS: Mapping[str, Callable[..., Handle]] = {
    **{op: _activation(op) for op in ACTIVATIONS},
    **{op: _pair(op, None) for op in PAIRS},
    **{op: _pair(op, TRUTH) for op in COMPARISONS},
    **{name: _reduction(name, op) for name, op in REDUCTIONS.items()},
    "all": every,
    "mean": mean,
    "var": var,
    "softmax": softmax,
    "rms_norm": rms_norm,
    "negative": negative,
    "logical_not": logical_not,
    "invert": invert,
    "reciprocal": _named(inverse, "reciprocal"),
    "where": where,
    "copy": copy,
    "static_cast": static_cast,
    "transpose": transpose,
    "broadcast_to": broadcast_to,
    "expand_dims": expand_dims,
    "zeros_like": zeros_like,
    "empty_like": empty_like,
}
"""By its name in `nki.language`; each is also what an `op` argument may be."""
