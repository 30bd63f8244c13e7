"""Copies of a recorded tree with something else in place of its loops or tensors.

Passes never change the tree they are given: two readings of a kernel share one recording.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

from emu.trainium.nki.tree import (
    Access,
    Affine,
    Loop,
    Node,
    Operation,
    PerCore,
    Recorded,
    Tensor,
    walk,
)


def put(access: Access, values: Mapping[Loop, Affine | int]) -> Access:
    """An access with other expressions in place of some loops' indices."""
    return dataclasses.replace(
        access,
        member=tuple(each.put(values) for each in access.member),
        partition=access.partition.put(values),
        offset=access.offset.put(values),
    )


def rewritten(
    operation: Operation,
    values: Mapping[Loop, Affine | int],
    accessed: Callable[[Access], Access] | None = None,
) -> Operation:
    """A copy of an operation; `accessed` is applied to its accesses as they were."""

    def changed(read: Access | Affine) -> Access | Affine:
        if isinstance(read, Affine):
            return read.put(values)
        return put(accessed(read) if accessed else read, values)

    def written(write: Access) -> Access:
        return put(accessed(write) if accessed else write, values)

    return dataclasses.replace(
        operation,
        writes=tuple(written(write) for write in operation.writes),
        reads=tuple(changed(read) for read in operation.reads),
    )


def copied(
    body: Sequence[Node],
    values: Mapping[Loop, Affine | int] | None = None,
    *,
    keep: Callable[[Operation], bool] | None = None,
    accessed: Callable[[Access], Access] | None = None,
) -> list[Node]:
    """A copy of a body with loops of its own.

    Args:
      body: nodes.
      values: expressions in place of loops around the body.
      keep: which operations; loops left empty are dropped. None keeps all.
      accessed: what becomes of an access.
    """
    values = dict(values or {})
    result: list[Node] = []
    for node in body:
        if isinstance(node, Loop):
            loop = Loop(node.count, [], node.kind, node.place)
            inside = {**values, node: Affine(0, ((loop, 1),))}
            loop.body = copied(node.body, inside, keep=keep, accessed=accessed)
            if loop.body:
                result.append(loop)
        elif isinstance(node, PerCore):
            bodies = [
                copied(each, values, keep=keep, accessed=accessed)
                for each in node.bodies
            ]
            result.append(PerCore(tuple(bodies)))
        elif keep is None or keep(node):
            result.append(rewritten(node, values, accessed))
    return result


def with_body(recorded: Recorded, body: list[Node]) -> Recorded:
    """The kernel with another body."""
    return dataclasses.replace(recorded, body=body)


def moved(access: Access, tensor: Tensor, dims: Sequence[int]) -> Access:
    """An access to the same place of another family, which has these of its block dimensions."""
    member = tuple(access.member[dim] for dim in dims)
    return dataclasses.replace(access, tensor=tensor, member=member)


def fresh_access(tensor: Tensor, path: Sequence[Loop]) -> Access:
    """All of the member of this turn, of a family with a block dimension for each loop around."""
    free = tensor.shape[1:]
    axes: list[tuple[int, int]] = []
    stride = 1
    for size in reversed(free):
        axes.insert(0, (stride, size))
        stride *= size
    member = tuple(Affine(0, ((loop, 1),)) for loop in path)
    return Access(tensor, member, Affine(), tensor.shape[0], Affine(), tuple(axes))


def fresh(
    space: str, like: Access, path: Sequence[Loop], name: str
) -> tuple[Tensor, Access]:
    """A tile of an access's shape, made anew in every turn of the loops around it."""
    block = tuple(loop.count for loop in path)
    tensor = Tensor(like.shape, like.dtype, space, name, like.tensor.place, block)
    return tensor, fresh_access(tensor, path)


def turns(path: Sequence[Loop]) -> int:
    """How often a body inside these loops runs."""
    total = 1
    for loop in path:
        total *= loop.count
    return total


def operations(body: Sequence[Node]) -> list[tuple[Operation, tuple[Loop, ...]]]:
    """Every operation in program order with the loops around it."""
    return list(walk(list(body)))


__all__ = [
    "copied",
    "fresh",
    "fresh_access",
    "moved",
    "operations",
    "put",
    "rewritten",
    "turns",
    "with_body",
]
