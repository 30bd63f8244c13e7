"""What a kernel computes twice from the same unchanged data, computed once; and what nobody reads.

Two operations are the same if their instruction and its parameters are, and what they read: the
same elements of a tensor that nobody writes in between, or of two tensors that are themselves the
same. The loops around them are the same up to some depth, and from there pair up, turn by turn.

    for i: x = load(X[i]); ...             for i: x[i] = load(X[i]); ...
    for j: y = load(X[j]); use(y)    ->    for j: use(x[j])

It is kept where it fits. Results in PSUM are compared but not kept, only what is copied out of it.
"""

import dataclasses
from collections.abc import Mapping, Sequence

from emu.trainium.nki.passes.effect import Effect
from emu.trainium.nki.passes.memory import Memory
from emu.trainium.nki.passes.regions import loops_of
from emu.trainium.nki.passes.rewrite import copied, put, with_body
from emu.trainium.nki.passes.traffic import change, traffic
from emu.trainium.nki.passes.uses import (
    Use,
    Uses,
    is_private,
    places,
    uses,
    written_once,
)
from emu.trainium.nki.tree import (
    Access,
    Affine,
    Loop,
    Node,
    Operation,
    Recorded,
    Tensor,
)

NAME = "common"


@dataclasses.dataclass(frozen=True)
class Twin:
    """A tensor that holds what another does.

    Attributes:
      first: the other tensor.
      members: for each block dimension of `first`, which of the twin's it is, or an expression.
    """

    first: Tensor
    members: tuple[int | Affine, ...]

    def access(self, access: Access) -> Access:
        """The same elements in the other tensor."""
        member = tuple(
            access.member[each] if isinstance(each, int) else each
            for each in self.members
        )
        return dataclasses.replace(access, tensor=self.first, member=member)


def apply(recorded: Recorded, memory: Memory) -> tuple[Recorded, Effect]:
    """Computes once what is computed twice, as long as that fits; drops what nobody reads."""
    body = without_dead(copied(recorded.body))
    dropped = _count(recorded.body) - _count(body)
    shared = 0
    refused: set[Tensor] = set()
    while True:
        found = _twins(body)
        twins = {
            tensor: twin
            for tensor, twin in found.items()
            if tensor.space == "sbuf" and tensor not in refused
        }
        if not twins:
            break
        tensor, twin = next(iter(twins.items()))
        trial = without_dead(_replaced(body, tensor, twin))
        worse = memory.excess(trial) > max(0, memory.excess(body))
        if worse:
            refused.add(tensor)
        else:
            body = trial
            shared += 1
    result = with_body(recorded, body)
    said = f"{shared} computed once instead of twice, {dropped} not read by anyone"
    return result, Effect(NAME, change(traffic(recorded.body), traffic(body), said))


def _count(body: Sequence[Node]) -> int:
    return sum(_count(x.body) if isinstance(x, Loop) else 1 for x in body)


def _replaced(body: Sequence[Node], tensor: Tensor, twin: Twin) -> list[Node]:
    """The body with every read of a tensor from its twin."""

    def inside(nodes: Sequence[Node]) -> list[Node]:
        result: list[Node] = []
        for node in nodes:
            if isinstance(node, Loop):
                node.body = inside(node.body)
            elif isinstance(node, Operation):
                node = _reading(node, tensor, twin)
            result.append(node)
        return result

    # On a copy, because a trial may be thrown away; the copy has loops of its own.
    loops: dict[Loop, Loop] = {}
    fresh = copied(body)
    _pair(body, fresh, loops)
    values = {old: Affine(0, ((new, 1),)) for old, new in loops.items()}
    members = tuple(
        each if isinstance(each, int) else each.put(values) for each in twin.members
    )
    twin = Twin(twin.first, members)
    return inside(fresh)


