"""Who reads and writes each tensor of a body, and what a single run of an operation means."""

import dataclasses
from collections.abc import Sequence

from emu.trainium.nki.passes.regions import Distances, may_meet
from emu.trainium.nki.tree import (
    Access,
    Loop,
    Node,
    Operation,
    PerCore,
    Tensor,
    walk,
)


@dataclasses.dataclass(frozen=True, eq=False)
class Use:
    """An access where it stands: `order` counts operations through the body."""

    access: Access
    operation: Operation
    path: tuple[Loop, ...]
    order: int

    def node(self, depth: int) -> Node:
        """What it is in, of the body inside `depth` loops."""
        return self.path[depth] if depth < len(self.path) else self.operation


@dataclasses.dataclass(frozen=True)
class Uses:
    """All uses of a body's tensors."""

    writes: dict[Tensor, list[Use]]
    reads: dict[Tensor, list[Use]]

    def of(self, tensor: Tensor) -> list[Use]:
        """Every use of a tensor, writers first."""
        return [*self.writes.get(tensor, ()), *self.reads.get(tensor, ())]

    @property
    def tensors(self) -> list[Tensor]:
        """In the order in which they are first met."""
        return list({**self.writes, **self.reads})


def uses(body: Sequence[Node], path: tuple[Loop, ...] = ()) -> Uses:
    """The uses in a body; `path` are loops around it."""
    writes: dict[Tensor, list[Use]] = {}
    reads: dict[Tensor, list[Use]] = {}
    for order, (operation, inner) in enumerate(walk(list(body), path)):
        for access in operation.writes:
            use = Use(access, operation, inner, order)
            writes.setdefault(access.tensor, []).append(use)
        for access in read(operation):
            use = Use(access, operation, inner, order)
            reads.setdefault(access.tensor, []).append(use)
    return Uses(writes, reads)


def places(body: Sequence[Node]) -> dict[Node, int]:
    """The place of each node in the body that it is in."""
    found: dict[Node, int] = {}
    for place, node in enumerate(body):
        found[node] = place
        if isinstance(node, Loop):
            found.update(places(node.body))
    return found


def read(operation: Operation) -> tuple[Access, ...]:
    """What an operation reads, its destinations included where their old content matters."""
    reads = [each for each in operation.reads if isinstance(each, Access)]
    if operation.accumulates:
        reads += operation.writes
    return tuple(reads)


def is_transfer(operation: Operation) -> bool:
    """Whether a DMA queue runs it."""
    return operation.choice.engine == "dma"


def is_private(tensor: Tensor) -> bool:
    """Whether nobody outside of the kernel sees a tensor."""
    return tensor.role == "temporary"


def written_once(writes: Sequence[Use], around: tuple[Loop, ...]) -> bool:
    """Whether each element is written once in a turn of the loops `around`."""
    same = frozenset(around)
    for place, first in enumerate(writes):
        for second in writes[place + 1 :]:
            if may_meet(first.access, second.access, Distances(same, {})):
                return False
        # The same write in two turns of a loop further in, the outermost in which they differ.
        for level in range(len(around), len(first.path)):
            further = first.path[level]
            if further.count > 1:
                later = {further: (1, further.count - 1)}
                distances = Distances(frozenset(first.path[:level]), later)
                if may_meet(first.access, first.access, distances):
                    return False
    return True


def has_cores(body: Sequence[Node]) -> bool:
    """Whether cores do not do the same in a body."""
    for node in body:
        if isinstance(node, PerCore):
            return True
        if isinstance(node, Loop) and has_cores(node.body):
            return True
    return False


__all__ = [
    "Use",
    "Uses",
    "has_cores",
    "is_private",
    "is_transfer",
    "places",
    "read",
    "uses",
    "written_once",
]
