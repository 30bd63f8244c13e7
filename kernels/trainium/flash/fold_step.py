"""The inner step of attention whose weights are not a softmax's, for one query tile and key tile.

What is summed is known of rows as in `step`; a fold without a greatest, such as that of sigmoid
attention, has no maximum and nothing that shrinks:

    softmax      m' = max(m, max(x)); decay = exp(m - m')     out · decay + p v
    sigmoid                                                   out + p v
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias

from emu.trainium.engines.memory import sbuf
from emu.trainium.isa import memset, scalar_tensor_tensor, tensor_tensor
from emu.trainium.spaces import OnChip, Sbuf
from kernels.trainium.flash.lanes import Lane
from kernels.trainium.flash.online_softmax import RunningSoftmax, add_up, begin
from kernels.trainium.flash.step import Banks, FlashTiling, mixed, scores_of


class Summed(NamedTuple):
    """What a query tile has attended to so far, in SBUF.

    Attributes:
      output: sum of weighted values, `[rows, value_dim]`.
      softmax: maximum of its rows and sum of their plain weights; None: weights are relative to no
        greatest.
      sums: further sums, `[rows, 1]` each.
    """

    output: Sbuf
    softmax: RunningSoftmax | None
    sums: tuple[Sbuf, ...]


class Weighed(NamedTuple):
    """A key tile's weights.

    Attributes:
      weights: of the values, `[rows, columns]`, in the operands' dtype.
      sums: what each of the further sums takes, `[rows, 1]`.
      softmax: state, sum of plain weights and decay; None: see `Summed`.
    """

    weights: Sbuf
    sums: tuple[Sbuf, ...]
    softmax: tuple[RunningSoftmax, Sbuf, Sbuf] | None


Weigh: TypeAlias = Callable[[OnChip, Summed], Lane[Weighed]]
"""A lane that makes weights of scores in PSUM."""


def nothing_summed(tiling: FlashTiling, sums: int, *, greatest: bool) -> Summed:
    """What a query tile has attended to before its first key."""
    output = sbuf(tiling.rows, tiling.value_dim, buffers=tiling.buffers)
    output = memset(output, value=0.0, engine="gpsimd")
    softmax = begin(tiling.rows, buffers=tiling.buffers) if greatest else None
    columns = []
    for _ in range(sums):
        column = sbuf(tiling.rows, 1, buffers=tiling.buffers)
        columns.append(memset(column, value=0.0, engine="gpsimd"))
    return Summed(output, softmax, tuple(columns))


def attend_weighed(
    q: Sequence[Sbuf],
    k: Sequence[Sbuf],
    v: Sbuf,
    done: Summed,
    weigh: Weigh,
    banks: Banks,
    tiling: FlashTiling,
) -> Lane[Summed]:
    """A lane that attends one query tile to one key tile.

    Args:
      q, k, v, banks, tiling: as for `step.attend`.
      done: what the query tile attended to before.
      weigh: makes weights of the scores.

    Returns:
      What it attended to now.

    Pseudocode:
      p = weights of q k; pᵀ by 128 keys; out = out · decay + p v; each sum likewise
    """
    scores = scores_of(q, k, banks)
    weighed = yield from weigh(scores, done)
    yield
    products = yield from mixed(weighed.weights, v, banks, tiling)
    yield
    # Only now, so that the Vector Engine has brought the transposes out of PSUM first.
    if weighed.softmax is None:
        sums = tuple(
            tensor_tensor(old, old, added, op="add", engine="gpsimd")
            for old, added in zip(done.sums, weighed.sums, strict=True)
        )
        output = tensor_tensor(done.output, done.output, products, op="add")
        return Summed(output, None, sums)
    softmax, added, decay = weighed.softmax
    softmax = add_up(added, decay, softmax)
    sums = tuple(
        scalar_tensor_tensor(old, old, decay, added, op0="multiply", op1="add")
        for old, added in zip(done.sums, weighed.sums, strict=True)
    )
    output = scalar_tensor_tensor(
        done.output,
        done.output,
        decay,
        products,
        op0="multiply",
        op1="add",
    )
    return Summed(output, softmax, sums)


__all__ = ["Summed", "Weigh", "Weighed", "attend_weighed", "nothing_summed"]
