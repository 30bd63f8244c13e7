"""Tiles combined element by element: with each other, with values, with constants."""

import jax.numpy as jnp
import numpy as np

from emu.annotations import DType
from emu.trainium import isa
from emu.trainium.nki.functions import operands
from emu.trainium.nki.functions.checks import refuse
from emu.trainium.nki.functions.copy import out_of_psum
from emu.trainium.nki.functions.engines import is_older, offer, way
from emu.trainium.nki.functions.operators import binary
from emu.trainium.nki.functions.produce import produce, promoted
from emu.trainium.nki.handles import Handle
from emu.trainium.nki.record import current
from emu.trainium.nki.tree import Access, Choice


def _is_float(*dtypes: DType) -> bool:
    return all(jnp.issubdtype(dtype, jnp.floating) for dtype in dtypes)


def _in_sbuf(*accesses: Access) -> bool:
    return all(access.space == "sbuf" for access in accesses)


# --- two tiles ---


def tensor_tensor(
    dst: Handle | None,
    data1: object,
    data2: object,
    op: object,
    *,
    dtype: DType | None = None,
    mask: object = None,
    engine: object = None,
    name: str = "nki.isa.tensor_tensor",
) -> Handle:
    """`dst = data1 op data2`; with a number or a column `[p, 1]` a tensor_scalar."""
    where = {"dtype": dtype, "mask": mask, "engine": engine, "name": name}
    if not operands.is_tile(data2):
        return tensor_scalar(dst, data1, op, data2, **where)
    if not operands.is_tile(data1):
        return tensor_scalar(dst, data2, op, data1, reverse0=True, **where)
    left = operands.on_chip(data1, name, "data1", mask)
    right = operands.on_chip(data2, name, "data2", mask)
    left, right = _of_as_many_partitions(name, left, right)
    widths = [operands.elements(access) for access in (left, right)]
    if widths[1] == 1 and widths[0] > 1:
        return tensor_scalar(dst, data1, op, data2, **where)
    if widths[0] == 1 and widths[1] > 1:
        return tensor_scalar(dst, data2, op, data1, reverse0=True, **where)
    ours = binary(op, name)
    kind = dtype or promoted(left.dtype, right.dtype)
    full = _broadcast_shape(name, *_sizes(name, data1, data2))
    shape = _broadcast_shape(name, left.shape, right.shape)
    first = operands.repeated(left, shape) or operands.streamed(left, shape)
    second = operands.repeated(right, shape) or operands.streamed(right, shape)
    if first is None or second is None:
        refuse(
            name,
            f"tiles are {operands.told(left)} and {operands.told(right)}, must be alike",
        )
    if first.space == second.space == "psum":
        # Two reads of PSUM at once no engine has; the compiler moves one of them.
        second = out_of_psum(second, name)
    ways = [way("vector", isa.tensor_tensor, op=ours)]
    # GpSimd keeps integers exact where the others compute in float32.
    if _in_sbuf(first, second) and (
        engine is not None or _is_float(left.dtype, right.dtype)
    ):
        ways.append(way("gpsimd", isa.tensor_tensor, op=ours, engine="gpsimd"))
    choices = offer(engine, name, *ways)
    return produce(name, choices, dst, full, shape, kind, (first, second), mask=mask)


def _of_as_many_partitions(
    name: str, left: Access, right: Access
) -> tuple[Access, Access]:
    """Both sides; a row of one partition is spread over those of the other by a product."""
    if left.partitions == right.partitions:
        return left, right
    from emu.trainium.nki.functions.spread import over_partitions

    if left.partitions == 1 and right.partitions is not None:
        return over_partitions(left, right.partitions, name), right
    if right.partitions == 1 and left.partitions is not None:
        return left, over_partitions(right, left.partitions, name)
    refuse(
        name,
        f"tiles have {left.partitions} and {right.partitions} partitions, must have as many",
    )


def _sizes(name: str, left: object, right: object) -> list[tuple[int, ...]]:
    pairs = (("data1", left), ("data2", right))
    return [operands.full(value, name, argument) for argument, value in pairs]


def _broadcast_shape(
    name: str, first: tuple[int, ...], second: tuple[int, ...]
) -> tuple[int, ...]:
    if first == second:
        return first
    try:
        return tuple(np.broadcast_shapes(first, second))
    except ValueError:
        pass
    if first[0] == second[0] and np.prod(first) == np.prod(second):
        return first
    refuse(name, f"tiles are {list(first)} and {list(second)}, must be of one shape")


# --- a tile and values ---


