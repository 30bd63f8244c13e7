"""A loop's body as a list of operations, its inner loops written out, some turns at a time."""

from collections.abc import Mapping, Sequence

from emu.trainium.nki.passes.rewrite import rewritten
from emu.trainium.nki.tree import Affine, Loop, Node, Operation, PerCore


def size(body: Sequence[Node]) -> int:
    """How many operations a body is when it is written out."""
    total = 0
    for node in body:
        if isinstance(node, Loop):
            total += node.count * size(node.body)
        else:
            total += 1
    return total


def has_only_operations(body: Sequence[Node]) -> bool:
    """Whether nothing in a body is other on other cores, or done for its effect."""
    for node in body:
        if isinstance(node, Loop):
            if node.kind == "dynamic" or not has_only_operations(node.body):
                return False
        elif isinstance(node, PerCore) or not node.writes:
            return False
        elif node.choice.instruction.across or node.choice.instruction.effect:
            return False
    return True


def written_out(loop: Loop, copies: int) -> tuple[Loop, list[Operation]]:
    """A loop of `copies` turns at a time, and the operations of one of its turns in order.

    Args:
      loop: as recorded.
      copies: a divisor of its count.

    Returns:
      The new loop, still without a body, and operations whose addresses count it.
    """
    fewer = Loop(loop.count // copies, [], loop.kind, loop.place)
    operations: list[Operation] = []
    for copy in range(copies):
        turn = Affine(copy, ((fewer, copies),))
        operations += _body(loop.body, {loop: turn})
    return fewer, operations


def _body(body: Sequence[Node], values: Mapping[Loop, Affine | int]) -> list[Operation]:
    operations: list[Operation] = []
    for node in body:
        if isinstance(node, Loop):
            for turn in range(node.count):
                operations += _body(node.body, {**values, node: turn})
        else:
            assert isinstance(node, Operation)
            operations.append(rewritten(node, values))
    return operations


__all__ = ["has_only_operations", "size", "written_out"]
