"""Online softmax: running maximum and sum of rows that are seen piece by piece."""

from typing import Any

from emu.trainium.engines.memory import sbuf
from emu.trainium.isa import (
    activation,
    activation_reduce,
    memset,
    scalar_tensor_tensor,
    tensor_immediate,
    tensor_reduce,
    tensor_tensor,
)
from kernels.trainium.flash.lanes import Lane

# Below any score, yet exp() of differences stays finite; powers of two, so that scaling is exact.
LOWEST = -(2.0**100)
# Added to a masked score: nothing of it is left even before the first key.
MASKED = -(2.0**101)

State = tuple[Any, Any, Any]  # maximum, sum, and a spare tile for the next maximum


def begin(rows: int, *, buffers: int = 1) -> State:
    """The state of rows of which nothing was seen yet: SBUF float32 `[rows, 1]` each."""
    highest, total, spare = (sbuf(rows, 1, buffers=buffers) for _ in range(3))
    return (
        memset(highest, value=LOWEST, engine="gpsimd"),
        memset(total, value=0.0, engine="gpsimd"),
        spare,
    )


def absorb(
    p: Any, x: Any, state: State, *, scale: float = 1.0, buffers: int = 1
) -> Lane:
    """A lane that takes in one more piece of every row; `add_up` must follow.

    Args:
      p: SBUF tile `[rows, n]` for the piece's weights.
      x: SBUF or PSUM `[rows, n]`, the piece.
      state: from `begin`, or `add_up` of the previous piece.
      scale: factor of `x` in the exponent, positive.
      buffers: depth of the rings of `[rows, 1]` temporaries.

    Returns:
      `p = exp(scale · (x - maximum))`; its sum `[rows, 1]`; the factor `[rows, 1]` by which weights
      of earlier pieces shrink; the state with the new maximum and the old sum.

    Pseudocode:
      m' = max(m, max(x)); p = exp(scale (x - m')); decay = exp(scale (m - m'))
    """
    highest, total, spare = state

    def column() -> Any:
        return sbuf(x.shape[0], 1, buffers=buffers)

    peak = tensor_reduce(column(), x, op="max")
    yield
    peak = tensor_tensor(spare, peak, highest, op="max")
    yield
    bias = tensor_immediate(column(), peak, op="multiply", value=-scale)
    yield
    # Subtracted before it is scaled: 1 exactly where the maximum stays, however products round.
    fallen = tensor_tensor(column(), highest, peak, op="subtract", engine="gpsimd")
    p, added = activation_reduce(p, column(), x, bias, op="exp", scale=scale)
    decay = activation(column(), fallen, op="exp", scale=scale)
    return p, added, decay, (peak, total, highest)


def add_up(added: Any, decay: Any, state: State) -> State:
    """The state with the sum `total · decay + added`; apart, so that other work can come before."""
    highest, total, spare = state
    total = scalar_tensor_tensor(total, total, decay, added, op0="multiply", op1="add")
    return highest, total, spare