def _pair(old: Sequence[Node], new: Sequence[Node], loops: dict[Loop, Loop]) -> None:
    for a, b in zip(old, new, strict=True):
        if isinstance(a, Loop) and isinstance(b, Loop):
            loops[a] = b
            _pair(a.body, b.body, loops)


def _reading(operation: Operation, tensor: Tensor, twin: Twin) -> Operation:
    reads = tuple(
        twin.access(each)
        if isinstance(each, Access) and each.tensor is tensor
        else each
        for each in operation.reads
    )
    return dataclasses.replace(operation, reads=reads)


# --- what is the same ---


def _twins(body: Sequence[Node]) -> dict[Tensor, Twin]:
    """Tensors that hold what one before them does."""
    found = uses(body)
    single = {
        tensor: writes[0]
        for tensor, writes in found.writes.items()
        if len(writes) == 1 and is_private(tensor) and tensor.space != "hbm"
    }
    place_of = places(body)
    twins: dict[Tensor, Twin] = {}
    seen: dict[object, list[Tensor]] = {}
    for tensor, write in sorted(single.items(), key=lambda item: item[1].order):
        operation = write.operation
        if operation.accumulates or len(operation.writes) != 1:
            continue
        alike = seen.setdefault(_signature(tensor, operation, twins), [])
        for first in alike:
            twin = _twin(single[first], write, found, twins, place_of)
            if twin is not None:
                twins[tensor] = twin
                break
        else:
            alike.append(tensor)
    return twins


def _signature(
    tensor: Tensor, operation: Operation, twins: Mapping[Tensor, Twin]
) -> object:
    """Something that is equal where two operations can be the same."""
    choices = tuple(
        (
            each.engine,
            each.instruction.name,
            tuple(sorted(each.parameters.items(), key=str)),
        )
        for each in operation.choices
    )
    # Loops that pair up have no part in constants, so what differs in these is not the same.
    touched = tuple(
        each.constant
        if isinstance(each, Affine)
        else (each.offset.constant, each.partition.constant, each.axes, each.partitions)
        for each in (*operation.writes, *operation.reads)
    )
    sources = tuple(
        id(twins[each.tensor].first if each.tensor in twins else each.tensor)
        for each in operation.reads
        if isinstance(each, Access)
    )
    kind = tensor.shape, tensor.dtype, tensor.space, repr(choices)
    return (*kind, touched, sources)


def _twin(
    first: Use,
    second: Use,
    found: Uses,
    twins: Mapping[Tensor, Twin],
    place_of: Mapping[Node, int],
) -> Twin | None:
    """How the tensor that `second` writes is the one that `first` writes; None if it is not."""
    depth = 0
    for one, other in zip(first.path, second.path, strict=False):
        if one is not other:
            break
        depth += 1
    own, others = first.path[depth:], second.path[depth:]
    if [loop.count for loop in own] != [loop.count for loop in others]:
        return None
    turns = {b: Affine(0, ((a, 1),)) for a, b in zip(own, others, strict=True)}
    if not _reads_alike(first, second, depth, turns, found, twins, place_of):
        return None
    twin = _members(first, second, depth, turns, found)
    if twin is None or not written_once([first], first.path[:depth]):
        return None
    return twin


def _reads_alike(
    first: Use,
    second: Use,
    depth: int,
    turns: Mapping[Loop, Affine],
    found: Uses,
    twins: Mapping[Tensor, Twin],
    place_of: Mapping[Node, int],
) -> bool:
    pairs = zip(first.operation.reads, second.operation.reads, strict=True)
    for one, other in pairs:
        if isinstance(one, Affine) or isinstance(other, Affine):
            if not isinstance(one, Affine) or not isinstance(other, Affine):
                return False
            if _key(one) != _key(other.put(turns)):
                return False
            continue
        if other.tensor is not one.tensor and other.tensor in twins:
            other = twins[other.tensor].access(other)
        elif _written_between(one.tensor, first, second, depth, found, place_of):
            return False
        if one.tensor is not other.tensor or not _equal(one, put(other, turns)):
            return False
    return True


