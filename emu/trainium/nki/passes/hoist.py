"""Loads, transposes and whatever else is the same in every turn of a loop, taken out of it.

What moves is a set of operations that need nothing else of the loop: a load, the transpose of what
it loaded, the copy out of PSUM. Loops inside of the one that they leave are doubled: one copy has
what moved, with a tile for each turn, the other what stayed.

    for i: for j: x = load(X[j]); t = transpose(x); y = copy(t); use(y, i)
    for j: x = load(X[j]); t = transpose(x); y[j] = copy(t)     then     for i: for j: use(y[j], i)

What stays behind reads tiles that are then kept for the whole loop, so they move only where they
fit. A transpose that does not fit could be kept through HBM, and the vendor's compiler is seen to
do so (16.8 MB written beyond a SwiGLU's own 67.1). That moves as much as it saves: not done here.
"""

import dataclasses
from collections.abc import Mapping, Sequence

from emu.trainium.nki.passes.effect import Effect
from emu.trainium.nki.passes.memory import Memory
from emu.trainium.nki.passes.regions import is_constant, loops_of
from emu.trainium.nki.passes.rewrite import copied, moved, with_body
from emu.trainium.nki.passes.traffic import change, traffic
from emu.trainium.nki.passes.uses import (
    Use,
    Uses,
    is_private,
    read,
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

NAME = "hoisting"


def apply(
    recorded: Recorded, memory: Memory, name: str = NAME
) -> tuple[Recorded, Effect]:
    """Takes out of every loop, inner ones first, what does not change in it."""
    body = copied(recorded.body)
    hoisting = _Hoisting(recorded, body, memory)
    hoisting.inside(body, ())
    result = with_body(recorded, body)
    before, after = traffic(recorded.body), traffic(body)
    return result, Effect(name, change(before, after, f"{hoisting.number} moved"))


class _Hoisting:
    def __init__(self, recorded: Recorded, body: list[Node], memory: Memory) -> None:
        self.recorded = recorded
        self.body = body
        self.memory = memory
        self.number = 0

    def inside(self, body: list[Node], path: tuple[Loop, ...]) -> None:
        """Hoists in a body, in place: it is this pass's own copy."""
        place = 0
        while place < len(body):
            node = body[place]
            if isinstance(node, Loop):
                self.inside(node.body, (*path, node))
                place += self.out_of(body, place, path)
            place += 1

    def out_of(self, body: list[Node], place: int, path: tuple[Loop, ...]) -> int:
        """Moves what it can out of the loop at a place of a body; returns how many nodes."""
        loop = body[place]
        assert isinstance(loop, Loop)
        if loop.count == 1:
            return 0
        refused: set[Operation] = set()
        while True:
            plan = _plan(self.body, loop, path, refused)
            if not plan.operations:
                return 0
            self.number += len(plan.operations)
            old = loop.body
            out = copied(old, keep=plan.moves, accessed=plan.accessed)
            loop.body = copied(old, keep=plan.stays, accessed=plan.accessed)
            body[place:place] = out
            too_large = self.memory.excess(self.body) > 0
            kept = plan.kept() if too_large else set()
            if not kept:
                return len(out)
            # Not so: what is kept does not fit.
            del body[place : place + len(out)]
            loop.body = old
            self.number -= len(plan.operations)
            refused |= kept


@dataclasses.dataclass(frozen=True)
class _Plan:
    """What moves out of a loop: `families` are tensors to what they become."""

    loop: Loop
    operations: frozenset[Operation]
    families: Mapping[Tensor, tuple[Tensor, tuple[int, ...]]]
    uses: Uses

    def moves(self, operation: Operation) -> bool:
        return operation in self.operations

    def stays(self, operation: Operation) -> bool:
        return operation not in self.operations

    def accessed(self, access: Access) -> Access:
        family = self.families.get(access.tensor)
        return moved(access, *family) if family else access

    def kept(self) -> set[Operation]:
        """Operations whose tiles are read by what stays."""
        kept: set[Operation] = set()
        for tensor in self.families:
            if any(self.stays(use.operation) for use in self.uses.reads[tensor]):
                kept.update(use.operation for use in self.uses.writes[tensor])
        return kept


def _plan(
    body: Sequence[Node], loop: Loop, path: tuple[Loop, ...], refused: set[Operation]
) -> _Plan:
    """The most that can move out of a loop."""
    everywhere = uses(body)
    inner = uses(loop.body, (*path, loop))
    found = [use.operation for tensor in inner.tensors for use in inner.of(tensor)]
    candidates = {
        operation: None for operation in found if _is_candidate(operation, refused)
    }
    outside = _used_outside(everywhere, inner)
    # Of a set in which one needs another the largest that holds together is left by taking out
    # what cannot stay in it, until nothing has to go.
    while True:
        families = _families(candidates, inner, outside, loop, path)
        wrong = [
            operation
            for operation in candidates
            if not _holds(operation, families, inner, loop)
        ]
        if not wrong:
            break
        for operation in wrong:
            del candidates[operation]
    return _Plan(loop, frozenset(candidates), families, inner)


def _is_candidate(operation: Operation, refused: set[Operation]) -> bool:
    if operation in refused or not operation.writes or operation.accumulates:
        return False
    if operation.choice.instruction.effect:
        return False
    return all(is_private(w.tensor) and w.space != "hbm" for w in operation.writes)


def _used_outside(everywhere: Uses, inner: Uses) -> set[Tensor]:
    outside: set[Tensor] = set()
    for tensor in inner.tensors:
        if len(everywhere.of(tensor)) > len(inner.of(tensor)):
            outside.add(tensor)
    return outside


def _families(
    candidates: Mapping[Operation, None],
    inner: Uses,
    outside: set[Tensor],
    loop: Loop,
    path: tuple[Loop, ...],
) -> dict[Tensor, tuple[Tensor, tuple[int, ...]]]:
    """What candidates alone write, of which no turn of the loop needs a member of its own."""
    families: dict[Tensor, tuple[Tensor, tuple[int, ...]]] = {}
    for tensor, writes in inner.writes.items():
        if tensor in outside or tensor not in inner.reads:
            continue
        if any(use.operation not in candidates for use in writes):
            continue
        stays = [u for u in inner.reads[tensor] if u.operation not in candidates]
        # Results in PSUM are not kept: it is small, and their readers move with them.
        if stays and (
            tensor.space == "psum" or not written_once(writes, (*path, loop))
        ):
            continue
        dims = _without_loop(inner.of(tensor), tensor, loop)
        if dims is None:
            continue
        if len(dims) == len(tensor.block):
            families[tensor] = tensor, dims
        else:
            block = tuple(tensor.block[dim] for dim in dims)
            families[tensor] = dataclasses.replace(tensor, block=block), dims
    return families


def _without_loop(
    found: Sequence[Use], tensor: Tensor, loop: Loop
) -> tuple[int, ...] | None:
    """The block dimensions left without those that count the loop; None if it is elsewhere too."""
    dims: list[int] = []
    for dim in range(len(tensor.block)):
        members = [use.access.member[dim] for use in found]
        if all(is_constant(member, loop) for member in members):
            dims.append(dim)
        elif any(_key(member) != _key(members[0]) for member in members):
            return None
        elif any(each is not loop for each, _ in members[0].terms):
            # One dimension for two loops: without the one it cannot be told what is left.
            return None
    for use in found:
        rest = dataclasses.replace(use.access, member=())
        if loop in loops_of(rest):
            return None
    return tuple(dims)


def _key(member: Affine) -> tuple[int, frozenset[tuple[Loop, int]]]:
    return member.constant, frozenset(member.terms)


def _holds(
    operation: Operation,
    families: Mapping[Tensor, tuple[Tensor, tuple[int, ...]]],
    inner: Uses,
    loop: Loop,
) -> bool:
    """Whether an operation needs nothing that differs between turns of the loop."""
    if any(write.tensor not in families for write in operation.writes):
        return False
    for register in operation.reads:
        if isinstance(register, Affine) and not is_constant(register, loop):
            return False
    for access in read(operation):
        if access.tensor in families:
            continue
        if access.tensor in inner.writes or loop in loops_of(access):
            return False
    return True


__all__ = ["NAME", "apply"]
