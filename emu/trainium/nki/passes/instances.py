"""The tiles that a turn of a loop makes for itself, and the buffers that they take in turns.

A family is a turn's own if no two turns use the same member. Its members of one turn are
*instances*, numbered as they are first used. With R buffers instance q is in buffer q mod R, and R
divides the number of instances a turn, so every turn uses the same buffers for the same instances.

Example: a turn makes four tiles `t[4·i]` to `t[4·i + 3]`. With two buffers the third tile takes the
first one's buffer, once its readers are done; with four, the next turn's first does.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence

from emu.datasheet import Packing
from emu.trainium.nki.passes.costs import Spent
from emu.trainium.nki.passes.regions import Distances, region, spans_may_meet
from emu.trainium.nki.passes.uses import is_private, read
from emu.trainium.nki.rings import Room, room_of
from emu.trainium.nki.scopes import packing
from emu.trainium.nki.tree import Access, Affine, Loop, Operation, Tensor

Member = tuple[tuple[int, frozenset[tuple[Loop, int]]], ...]
"""Which member of a family an access names, to compare."""


@dataclasses.dataclass(frozen=True, eq=False)
class Family:
    """A tensor of which every turn has members of its own.

    Attributes:
      tensor: it.
      instances: members of one turn in the order in which they are first used.
      uses: of each instance the places of the operations that use it, in order.
      live: the most instances in use at once in program order.
      packing: in PSUM, whether they share banks.
    """

    tensor: Tensor
    instances: tuple[Member, ...]
    uses: Mapping[Member, tuple[int, ...]]
    live: int
    packing: Packing

    def room(self, depth: int) -> Room:
        """What so many buffers of it take."""
        tensor = self.tensor
        nbytes = math.prod(tensor.shape[1:]) * tensor.dtype.itemsize
        return room_of(tensor.space, nbytes, self.packing, depth)

    def demand(self, spent: Sequence[Spent]) -> int:
        """Ticks of a turn in which one buffer would be held, each instance from first to last."""
        return sum(
            sum(spent[place].latency for place in {places[0], places[-1]})
            for places in self.uses.values()
        )

    def depths(self) -> list[int]:
        """Numbers of buffers that it can have, the fewest first."""
        number = len(self.instances)
        return [r for r in range(self.live, number + 1) if number % r == 0]


def member_of(access: Access) -> Member:
    """Which member an access names."""
    return tuple((each.constant, frozenset(each.terms)) for each in access.member)


def families(
    operations: Sequence[Operation], loop: Loop, outside: set[Tensor]
) -> dict[Tensor, Family]:
    """The families that are a turn's own.

    Args:
      operations: of one turn of the loop.
      loop: whose turn.
      outside: tensors that are used elsewhere too.
    """
    accesses: dict[Tensor, list[tuple[int, Access]]] = {}
    for place, operation in enumerate(operations):
        for access in (*operation.writes, *read(operation)):
            accesses.setdefault(access.tensor, []).append((place, access))
    found: dict[Tensor, Family] = {}
    for tensor, each in accesses.items():
        if tensor in outside or not is_private(tensor) or tensor.space == "hbm":
            continue
        users = (operations[place] for place, _ in each)
        writers = [op for op in users if any(w.tensor is tensor for w in op.writes)]
        family = _family(tensor, each, loop, packing(tensor, writers))
        if family is not None:
            found[tensor] = family
    return found


def _family(
    tensor: Tensor,
    accesses: Sequence[tuple[int, Access]],
    loop: Loop,
    packing: Packing,
) -> Family | None:
    uses: dict[Member, list[int]] = {}
    one: dict[Member, Access] = {}
    for place, access in accesses:
        member = member_of(access)
        one.setdefault(member, access)
        uses.setdefault(member, []).append(place)
    around = frozenset(
        each for access in one.values() for m in access.member for each, _ in m.terms
    ) - {loop}
    later = Distances(around, {loop: (1, max(1, loop.count - 1))})
    now = Distances(around | {loop}, {})
    chosen = list(one.values())
    for first in chosen:
        for second in chosen:
            if loop.count > 1 and _same_member(first, second, later):
                return None
            if first is not second and _same_member(first, second, now):
                return None
    order = tuple(sorted(uses, key=lambda member: uses[member][0]))
    live = max(
        sum(1 for m in order if uses[m][0] <= place <= uses[m][-1])
        for place in sorted({places[0] for places in uses.values()})
    )
    return Family(tensor, order, {m: tuple(uses[m]) for m in order}, live, packing)


def _same_member(first: Access, second: Access, distances: Distances) -> bool:
    dims = len(first.member)
    return spans_may_meet(region(first)[:dims], region(second)[:dims], distances)


class Placement:
    """Which buffer each instance of some families is in."""

    def __init__(
        self, families: Mapping[Tensor, Family], depths: Mapping[Tensor, int]
    ) -> None:
        self.depths = depths
        self._buffers: dict[Tensor, dict[Member, Tensor]] = {}
        for tensor, family in families.items():
            made = [
                dataclasses.replace(tensor, block=()) for _ in range(depths[tensor])
            ]
            self._buffers[tensor] = {
                member: made[q % depths[tensor]]
                for q, member in enumerate(family.instances)
            }

    def access(self, access: Access) -> Access:
        """The same elements, in the buffer."""
        buffers = self._buffers.get(access.tensor)
        if buffers is None:
            return access
        buffer = buffers[member_of(access)]
        return dataclasses.replace(access, tensor=buffer, member=())

    def operation(self, operation: Operation) -> Operation:
        """An operation on buffers."""

        def placed(each: Access | Affine) -> Access | Affine:
            return self.access(each) if isinstance(each, Access) else each

        return dataclasses.replace(
            operation,
            writes=tuple(self.access(each) for each in operation.writes),
            reads=tuple(placed(each) for each in operation.reads),
        )


__all__ = ["Family", "Placement", "families", "member_of"]
