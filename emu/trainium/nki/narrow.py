"""Access patterns of more axes than an engine's instruction has, as fewer or as a loop.

An engine steps through at most four free axes. Axes that go on evenly in all tiles of an operation
are joined; what is left over becomes a loop of instructions around the operation, as the compiler
makes it.
"""

import dataclasses
from collections.abc import Sequence

from emu.trainium.datasheets.limits import FREE_DIMENSIONS
from emu.trainium.nki.tree import Access, Affine, Loop, Node, Operation


def narrowed(body: Sequence[Node]) -> list[Node]:
    """The body with no operation of more than four free axes, as far as that can be."""
    result: list[Node] = []
    for node in body:
        if isinstance(node, Loop):
            node.body = narrowed(node.body)
            result.append(node)
        elif isinstance(node, Operation) and _is_wide(node):
            result.append(_narrow(node))
        else:
            result.append(node)
    return result


def _is_wide(operation: Operation) -> bool:
    """Whether it has too many axes, and all its tiles the same or a column."""
    if operation.choice.engine == "dma" or not operation.writes:
        return False
    shape = operation.writes[0].shape
    if len(shape) - 1 <= FREE_DIMENSIONS:
        return False
    for access in operation.accesses:
        if access.form is not None or access.partitions is None:
            return False
        if access.shape not in (shape, (shape[0], 1)):
            return False
    return True


def _narrow(operation: Operation) -> Node:
    wide = [x for x in operation.accesses if x.shape == operation.writes[0].shape]
    joined = _joined([access.axes for access in wide])
    axes = {id(access): each for access, each in zip(wide, joined, strict=True)}
    loops: list[tuple[Loop, int]] = []
    outer = max(0, len(joined[0]) - FREE_DIMENSIONS)
    for place in range(outer):
        loop = Loop(joined[0][place][1], [], "static", operation.place)
        loops.append((loop, place))

    def changed(access: Access) -> Access:
        if id(access) not in axes:
            return access
        mine = axes[id(access)]
        terms = tuple((loop, mine[place][0]) for loop, place in loops)
        offset = access.offset.plus(Affine(0, tuple(t for t in terms if t[1])))
        return dataclasses.replace(access, offset=offset, axes=mine[outer:])

    operation.writes = tuple(changed(access) for access in operation.writes)
    operation.reads = tuple(
        changed(read) if isinstance(read, Access) else read for read in operation.reads
    )
    node: Node = operation
    for loop, _ in reversed(loops):
        loop.body = [node]
        node = loop
    return node


def _joined(
    patterns: Sequence[tuple[tuple[int, int], ...]],
) -> list[tuple[tuple[int, int], ...]]:
    """Patterns of the same counts with the axes joined that go on evenly in all of them.

    Example: ((64, 2), (8, 8), (1, 8)) beside ((0, 2), (8, 8), (1, 8)) are ((64, 2), (1, 64)) and
    ((0, 2), (1, 64)).
    """
    results: list[list[tuple[int, int]]] = [[] for _ in patterns]
    for column in zip(*patterns, strict=True):
        count = column[0][1]
        if count == 1:
            continue
        even = bool(results[0]) and all(
            result[-1][0] == stride * count
            for result, (stride, _) in zip(results, column, strict=True)
        )
        for result, (stride, _) in zip(results, column, strict=True):
            if even:
                result[-1] = (stride, result[-1][1] * count)
            else:
                result.append((stride, count))
    return [tuple(result) or ((1, 1),) for result in results]