def tensor_scalar(
    dst: Handle | None,
    data: object,
    op0: object,
    operand0: object,
    reverse0: bool = False,
    op1: object = None,
    operand1: object = None,
    reverse1: bool = False,
    *,
    dtype: DType | None = None,
    mask: object = None,
    engine: object = None,
    name: str = "nki.isa.tensor_scalar",
) -> Handle:
    """`dst = (data op0 operand0) op1 operand1`; an operand is a number or `[p, 1]`."""
    source = operands.on_chip(data, name, "data", mask)
    first = binary(op0, name, "op0")
    second = None if op1 is None else binary(op1, name, "op1")
    if second is not None and operand1 is None:
        refuse(name, "operand1 is None, must be given with op1")
    tiles: list[Access] = []
    values: list[float | None] = []
    for argument, operand in (("operand0", operand0), ("operand1", operand1)):
        if operands.is_tile(operand):
            tiles.append(operands.column(operand, source, name, argument))
            values.append(None)
        elif operand is not None:
            values.append(operands.number(operand, name, argument))
        else:
            values.append(0.0)
    ways = _scalar_ways(
        first, bool(reverse0), values[0], second, bool(reverse1), values[1]
    )
    kind = dtype or source.dtype
    choices = offer(
        engine, name, *ways, *_further(ways[0], source, tiles, kind, engine)
    )
    full = operands.full(data, name, "data")
    return produce(
        name, choices, dst, full, source.shape, kind, (source, *tiles), mask=mask
    )


def _scalar_ways(
    op0: str,
    reverse0: bool,
    value0: float | None,
    op1: str | None,
    reverse1: bool,
    value1: float | None,
) -> list[Choice]:
    """The instruction for the operands that are tiles, None, and those that are numbers."""
    sides = {"reverse1": reverse1} if op1 is not None else {}
    if value0 is not None and value1 is not None:
        second = {} if op1 is None else {"op1": op1, "value1": value1, **sides}
        return [
            way(
                "vector",
                isa.tensor_immediate,
                op=op0,
                value=value0,
                reverse=reverse0,
                **second,
            )
        ]
    if value1 is not None:
        second = {} if op1 is None else {"op1": op1, "value1": value1, **sides}
        return [way("vector", isa.tensor_scalar, op=op0, reverse=reverse0, **second)]
    if value0 is not None:
        return [
            way(
                "vector",
                isa.tensor_immediate_scalar,
                op0=op0,
                value=value0,
                op1=op1,
                reverse0=reverse0,
                reverse1=reverse1,
            )
        ]
    return [
        way(
            "vector",
            isa.tensor_scalars,
            op0=op0,
            op1=op1,
            reverse0=reverse0,
            reverse1=reverse1,
        )
    ]


def _further(
    vector: Choice,
    source: Access,
    tiles: list[Access],
    dtype: DType,
    engine: object,
) -> list[Choice]:
    """The same on the Scalar Engine and on GpSimd, where they compute the same."""
    found: list[Choice] = []
    parameters = dict(vector.parameters)
    op0 = parameters.get("op", parameters.get("op0"))
    chain = op0, parameters.get("op1")
    turned = parameters.get("reverse1", False)
    if chain in (("multiply", None), ("add", None), ("multiply", "add")) and not turned:
        if not is_older(current().device):
            found.append(
                way("scalar", vector.instruction, engine="scalar", **parameters)
            )
        elif chain == ("multiply", None) and _is_float(source.dtype, dtype):
            # An activation that keeps its input, with the factor as its scale.
            if vector.instruction is isa.tensor_immediate:
                scale = parameters["value"]
                found.append(way("scalar", isa.activation, op="copy", scale=scale))
    if _in_sbuf(source, *tiles):
        found.append(way("gpsimd", vector.instruction, engine="gpsimd", **parameters))
    return found


