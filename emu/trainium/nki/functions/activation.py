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
from emu.trainium.nki.handles import Handle, fresh, whole_tensor
from emu.trainium.nki.record import current
from emu.trainium.nki.tree import Access

# By whether the scale is a tile and whether there is a bias.
PLAIN: Mapping[tuple[bool, bool], Instruction[..., Any]] = {
    (False, False): isa.activation,
    (False, True): isa.activation_bias,
    (True, False): isa.activation_multiplied,
    (True, True): isa.activation_scaled,
}
# With the engine's register of sums, which the reduction adds to; read out or not.
ACCUMULATE: Mapping[tuple[bool, bool], Instruction[..., Any]] = {
    (False, False): isa.activation_accumulate,
    (False, True): isa.activation_bias_accumulate,
    (True, False): isa.activation_multiplied_accumulate,
    (True, True): isa.activation_scaled_accumulate,
}
TOTAL: Mapping[tuple[bool, bool], Instruction[..., Any]] = {
    (False, False): isa.activation_total,
    (False, True): isa.activation_bias_total,
    (True, False): isa.activation_multiplied_total,
    (True, True): isa.activation_scaled_total,
}
COMMANDS = ("idle", "reset", "reduce", "reset_reduce")


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
      bias: None, a number, or `[p, 1]`.
      scale: a number, or `[p, 1]`.
      reduce_op: `nl.add`.
      reduce_res: where the sum goes.
      reduce_cmd: `reset_reduce` begins a sum, `reduce` adds to it, `reset` sets it to 0.
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
    has_bias = operands.is_tile(bias)
    if has_bias:
        reads.append(operands.column(bias, source, name, "bias"))
    elif bias is not None:
        constant = operands.number(bias, name, "bias")
        if constant:
            parameters["bias"] = constant
    command = _command(reduce_cmd, reduce_op, reduce_res, name)
    more: list[Access] = []
    instruction = PLAIN[is_scaled, has_bias]
    if command is not None:
        instruction = (ACCUMULATE if reduce_res is None else TOTAL)[is_scaled, has_bias]
        parameters["command"] = command
        more.append(_register(command, source, name))
    if reduce_res is not None:
        more.append(
            operands.column(reduce_res, source, name, "reduce_res", written=True)
        )
    choices = offer(
        engine or Engine.unknown, name, way("scalar", instruction, **parameters)
    )
    full = operands.full(data, name, "data")
    kind = dtype or source.dtype
    return produce(
        name, choices, dst, full, source.shape, kind, reads, mask=mask, more=more
    )


def _command(
    reduce_cmd: object, reduce_op: object, reduce_res: Handle | None, name: str
) -> str | None:
    """What happens to the register of sums; None: nothing, and nobody reads it."""
    command = getattr(reduce_cmd, "name", None) or "idle"
    if command not in COMMANDS:
        refuse(name, f"reduce_cmd is {command}, must be one of {', '.join(COMMANDS)}")
    if command == "idle":
        if reduce_res is None:
            return None
        # A sum is asked for and no register named: it is of this activation alone.
        command = "reset_reduce"
    if reduce_op is None or reduction(reduce_op, name, "reduce_op") != "add":
        refuse(name, "reduce_op must be nl.add with reduce_res or reduce_cmd")
    return command


def _register(command: str, source: Access, name: str) -> Access:
    """The register as a tile of its own; a reset begins a new one, so sums do not wait."""
    recorder = current()
    if command in ("reset", "reset_reduce"):
        recorder.sums = fresh((source.shape[0], 1), np.float32, "sbuf").tensor
    if recorder.sums is None:
        refuse(name, f"reduce_cmd is {command}, must be reset or reset_reduce first")
    if recorder.sums.shape[0] != source.shape[0]:
        refuse(
            name,
            f"{source.shape[0]} partitions are added to the sums of {recorder.sums.shape[0]}",
        )
    return whole_tensor(recorder.sums).access()
