"""What an MLP makes of its two up projections: `op(gate) · up`, or gpt-oss's clamped form.

gpt-oss (arXiv:2508.10925 and its reference implementation, `swiglu` with a limit of 7): gate and up
are clamped, the gate from above only, and `(up + 1) · gate · sigmoid(1.702 gate)`. For gate 8 and
up -9 with a limit of 7 that is `(-7 + 1) · 7 · sigmoid(11.9)` = -42.
"""

import dataclasses
from collections.abc import Mapping
from typing import Literal, TypeAlias

from emu.trainium.engines.memory import sbuf
from emu.trainium.isa import (
    activation,
    activation_bias,
    tensor_immediate,
    tensor_scalar,
)
from emu.trainium.spaces import Psum, Sbuf
from kernels.refusal import refuse

Op: TypeAlias = Literal["silu", "gelu_apprx_tanh", "gelu", "gelu_apprx_sigmoid"]


@dataclasses.dataclass(frozen=True)
class Gate:
    """How gate and up become an MLP's features.

    Attributes:
      op: of the gate: an activation function of the Scalar Engine. `gelu_apprx_sigmoid` is
        `x · sigmoid(1.702 x)`.
      limit: clamps gate (from above) and up (on both sides), and adds 1 to up; None: neither.
    """

    op: Op = "silu"
    limit: float | None = None

    def __post_init__(self) -> None:
        if self.limit is not None and not self.limit > 0:
            refuse(f"limit is {self.limit}, must be more than 0, or None for no clamp")


CLAMPED = Gate("gelu_apprx_sigmoid", limit=7.0)
"""gpt-oss's."""

GATES: Mapping[str, Gate] = {
    "silu": Gate(),
    "gelu_tanh": Gate("gelu_apprx_tanh"),
    "clamped_swiglu": CLAMPED,
}
"""Those of models, by the name of the activation in their layers' forms."""


def activated(gate: Psum, bias: Sbuf | None, form: Gate) -> Sbuf:
    """The gate's factor, float32; only it leaves PSUM by itself.

    Args:
      gate: PSUM `[features, tokens]`.
      bias: SBUF `[features, 1]`, added first; None: none.
      form: which gate.

    Returns:
      SBUF float32 `[features, tokens]`.
    """
    out = sbuf(*gate.shape)
    if form.limit is None:
        if bias is None:
            return activation(out, gate, op=form.op)
        return activation_bias(out, gate, bias, op=form.op)
    clamped = sbuf(*gate.shape)
    if bias is None:
        clamped = tensor_immediate(clamped, gate, op="min", value=form.limit)
    else:
        clamped = tensor_scalar(
            clamped, gate, bias, op="add", op1="min", value1=form.limit
        )
    return activation(out, clamped, op=form.op)


def raised(up: Psum, bias: Sbuf | None, form: Gate) -> Psum | Sbuf:
    """What of `up` is multiplied, where that is more than a bias: clamped, and 1 added.

    Args:
      up: PSUM `[features, tokens]`.
      bias: SBUF `[features, 1]`, or None.
      form: which gate.

    Returns:
      `up` itself, or SBUF float32 of its shape.
    """
    limit = form.limit
    if limit is None:
        return up
    above = sbuf(*up.shape)
    if bias is None:
        above = tensor_immediate(above, up, op="min", value=limit)
    else:
        above = tensor_scalar(above, up, bias, op="add", op1="min", value1=limit)
    out = sbuf(*up.shape)
    return tensor_immediate(out, above, op="max", value=-limit, op1="add", value1=1.0)


__all__ = ["CLAMPED", "GATES", "Gate", "Op", "activated", "raised"]
