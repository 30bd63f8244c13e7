"""Two recordings of a kernel, one for each core of a launch, made one.

Of two whole numbers one is always the other plus a multiple of the core's index, so what the cores
do alike at other addresses is one operation with that index in its addresses. Where they do other
things stands a `PerCore`. What crosses cores parts a program: both meet it in the same order.
"""

import dataclasses
from collections.abc import Generator, Mapping, Sequence

import numpy as np

from emu.errors import EmulationError
from emu.trainium.links.pair import Owners
from emu.trainium.nki.interpret import Turns, valued
from emu.trainium.nki.tree import (
    Access,
    Affine,
    Choice,
    Loop,
    Node,
    Operation,
    PerCore,
    Place,
    Recorded,
    Tensor,
    walk,
)

BARRIER = "nki.isa.core_barrier"


def joined(first: Recorded, second: Recorded) -> Recorded:
    """The kernel of both cores, of what each does by itself."""
    cores = Loop(2, [], "cores", _place(first.body))
    merge = _Merge(cores, _matched(first, second))
    body = merge.all(first.body, second.body)
    owners = _handed_on(body, cores)
    return dataclasses.replace(
        first,
        body=body,
        cores=cores,
        owners=tuple(owners.get(output) for output in first.outputs),
    )


def _place(body: Sequence[Node]) -> Place:
    operation = next((operation for operation, _ in walk(list(body))), None)
    return Place("", 0) if operation is None else operation.place


def _matched(first: Recorded, second: Recorded) -> dict[Tensor, Tensor]:
    """Of the second core's tensors those of the first that are the same, or stand for the same."""
    found: dict[Tensor, Tensor] = {}
    for mine, others in (
        (second.inputs, first.inputs),
        (second.outputs, first.outputs),
        (second.constants, first.constants),
    ):
        found.update(zip(mine, others, strict=True))

    def signed(recorded: Recorded) -> dict[object, list[Tensor]]:
        seen: dict[Tensor, None] = {}
        for operation, _ in walk(recorded.body):
            seen.update(dict.fromkeys(access.tensor for access in operation.accesses))
        by_kind: dict[object, list[Tensor]] = {}
        for tensor in seen:
            kind = tensor.place, tensor.shape, tensor.dtype, tensor.space, tensor.block
            if tensor.role == "temporary":
                by_kind.setdefault(kind, []).append(tensor)
        return by_kind

    others = signed(first)
    for kind, mine in signed(second).items():
        found.update(zip(mine, others.get(kind, []), strict=False))
    return found


def _crosses(node: Node) -> bool:
    return any(operation.choice.instruction.across for operation, _ in walk([node]))


class _Merge:
    """Nodes of both cores made one; `loops` and `tensors` say what of the second's is whose."""

    def __init__(self, cores: Loop, tensors: Mapping[Tensor, Tensor]):
        self.cores = cores
        self.tensors = tensors
        self.loops: dict[Loop, Affine | int] = {}

    def all(self, first: Sequence[Node], second: Sequence[Node]) -> list[Node]:
        """Bodies, parted by what crosses cores."""
        mine, others = _parted(first), _parted(second)
        if len(mine) != len(others):
            raise EmulationError(
                "nki: core 0 meets the other core "
                f"{len(mine) - 1} times and core 1 {len(others) - 1} times, must be as often",
                str(_place(first)),
            )
        merged: list[Node] = []
        for (before, meets), (other_before, other_meets) in zip(
            mine, others, strict=True
        ):
            merged.extend(self.apart(before, other_before))
            if meets is None or other_meets is None:
                continue
            both = self.one(meets, other_meets)
            if both is None:
                raise EmulationError(
                    "nki: the cores meet, but in other operations",
                    str(_place([meets])),
                )
            merged.append(both)
        return merged

    def apart(self, first: Sequence[Node], second: Sequence[Node]) -> list[Node]:
        """Bodies in which nothing crosses: alike at both ends, and the rest of each core's own."""
        head: list[Node] = []
        for a, b in zip(first, second, strict=False):
            both = self.one(a, b)
            if both is None:
                break
            head.append(both)
        left, right = list(first[len(head) :]), list(second[len(head) :])
        tail: list[Node] = []
        while left and right:
            both = self.one(left[-1], right[-1])
            if both is None:
                break
            tail.insert(0, both)
            left.pop()
            right.pop()
        if left or right:
            own = [self.renamed(node) for node in right]
            head.append(PerCore((left, own)))
        return [*head, *tail]

    def one(self, first: Node, second: Node) -> Node | None:
        """Both as one; None if they are not alike."""
        if isinstance(first, Loop) and isinstance(second, Loop):
            if (first.count, first.kind) != (second.count, second.kind):
                return None
            self.loops[second] = Affine(0, ((first, 1),))
            first.body = self.all(first.body, second.body)
            return first
        if not (isinstance(first, Operation) and isinstance(second, Operation)):
            return None
        if first.name != second.name or not _same_choices(first, second):
            return None
        writes = [self.access(a, b) for a, b in zip(first.writes, second.writes)]
        reads: list[Access | Affine | None] = []
        for a, b in zip(first.reads, second.reads, strict=False):
            if isinstance(a, Access) and isinstance(b, Access):
                reads.append(self.access(a, b))
            elif isinstance(a, Affine) and isinstance(b, Affine):
                reads.append(self.affine(a, b))
            else:
                return None
        known_writes = tuple(access for access in writes if access is not None)
        known_reads = tuple(read for read in reads if read is not None)
        if len(known_writes) < len(writes) or len(known_reads) < len(reads):
            return None
        return dataclasses.replace(first, writes=known_writes, reads=known_reads)

    def access(self, first: Access, second: Access) -> Access | None:
        form = ("partitions", "partition_step", "axes", "form", "cast")
        if self.tensors.get(second.tensor, second.tensor) is not first.tensor:
            return None
        if any(getattr(first, name) != getattr(second, name) for name in form):
            return None
        member = [self.affine(a, b) for a, b in zip(first.member, second.member)]
        partition = self.affine(first.partition, second.partition)
        offset = self.affine(first.offset, second.offset)
        known = tuple(index for index in member if index is not None)
        if partition is None or offset is None or len(known) < len(member):
            return None
        return dataclasses.replace(
            first, member=known, partition=partition, offset=offset
        )

    def affine(self, first: Affine, second: Affine) -> Affine | None:
        moved = second.put(self.loops)
        if dict(first.terms) != dict(moved.terms):
            return None
        step = moved.constant - first.constant
        return first if not step else first.plus(Affine(0, ((self.cores, step),)))

    def renamed(self, node: Node) -> Node:
        """A node of the second core alone, on the tensors that both know."""
        if isinstance(node, Loop):
            node.body = [self.renamed(each) for each in node.body]
            return node
        assert isinstance(node, Operation)

        def moved(access: Access) -> Access:
            return dataclasses.replace(
                access,
                tensor=self.tensors.get(access.tensor, access.tensor),
                member=tuple(index.put(self.loops) for index in access.member),
                partition=access.partition.put(self.loops),
                offset=access.offset.put(self.loops),
            )

        reads = tuple(
            moved(read) if isinstance(read, Access) else read.put(self.loops)
            for read in node.reads
        )
        writes = tuple(moved(access) for access in node.writes)
        return dataclasses.replace(node, writes=writes, reads=reads)


