"""Loops that follow each other made one, where what one hands to the other is too large to keep.

Turn t of the first is then followed by turn t of the second, so a family that had a member for each
turn becomes a ring. It is allowed where no turn of the second loop touches what a later turn of
the first does. Nodes between the two go before or behind both, if they may.

    for i: t[i] = f(i)                       for i: t = f(i); g(t)
    for j: g(t[j])                    ->

The vendor's compiler does so: of a SwiGLU's gate and up products, computed in two nests, only what
one fused nest would write shows up in its counted HBM bytes.
"""

from collections.abc import Sequence

from emu.trainium.nki.passes.effect import Effect
from emu.trainium.nki.passes.memory import Memory
from emu.trainium.nki.passes.regions import Distances, may_meet
from emu.trainium.nki.passes.rewrite import copied, put, with_body
from emu.trainium.nki.passes.uses import read
from emu.trainium.nki.scopes import Buffer, scopes
from emu.trainium.nki.tree import (
    Access,
    Affine,
    Loop,
    Node,
    Operation,
    Recorded,
    Tensor,
)

NAME = "fusing"


def apply(recorded: Recorded, memory: Memory) -> tuple[Recorded, Effect]:
    """Fuses loops until no family between two of them is too large, or none can be fused."""
    body = copied(recorded.body)
    fused = 0
    while _once(body, memory):
        fused += 1
    return with_body(recorded, body), Effect(NAME, f"{fused} pairs of loops made one")


def _once(body: list[Node], memory: Memory) -> bool:
    """Fuses one pair, in place."""
    found = scopes(body)
    for buffer in found:
        if not _is_too_large(buffer, memory):
            continue
        around = buffer.loops[-1].body if buffer.loops else body
        if _fuse_users(around, buffer.loops, buffer.tensor):
            return True
    return False


def _is_too_large(buffer: Buffer, memory: Memory) -> bool:
    nbytes = buffer.partition_bytes
    if buffer.tensor.space == "psum":
        return nbytes > memory.psum_bytes
    # Of SBUF half, since a kernel holds other things too.
    return buffer.tensor.space == "sbuf" and 2 * nbytes > memory.sbuf_bytes


def _fuse_users(body: list[Node], path: tuple[Loop, ...], tensor: Tensor) -> bool:
    users = [place for place, node in enumerate(body) if _uses(node, tensor)]
    for place, first in enumerate(users):
        for second in users[place + 1 :]:
            if _fuse(body, first, second, frozenset(path)):
                return True
    return False


def _uses(node: Node, tensor: Tensor) -> bool:
    return any(access.tensor is tensor for access, _ in _accesses([node]))


def _fuse(body: list[Node], first: int, second: int, same: frozenset[Loop]) -> bool:
    """Makes the loops at two places one if that is allowed."""
    one, other = body[first], body[second]
    if not isinstance(one, Loop) or not isinstance(other, Loop):
        return False
    if one.count != other.count or not _may_fuse(one, other, same):
        return False
    before: list[Node] = []
    behind: list[Node] = []
    for node in body[first + 1 : second]:
        if not any(_conflict(each, node, same) for each in (one, *behind)):
            before.append(node)
        elif not _conflict(node, other, same):
            behind.append(node)
        else:
            return False
    one.body += copied(other.body, {other: Affine(0, ((one, 1),))})
    body[first : second + 1] = [*before, one, *behind]
    return True


def _accesses(body: Sequence[Node]) -> list[tuple[Access, bool]]:
    """Every access in a body, and whether it writes."""
    found: list[tuple[Access, bool]] = []
    for node in body:
        if isinstance(node, Loop):
            found += _accesses(node.body)
        elif isinstance(node, Operation):
            found += [(access, True) for access in node.writes]
            found += [(access, False) for access in read(node)]
        else:
            for each in node.bodies:
                found += _accesses(each)
    return found


def _conflict(one: Node, other: Node, same: frozenset[Loop]) -> bool:
    """Whether two nodes cannot change places."""
    return _meet(_accesses([one]), _accesses([other]), Distances(same, {}))


def _meet(
    first: Sequence[tuple[Access, bool]],
    second: Sequence[tuple[Access, bool]],
    distances: Distances,
) -> bool:
    return any(
        (writes or also_writes) and may_meet(a, b, distances)
        for a, writes in first
        for b, also_writes in second
    )


def _may_fuse(one: Loop, other: Loop, same: frozenset[Loop]) -> bool:
    """Whether no turn of the second touches what a later turn of the first does."""
    if one.count == 1:
        return True
    turn = {other: Affine(0, ((one, 1),))}
    early = [(put(access, turn), writes) for access, writes in _accesses(other.body)]
    later = Distances(same, {one: (1, one.count - 1)})
    return not _meet(early, _accesses(one.body), later)


__all__ = ["NAME", "apply"]
