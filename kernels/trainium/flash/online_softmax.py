"""Online softmax: running maximum and sum of rows that are seen piece by piece.

The weights of a row are `exp(x - m)` with m the row's maximum, which nobody knows before the last
piece. So each piece is weighted against the maximum so far, and when a later piece raises it, what
was summed before shrinks by `decay = exp(old maximum - new maximum)`:

    piece   maximum   weights            decay     sum
    [1, 3]     3      e^-2 + 1 = 1.135   0         1.135
    [5, 4]     5      1 + e^-1 = 1.368   e^-2      1.135 · 0.135 + 1.368 = 1.522

which is `e^-4 + e^-2 + 1 + e^-1`, the sum over the whole row [1, 3, 5, 4] against its maximum 5.
"""

from typing import NamedTuple

from emu.trainium.engines.memory import sbuf
from emu.trainium.isa import (
    activation,
    activation_reduce,
    activation_scaled_total,
    memset,
    scalar_tensor_tensor,
    tensor_immediate,
    tensor_reduce,
    tensor_tensor,
)
from emu.trainium.spaces import OnChip, Sbuf
from kernels.trainium.flash.lanes import Lane

# Below any score, yet exp() of differences stays finite; powers of two, so that scaling is exact.
LOWEST = -(2.0**100)
# In place of a masked score: nothing of it is left even before the first key.
MASKED = -(2.0**101)


class RunningSoftmax(NamedTuple):
    """What is known of rows of which some pieces were seen: SBUF float32 `[rows, 1]` each.

    Attributes:
      maximum: of each row's elements so far; of their products where rows have factors.
      total: sum of their weights `exp(scale · (x - maximum))`.
      spare: a tile for the next maximum, which is written while the last one is still read.
    """

    maximum: Sbuf
    total: Sbuf
    spare: Sbuf


class Absorbed(NamedTuple):
    """One more piece of every row, taken in.

    Attributes:
      weights: `exp(scale · (x - maximum))`, SBUF `[rows, n]`.
      added: their sum, SBUF `[rows, 1]`.
      decay: factor by which weights of earlier pieces shrink, SBUF `[rows, 1]`.
      state: with the new maximum, and still the old sum.
    """

    weights: Sbuf
    added: Sbuf
    decay: Sbuf
    state: RunningSoftmax


def begin(rows: int, *, buffers: int = 1) -> RunningSoftmax:
    """The state of rows of which nothing was seen yet."""
    maximum, total, spare = (sbuf(rows, 1, buffers=buffers) for _ in range(3))
    # Not −inf: of a row of which nothing is seen yet, −inf − (−inf) would be NaN.
    maximum = memset(maximum, value=LOWEST, engine="gpsimd")
    total = memset(total, value=0.0, engine="gpsimd")
    return RunningSoftmax(maximum, total, spare)


def absorb(
    weights: Sbuf,
    scores: OnChip,
    state: RunningSoftmax,
    *,
    scale: float = 1.0,
    factor: Sbuf | None = None,
    buffers: int = 1,
) -> Lane[Absorbed]:
    """A lane that takes in one more piece of every row; `add_up` must follow.

    Args:
      weights: SBUF tile `[rows, n]` for the piece's weights.
      scores: SBUF or PSUM `[rows, n]`, the piece.
      state: from `begin`, or `add_up` of the previous piece.
      scale: factor of the scores in the exponent, positive.
      factor: SBUF `[rows, 1]`, in place of `scale` a positive factor of each row. Maxima are then
        of products, so that a row's state means the same whatever its factor is.
      buffers: depth of the rings of `[rows, 1]` temporaries.

    Returns:
      The piece's weights, and what they change.

    Pseudocode:
      m' = max(m, max(x)); p = exp(scale (x - m')); decay = exp(scale (m - m'))
    With a factor f: m' = max(m, f max(x)); p = exp(f x - m'); decay = exp(m - m')
    """
    maximum, total, spare = state

    def column() -> Sbuf:
        return sbuf(scores.shape[0], 1, buffers=buffers)

    piece_maximum = tensor_reduce(column(), scores, op="max")
    yield
    # Say a row's maximum rises from 2 to 5 at scale 1: weights so far were relative to 2 and shrink
    # by exp(2 − 5) = 0.05, so a sum of 10 counts 0.5 from here on.
    if factor is None:
        raised = tensor_tensor(spare, piece_maximum, maximum, op="max")
    else:
        raised = scalar_tensor_tensor(
            spare, piece_maximum, factor, maximum, op0="multiply", op1="max"
        )
        scale = 1.0
    yield
    # The activation computes exp(scale · x + bias): subtracting the maximum costs no pass over the
    # scores.
    bias = tensor_immediate(column(), raised, op="multiply", value=-scale)
    yield
    # Subtracted before it is scaled: 1 exactly where the maximum stays, however products round.
    fallen = tensor_tensor(column(), maximum, raised, op="subtract", engine="gpsimd")
    if factor is None:
        weights, added = activation_reduce(
            weights, column(), scores, bias, op="exp", scale=scale
        )
    else:
        # As above with a scale of each row; the sum passes through the engine's register.
        weights, _, added = activation_scaled_total(
            weights,
            column(),
            column(),
            scores,
            factor,
            bias,
            op="exp",
            command="reset_reduce",
        )
    decay = activation(column(), fallen, op="exp", scale=scale)
    # The tile of the old maximum is free for the next one.
    return Absorbed(weights, added, decay, RunningSoftmax(raised, total, maximum))


def add_up(added: Sbuf, decay: Sbuf, state: RunningSoftmax) -> RunningSoftmax:
    """The state with the sum `total · decay + added`; apart, so that other work can come before."""
    total = scalar_tensor_tensor(
        state.total, state.total, decay, added, op0="multiply", op1="add"
    )
    return state._replace(total=total)


__all__ = [
    "LOWEST",
    "MASKED",
    "Absorbed",
    "RunningSoftmax",
    "absorb",
    "add_up",
    "begin",
]
