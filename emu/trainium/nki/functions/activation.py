"""The Scalar Engine's activation functions, with scale, bias and a reduction on the way."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from emu.annotations import DType
from emu.instruction import Instruction
from emu.trainium import isa
from emu.trainium.nki.functions import operands
from emu.trainium.nki.functions.checks import refuse
from emu.trainium.nki.functions.engines import Engine, offer, way
from emu.trainium.nki.functions.operators import reduction, unary
from emu.trainium.nki.functions.produce import produce
from emu.trainium.nki.handles import Handle, fresh
from emu.trainium.nki.tree import Access

# By whether the scale is a tile and whether there is a bias.
PLAIN: Mapping[tuple[bool, bool], Instruction[..., Any]] = {
    (False, False): isa.activation,
    (False, True): isa.activation_bias,
    (True, False): isa.activation_multiplied,
    (True, True): isa.activation_scaled,
}
TOTAL: Mapping[tuple[bool, bool], Instruction[..., Any]] = {
    (False, False): isa.activation_total,
    (False, True): isa.activation_reduce,
    (True, False): isa.activation_multiplied_total,
    (True, True): isa.activation_scaled_total,
}


def activation(
    dst: Handle | None,
    op: object,
    data: object,
    bias: object = None,
    scale: object = 1.0,
    *,
    reduce_op: object = None,
    reduce_res: Handle | None = None,
    reduce_cmd: object = None,
    dtype: DType | None = None,
    mask: object = None,
    engine: object = None,
    name: str = "nki.isa.activation",
) -> Handle:
    """`dst = op(data · scale + bias)`; `reduce_res` `[p, 1]` gets `reduce_op` of it.

    Args:
      dst: None makes a fresh tile of the dtype of `data`.
      op: an activation function.
      data: `[p, ...]`.
      bias: None, a number that is 0, or `[p, 1]`.
      scale: a number, or `[p, 1]`.
      reduce_op: `nl.add`.
      reduce_res: where the sum goes.
      reduce_cmd: `reset_reduce` begins the sum anew, which is what is supported.
      dtype: of a fresh tile.
      mask: clips all operands.
      engine: the Scalar Engine, or None.
      name: NKI's.
    """
    source = operands.on_chip(data, name, "data", mask)
    function = unary(op, name)
    parameters: dict[str, Any] = {"op": function}
    reads: list[Access] = [source]
    is_scaled = operands.is_tile(scale)
    if is_scaled:
        reads.append(operands.column(scale, source, name, "scale"))
    else:
        parameters["scale"] = operands.number(scale, name, "scale")
    if bias is not None and not operands.is_tile(bias):
        if operands.number(bias, name, "bias") != 0:
            refuse(name, f"bias is {bias}, must be a tile [p, 1] or None")
        bias = None
    if bias is not None:
        reads.append(operands.column(bias, source, name, "bias"))
    total = _total(reduce_op, reduce_res, reduce_cmd, source, name)
    more: tuple[Access, ...] = () if total is None else (total,)
    instruction = PLAIN[is_scaled, bias is not None]
    if total is not None:
        instruction = TOTAL[is_scaled, bias is not None]
        if instruction is not isa.activation_reduce:
            # The engine's register of sums, which other instructions could go on with.
            register = fresh((source.shape[0], 1), np.float32, "sbuf").access()
            more = (register, total)
            parameters["command"] = "reset_reduce"
    choices = offer(
        engine or Engine.unknown, name, way("scalar", instruction, **parameters)
    )
    full = operands.full(data, name, "data")
    kind = dtype or source.dtype
    return produce(
        name, choices, dst, full, source.shape, kind, reads, mask=mask, more=more
    )


def _total(
    reduce_op: object,
    reduce_res: Handle | None,
    reduce_cmd: object,
    source: Access,
    name: str,
) -> Access | None:
    """Where the sum on the way goes."""
    command = getattr(reduce_cmd, "name", None)
    if reduce_res is None:
        if command not in (None, "idle"):
            refuse(name, f"reduce_cmd is {command}, must be idle without reduce_res")
        return None
    if command not in (None, "idle", "reset_reduce"):
        refuse(
            name,
            f"reduce_cmd is {command}, must be reset_reduce: a sum over several "
            "activations is not supported, add up their sums",
        )
    if reduce_op is None or reduction(reduce_op, name, "reduce_op") != "add":
        refuse(name, "reduce_op must be nl.add")
    return operands.column(reduce_res, source, name, "reduce_res", written=True)