def _parted(body: Sequence[Node]) -> list[tuple[list[Node], Node | None]]:
    """What lies before each node that crosses cores, and that; last what is behind them."""
    parts: list[tuple[list[Node], Node | None]] = []
    before: list[Node] = []
    for node in body:
        if _crosses(node):
            parts.append((before, node))
            before = []
        else:
            before.append(node)
    return [*parts, (before, None)]


def _same_choices(first: Operation, second: Operation) -> bool:
    def told(choice: Choice) -> object:
        parameters = dict(choice.parameters)
        return choice.engine, choice.instruction, parameters, choice.operands

    alike = [told(choice) for choice in first.choices] == [
        told(choice) for choice in second.choices
    ]
    sizes = len(first.writes), len(first.reads)
    return alike and sizes == (len(second.writes), len(second.reads))


# --- whose part of HBM is whose ---


def _handed_on(body: list[Node], cores: Loop) -> dict[Tensor, np.ndarray]:
    """Tells every barrier whose part it hands on; gives who wrote what last."""
    marks: dict[Tensor, np.ndarray] = {}
    at: dict[Operation, np.ndarray] = {}
    running = [_writes(body, {cores: core}, core) for core in range(cores.count)]
    met: list[Operation | None] = [None]
    while met:
        met = [_until_met(each, marks, core) for core, each in enumerate(running)]
        barrier = met[0]
        if barrier is None:
            break
        tensor = barrier.writes[0].tensor
        if barrier.name == BARRIER and tensor in marks:
            held = marks[tensor]
            old = at.get(barrier)
            at[barrier] = held.copy() if old is None else _both(old, held)
    for operation, held in at.items():
        owners = Owners.of(held)
        operation.choices = tuple(
            dataclasses.replace(
                choice, parameters={**choice.parameters, "owners": owners}
            )
            for choice in operation.choices
        )
    return marks


def _until_met(
    operations: Generator[tuple[Operation, Turns], None, None],
    marks: dict[Tensor, np.ndarray],
    core: int,
) -> Operation | None:
    """Marks what a core writes until it meets the other, and gives the operation they meet in."""
    for operation, turns in operations:
        if operation.choice.instruction.across:
            return operation
        for access in operation.writes:
            if access.space == "hbm":
                _mark(marks, access, turns, core)
    return None


def _both(old: np.ndarray, new: np.ndarray) -> np.ndarray:
    """Owners at two turns of one barrier, which has one list of them."""
    if ((old >= 0) & (new >= 0) & (old != new)).any():
        raise EmulationError(
            f"{BARRIER}: in a loop, of parts that another core owns in another turn, must be the "
            "same core's in every turn"
        )
    return np.where(new >= 0, new, old)


def _writes(
    body: Sequence[Node], turns: Turns, core: int
) -> Generator[tuple[Operation, Turns], None, None]:
    """The operations of one core that write HBM or cross, in their order."""
    for node in body:
        if isinstance(node, Loop):
            relevant = any(
                operation.choice.instruction.across
                or any(access.space == "hbm" for access in operation.writes)
                for operation, _ in walk(node.body)
            )
            for turn in range(node.count if relevant else 0):
                yield from _writes(node.body, {**turns, node: turn}, core)
        elif isinstance(node, PerCore):
            yield from _writes(node.bodies[core], turns, core)
        else:
            yield node, turns


def _mark(
    marks: dict[Tensor, np.ndarray], access: Access, turns: Turns, core: int
) -> None:
    tensor = access.tensor
    shape = (*tensor.block, *tensor.shape)
    held = marks.setdefault(tensor, np.full(shape, -1, np.int8))
    member = held[tuple(valued(index, turns) for index in access.member)]
    flat = member.reshape(-1)
    places = np.full((), valued(access.offset, turns))
    for stride, count in access.axes:
        places = places[..., None] + stride * np.arange(count)
    size, own = access.dtype.itemsize, tensor.dtype.itemsize
    if size != own:
        # Of elements in another format, those of the tensor's own that have a byte of theirs.
        places = (places[..., None] * size + np.arange(0, size, min(size, own))) // own
    flat[places.reshape(-1)] = core


__all__ = ["joined"]
