"""Families that do not fit in PSUM: copied to SBUF where they are written, and read from there.

A kernel may keep results of a matmul for a later loop, hundreds of banks of them, where there
are eight. Each is then written in PSUM as before, copied to a family of the same form in SBUF, and
whoever comes to it later reads the copy:

    for i: t[i] = a @ b(i)                     for i: t[i] = a @ b(i); s[i] = copy(t[i])
    for i: use(t[i])                  ->       for i: use(s[i])

What reads it in the turn of a loop that writes it does so in PSUM, the outermost such loop with
which that fits. If the family does not fit in SBUF either, it goes on to HBM (`spill`).
"""

import dataclasses
from collections.abc import Sequence

import jax.numpy as jnp

from emu.trainium import isa
from emu.trainium.nki.passes.candidates import cheapest_first
from emu.trainium.nki.passes.memory import Memory
from emu.trainium.nki.passes.rewrite import copied, fresh_access
from emu.trainium.nki.passes.uses import Use, Uses, places, uses
from emu.trainium.nki.tree import Access, Choice, Loop, Node, Operation, Tensor


def evacuated(body: list[Node], memory: Memory, ways: Sequence[Choice]) -> list[Node]:
    """A body whose tiles in PSUM fit with one buffer each, or of which none is left that helps.

    Args:
      body: nodes, which stay as they are.
      memory: of the machine.
      ways: copies from PSUM to SBUF, of which any will do.
    """
    refused: set[Tensor] = set()
    while (excess := memory.excess(body, "psum")) > 0:
        for tensor in cheapest_first(body, "psum", refused, _copied_uses):
            trial = _best(body, tensor, memory, ways)
            if trial is not None and memory.excess(trial, "psum") < excess:
                body = trial
                break
            refused.add(tensor)
        else:
            break
    return body


def _copied_uses(tensor: Tensor, found: Uses) -> Sequence[Use]:
    """What is copied of a family: each of its writes."""
    return found.writes.get(tensor, ())


def _best(
    body: Sequence[Node], tensor: Tensor, memory: Memory, ways: Sequence[Choice]
) -> list[Node] | None:
    """The body with a family's copies; None where none of its readers could read one."""
    trial = None
    deepest = max(len(use.path) for use in uses(body).writes[tensor])
    for level in range(min(1, deepest), deepest + 1):
        found = _Evacuation(copied(body), tensor, ways).done(level)
        if found is not None:
            trial = found
            if memory.excess(trial, "psum") <= 0:
                break
    return trial


@dataclasses.dataclass(frozen=True)
class _Window:
    """Nodes of one body, in one turn of the loops around it, from a member's first write on.

    Attributes:
      path: the loops around.
      first, last: places in the body, of the first and the last node that writes the member.
    """

    path: tuple[Loop, ...]
    first: int
    last: int


class _Evacuation:
    """One family's way out of PSUM, in a body of its own."""

    def __init__(
        self, body: list[Node], tensor: Tensor, ways: Sequence[Choice]
    ) -> None:
        self.body = body
        self.tensor = tensor
        # An activation computes in floating point.
        is_float = jnp.issubdtype(tensor.dtype, jnp.floating)
        self.ways = tuple(
            way for way in ways if is_float or way.instruction is isa.tensor_copy
        )
        self.copy = dataclasses.replace(tensor, space="sbuf", bank=None)
        found = uses(body)
        self.writes = found.writes[tensor]
        self.reads = [
            use
            for use in found.reads.get(tensor, ())
            if use.access in use.operation.reads
        ]
        self.places = places(body)

    def done(self, level: int) -> list[Node] | None:
        """The body, changed; None if nobody reads a copy.

        Args:
          level: of how many loops around a write a turn's readers stay in PSUM, at most.
        """
        groups: dict[object, list[Use]] = {}
        for use in self.writes:
            groups.setdefault(_key(use.access), []).append(use)
        made = [
            self.window(group, len(_member_path(group))) for group in groups.values()
        ]
        kept = [
            self.window(group, min(level, len(_member_path(group))))
            for group in groups.values()
        ]
        leaving = [use for use in self.reads if not self.stays(use, made, kept)]
        if not leaving:
            return None
        self.redirect(leaving)
        # Behind what was written last first, so that the other places stay.
        inserted: list[tuple[list[Node], int, Operation]] = []
        for group, window in zip(groups.values(), made, strict=True):
            inserted += self.copies(group, window)
        for body, place, operation in sorted(inserted, key=lambda each: -each[1]):
            body.insert(place + 1, operation)
        return self.body

    def window(self, group: Sequence[Use], depth: int) -> _Window:
        """Where a member's writers are in the body inside `depth` loops."""
        places = [self.places[use.node(depth)] for use in group]
        return _Window(group[0].path[:depth], min(places), max(places))

    def stays(self, use: Use, made: Sequence[_Window], kept: Sequence[_Window]) -> bool:
        """Whether a reader reads in PSUM: before the copy is made, or in the same turn."""
        for window in made:
            place = self.place_in(use, window)
            if place is not None and window.first <= place <= window.last:
                return True
        for window in kept:
            place = self.place_in(use, window)
            # A tile of the kernel's own body is held until its last use, those of loops for a turn.
            if window.path and place is not None and place >= window.first:
                return True
        return False

    def place_in(self, use: Use, window: _Window) -> int | None:
        depth = len(window.path)
        if use.path[:depth] != window.path:
            return None
        return self.places[use.node(depth)]

    def redirect(self, leaving: Sequence[Use]) -> None:
        """Makes readers read the copy."""
        to_copy = {use.access: self.copied(use.access) for use in leaving}
        for operation in {use.operation for use in leaving}:
            operation.reads = tuple(
                to_copy.get(each, each) if isinstance(each, Access) else each
                for each in operation.reads
            )

    def copied(self, access: Access) -> Access:
        return dataclasses.replace(access, tensor=self.copy)

    def copies(
        self, group: Sequence[Use], window: _Window
    ) -> list[tuple[list[Node], int, Operation]]:
        """What copies a member: the body that it goes into, the place before it, and itself."""
        depth = len(window.path)
        body = window.path[-1].body if window.path else self.body
        alone = all(use.node(depth) is use.operation for use in group)
        if alone and not any(use.operation.accumulates for use in group):
            # Each part as it is written.
            return [
                (body, self.places[use.operation], self.copying(use, use.access))
                for use in group
            ]
        last = max(group, key=lambda use: use.order)
        whole = dataclasses.replace(
            fresh_access(self.tensor, ()), member=last.access.member
        )
        return [(body, window.last, self.copying(last, whole))]

    def copying(self, use: Use, access: Access) -> Operation:
        return Operation(
            "evacuate",
            self.ways,
            (self.copied(access),),
            (access,),
            use.operation.place,
            implicit=True,
        )


def _key(access: Access) -> object:
    return tuple((each.constant, frozenset(each.terms)) for each in access.member)


def _member_path(group: Sequence[Use]) -> tuple[Loop, ...]:
    """The loops around writes of a member down to the last that tells members apart."""
    around = min((use.path for use in group), key=len)
    counted = {loop for each in group[0].access.member for loop, _ in each.terms}
    last = max(
        (place for place, loop in enumerate(around) if loop in counted), default=-1
    )
    return around[: last + 1]


__all__ = ["evacuated"]
