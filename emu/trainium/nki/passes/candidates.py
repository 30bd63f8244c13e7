"""Which families to move out of a memory that is too small: what frees most for what is moved.

Of two families of 64 KiB a partition, one that is written once and read once moves a third of the
bytes of one that is written once and read five times, so it goes first.
"""

import math
from collections.abc import Callable, Collection, Iterable, Sequence

from emu.trainium.nki.passes.rewrite import turns
from emu.trainium.nki.passes.uses import Use, Uses, is_private, uses
from emu.trainium.nki.scopes import scopes
from emu.trainium.nki.tree import Node, Tensor


def cheapest_first(
    body: Sequence[Node],
    space: str,
    refused: Collection[Tensor],
    moving: Callable[[Tensor, Uses], Iterable[Use] | None],
) -> list[Tensor]:
    """Families in a memory, those first that move the fewest bytes for a byte freed.

    Args:
      body: nodes.
      space: the memory, `sbuf` or `psum`.
      refused: families to leave out.
      moving: which uses of a family would move its elements; None: it cannot be moved.
    """
    found = uses(body)
    freed: dict[Tensor, int] = {}
    for buffer in scopes(body):
        tensor = buffer.tensor
        if tensor.space == space and is_private(tensor) and tensor not in refused:
            freed[tensor] = freed.get(tensor, 0) + buffer.partition_bytes
    costs: dict[Tensor, float] = {}
    for tensor, nbytes in freed.items():
        movers = moving(tensor, found)
        if movers is None:
            continue
        moved = sum(turns(use.path) * math.prod(use.access.shape) for use in movers)
        costs[tensor] = moved * tensor.dtype.itemsize / nbytes
    return sorted(costs, key=lambda tensor: costs[tensor])


__all__ = ["cheapest_first"]