def _key(expression: Affine) -> tuple[int, frozenset[tuple[Loop, int]]]:
    return expression.constant, frozenset(expression.terms)


def _equal(one: Access, other: Access) -> bool:
    return _member(one) == _member(other) and _place(one) == _place(other)


def _member(access: Access) -> list[object]:
    return [_key(each) for each in access.member]


def _place(access: Access) -> object:
    """Where in its member an access is, as something to compare."""
    rest = dataclasses.replace(access, member=(), offset=Affine(), partition=Affine())
    fields = {
        field.name: getattr(rest, field.name)
        for field in dataclasses.fields(rest)
        if field.name not in ("tensor", "member", "partition", "offset")
    }
    return _key(access.partition), _key(access.offset), fields


def _written_between(
    tensor: Tensor,
    first: Use,
    second: Use,
    depth: int,
    found: Uses,
    place_of: Mapping[Node, int],
) -> bool:
    """Whether somebody may write a tensor after `first` read it and before `second` does."""

    def place(use: Use) -> int:
        node = use.path[depth] if depth < len(use.path) else use.operation
        return place_of[node]

    begin, end = place(first), place(second)
    around = first.path[:depth]
    writes = [use for use in found.writes.get(tensor, ()) if use.path[:depth] == around]
    if not any(begin <= place(use) <= end for use in writes):
        return False
    # What is written once had been written when `first` read it.
    return not (is_private(tensor) and written_once(writes, around))


def _members(
    first: Use, second: Use, depth: int, turns: Mapping[Loop, Affine], found: Uses
) -> Twin | None:
    """Which block dimension of the first tensor is which of the second."""
    written = put(second.access, turns)
    if _place(first.access) != _place(written):
        return None
    around = set(first.path[:depth])
    tensor = second.access.tensor
    left = set(range(len(tensor.block)))
    members: list[int | Affine] = []
    for expression in first.access.member:
        same = [d for d in left if _key(written.member[d]) == _key(expression)]
        if same:
            members.append(same[0])
            left.discard(same[0])
        elif all(loop in around for loop, _ in expression.terms):
            members.append(expression)
        else:
            return None
    # What the first tensor does not tell apart, the second may only tell apart in vain.
    for dim in left:
        if any(loop not in around for loop, _ in second.access.member[dim].terms):
            return None
    for use in found.reads.get(tensor, ()):
        if use.path[:depth] != first.path[:depth]:
            return None
        for dim, expression in enumerate(second.access.member):
            in_turn = any(loop in around for loop, _ in expression.terms) or dim in left
            if in_turn and _key(use.access.member[dim]) != _key(expression):
                return None
    if loops_of(first.access) - set(first.path):
        return None
    return Twin(first.access.tensor, tuple(members))


# --- what nobody reads ---


def without_dead(body: Sequence[Node]) -> list[Node]:
    """The body without operations whose results nobody reads."""
    found = uses(body)
    alive: set[Operation] = set()
    needed: list[Operation] = []

    def mark(operation: Operation) -> None:
        if operation not in alive:
            alive.add(operation)
            needed.append(operation)

    for tensor in found.tensors:
        for use in found.of(tensor):
            operation = use.operation
            seen = any(not is_private(write.tensor) for write in operation.writes)
            if seen or not operation.writes or operation.choice.instruction.effect:
                mark(operation)
    while needed:
        operation = needed.pop()
        for access in operation.accesses:
            for use in found.writes.get(access.tensor, ()):
                mark(use.operation)

    def keep(nodes: Sequence[Node]) -> list[Node]:
        result: list[Node] = []
        for node in nodes:
            if isinstance(node, Loop):
                node.body = keep(node.body)
                if node.body:
                    result.append(node)
            elif not isinstance(node, Operation) or node in alive or not node.accesses:
                result.append(node)
        return result

    return keep(body)


__all__ = ["NAME", "apply", "without_dead"]