def scalar_tensor_tensor(
    dst: Handle | None,
    data: object,
    op0: object,
    operand0: object,
    op1: object,
    operand1: object,
    reverse0: bool = False,
    reverse1: bool = False,
    *,
    dtype: DType | None = None,
    mask: object = None,
    engine: object = None,
    name: str = "nki.isa.scalar_tensor_tensor",
) -> Handle:
    """`dst = (data op0 operand0) op1 operand1`, operand0 a number or `[p, 1]`, operand1 a tile."""
    source = operands.on_chip(data, name, "data", mask)
    other = operands.on_chip(operand1, name, "operand1", mask)
    first, second = binary(op0, name, "op0"), binary(op1, name, "op1")
    if operands.elements(other) == 1 and operands.elements(source) > 1:
        return tensor_scalar(
            dst,
            data,
            op0,
            operand0,
            reverse0,
            op1,
            operand1,
            reverse1,
            dtype=dtype,
            mask=mask,
            engine=engine,
            name=name,
        )
    alike = operands.repeated(other, source.shape) or operands.streamed(
        other, source.shape
    )
    if alike is None:
        refuse(
            name,
            f"data is {operands.told(source)}, operand1 {operands.told(other)}, must be alike",
        )
    if source.space == alike.space == "psum":
        alike = out_of_psum(alike, name)
    sides = {
        "op0": first,
        "op1": second,
        "reverse0": bool(reverse0),
        "reverse1": bool(reverse1),
    }
    if operands.is_tile(operand0):
        scalar = operands.column(operand0, source, name, "operand0")
        reads = (source, scalar, alike)
        ways = [way("vector", isa.scalar_tensor_tensor, **sides)]
    else:
        reads = (source, alike)
        value = operands.number(operand0, name, "operand0")
        ways = [way("vector", isa.immediate_tensor_tensor, value=value, **sides)]
    kind = dtype or promoted(source.dtype, other.dtype)
    choices = offer(engine, name, *ways)
    full = operands.full(data, name, "data")
    return produce(name, choices, dst, full, source.shape, kind, reads, mask=mask)


# --- one tile, or none ---


def memset(
    dst: Handle | None,
    value: object,
    *,
    shape: tuple[int, ...] | None = None,
    dtype: DType | None = None,
    mask: object = None,
    engine: object = None,
    name: str = "nki.isa.memset",
) -> Handle:
    """`dst = value`; `shape` is of a fresh tile."""
    if dst is None and shape is None:
        refuse(name, "neither a destination nor a shape is given")
    full = operands.two_dimensional(
        dst.shape if dst is not None else [int(size) for size in shape or ()]
    )
    number = operands.number(value, name, "value")
    ways = [way("vector", isa.memset, value=number)]
    if dst is None or dst.buffer == "sbuf":
        ways.append(way("gpsimd", isa.memset, value=number, engine="gpsimd"))
    choices = offer(engine, name, *ways)
    return produce(name, choices, dst, full, None, dtype or np.float32, (), mask=mask)


def reciprocal(
    dst: Handle | None,
    data: object,
    *,
    dtype: DType | None = None,
    mask: object = None,
    engine: object = None,
    name: str = "nki.isa.reciprocal",
) -> Handle:
    """`dst = 1 / data`."""
    source = operands.on_chip(data, name, "data", mask)
    choices = offer(engine, name, way("vector", isa.reciprocal))
    full = operands.full(data, name, "data")
    kind = dtype or source.dtype
    return produce(name, choices, dst, full, source.shape, kind, (source,), mask=mask)


def select(
    dst: Handle | None,
    condition: object,
    x: object,
    y: object,
    *,
    dtype: DType | None = None,
    mask: object = None,
    name: str = "nki.language.where",
) -> Handle:
    """`x` where the condition holds, else `y`: `y` is copied, then `x` over it by predicate."""
    from emu.trainium.nki.functions.copy import tensor_copy

    test = operands.on_chip(condition, name, "condition", mask)
    shape = test.shape
    full = operands.full(condition, name, "condition")
    dtypes = [each.dtype for each in (x, y) if isinstance(each, Handle)]
    kind = dtype or (promoted(*dtypes) if dtypes else np.dtype(np.float32))
    if not np.issubdtype(test.dtype, np.unsignedinteger):
        integers = tensor_scalar(
            None, condition, "not_equal", 0.0, dtype=np.uint8, mask=mask, name=name
        )
        test = operands.on_chip(integers, name, "condition", mask)
    if isinstance(y, Handle):
        result = tensor_copy(dst, y, dtype=kind, mask=mask, name=name)
    else:
        result = memset(dst, y, shape=full, dtype=kind, mask=mask, name=name)
    if not isinstance(x, Handle):
        x = memset(None, x, shape=full, dtype=kind, mask=mask, name=name)
    elif x.dtype != result.dtype:
        x = tensor_copy(None, x, dtype=result.dtype, mask=mask, name=name)
    chosen = operands.shaped(operands.on_chip(x, name, "x", mask), shape)
    if chosen is None:
        refuse(name, f"x is not of the condition's shape {list(shape)}")
    choices = offer(None, name, way("vector", isa.tensor_copy_predicated))
    result.producer = None
    produce(name, choices, result, full, shape, kind, (chosen, test), mask=mask)
    return result
