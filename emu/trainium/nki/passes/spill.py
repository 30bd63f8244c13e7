"""Tiles that do not fit, kept elsewhere: of PSUM in SBUF (`evacuate`), of SBUF in HBM.

Those of SBUF are stored where they are written and loaded where they are read.

What frees the most for each byte that it moves goes first. A read that follows a write of the same
elements in the same body takes them from the tile that was just written. What was loaded from an
input of the kernel is not stored: it is loaded again, where it is read and only what is read.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence

from emu.trainium.nki.passes.candidates import cheapest_first
from emu.trainium.nki.passes.effect import Effect
from emu.trainium.nki.passes.evacuate import evacuated
from emu.trainium.nki.passes.memory import Memory
from emu.trainium.nki.passes.rewrite import copied, fresh, with_body
from emu.trainium.nki.passes.traffic import change, traffic
from emu.trainium.nki.passes.uses import Use, Uses, is_transfer, uses
from emu.trainium.nki.tree import (
    Access,
    Affine,
    Choice,
    Loop,
    Node,
    Operation,
    Recorded,
    Tensor,
    walk,
)

NAME = "spilling"
# What the transfers are called.
SPILL, RELOAD = "spill", "reload"


def apply(
    recorded: Recorded,
    memory: Memory,
    load: Choice,
    store: Choice,
    out_of_psum: Sequence[Choice],
) -> tuple[Recorded, Effect]:
    """Spills until everything fits with one buffer each, or nothing is left that helps.

    Args:
      recorded: the kernel.
      memory: of the machine.
      load: a DMA from HBM.
      store: one to HBM.
      out_of_psum: copies from PSUM to SBUF, one for each engine that can.
    """
    body = copied(recorded.body)
    before = traffic(body)
    whole = body
    body = evacuated(body, memory, out_of_psum)
    otherwise = "all fits" if body is whole else "from PSUM to SBUF"
    homes: set[Tensor] = set()
    spilled = 0
    while (excess := memory.excess(body)) > 0:
        trials = cheapest_first(body, "sbuf", homes, _moved_uses)
        for tensor in trials:
            origin = _origin(tensor, uses(body))
            trial = _Spilling(tensor, load, store, origin).inside(body, ())
            if memory.excess(trial) < excess:
                body = trial
                spilled += 1
                break
            homes.add(tensor)
        else:
            break
    after = traffic(body)
    moved = (
        after.read_bytes - before.read_bytes + after.write_bytes - before.write_bytes
    )
    said = change(before, after, otherwise)
    return with_body(recorded, body), Effect(NAME, said, moved if spilled else 0)


def _moved_uses(tensor: Tensor, found: Uses) -> Sequence[Use] | None:
    """What is stored and loaded of a family: each of its uses."""
    # A sum that is added to where it stands cannot stand in HBM.
    if any(use.operation.accumulates for use in found.writes.get(tensor, ())):
        return None
    return found.of(tensor)


@dataclasses.dataclass(frozen=True)
class _Origin:
    """The input that a family's tiles are loaded from, element by element.

    Attributes:
      source: what the load reads.
      loops: whose turns are the tiles, one for each index of the family's members.
    """

    source: Access
    loops: tuple[Loop | None, ...]

    def at(self, access: Access) -> Access:
        """The elements of the input that an access to a tile has."""
        turns = {
            loop: index
            for loop, index in zip(self.loops, access.member, strict=True)
            if loop is not None
        }
        assert access.partitions is not None
        row, _ = self.source.axes[0]
        offset = self.source.offset.put(turns)
        offset = offset.plus(access.partition.times(row)).plus(access.offset)
        rows = (access.partition_step * row, access.partitions)
        return dataclasses.replace(
            self.source,
            offset=offset,
            axes=(rows, *access.axes),
            form=access.form,
        )


def _origin(tensor: Tensor, found: Uses) -> _Origin | None:
    """Where a family's tiles come from, if one load of an input fills them whole."""
    writes = found.writes.get(tensor, ())
    if len(writes) != 1 or not is_transfer(writes[0].operation):
        return None
    written = writes[0].access
    (source,) = writes[0].operation.reads
    if not isinstance(source, Access) or source.tensor.role != "input":
        return None
    if source.tensor in found.writes or source.dtype != tensor.dtype:
        return None
    row = math.prod(tensor.shape[1:])
    whole = written.partitions == tensor.shape[0] and _is_line(written.axes, row)
    starts = (written.partition, written.offset)
    if not whole or any(each.terms or each.constant for each in starts):
        return None
    # A partition's elements lie together in the input too.
    rows, *columns = source.axes
    if rows[1] != tensor.shape[0] or not _is_line(columns, row) or source.member:
        return None
    loops = [_loop(each) for each in written.member]
    known = {loop for loop, _ in loops}
    if not all(plain for _, plain in loops):
        return None
    if any(loop not in known for loop, _ in source.offset.terms):
        return None
    return _Origin(source, tuple(loop for loop, _ in loops))


def _is_line(axes: Sequence[tuple[int, int]], count: int) -> bool:
    """Whether axes are `count` elements that lie together."""
    step = 1
    for stride, number in reversed(axes):
        if number != 1 and stride != step:
            return False
        step *= number
    return step == count


def _loop(index: Affine) -> tuple[Loop | None, bool]:
    """The loop whose turn an index is, and whether it is that or 0."""
    if not index.terms:
        return None, index.constant == 0
    (loop, coefficient), *more = index.terms
    return loop, not more and coefficient == 1 and index.constant == 0


class _Spilling:
    """One family's way through HBM."""

    def __init__(
        self, tensor: Tensor, load: Choice, store: Choice, origin: _Origin | None
    ) -> None:
        self.tensor = tensor
        self.origin = origin
        self.load = load
        self.store = store
        shape = (*tensor.block, *tensor.shape)
        name = f"{tensor.name}_home" if tensor.name else "home"
        self.home = Tensor(shape, tensor.dtype, "hbm", name, tensor.place)

    def inside(self, body: Sequence[Node], path: tuple[Loop, ...]) -> list[Node]:
        """A copy of a body with the family's tiles loaded and stored."""
        result: list[Node] = []
        held: list[tuple[Access, Access]] = []
        for node in body:
            if isinstance(node, Loop):
                loop = Loop(node.count, [], node.kind, node.place)
                turn = {node: Affine(0, ((loop, 1),))}
                # The body's own loops first, so that the tiles made in it count them.
                loop.body = self.inside(copied(node.body, turn), (*path, loop))
                if loop.body:
                    result.append(loop)
                held = []
            elif isinstance(node, Operation):
                result += self.around(node, path, held)
            else:
                result.append(node)
        return result

    def around(
        self,
        operation: Operation,
        path: tuple[Loop, ...],
        held: list[tuple[Access, Access]],
    ) -> list[Node]:
        """An operation with the loads before and the stores behind it."""
        if self.origin and any(each.tensor is self.tensor for each in operation.writes):
            return []  # loaded where it is read instead
        before: list[Node] = []
        behind: list[Node] = []
        reads: list[Access | Affine] = []
        for each in operation.reads:
            if isinstance(each, Access) and each.tensor is self.tensor:
                tile = self.held(each, held)
                if tile is None:
                    tile = self.tile(each, path)
                    before.append(
                        self.transfer(self.load, tile, self.at(each), operation)
                    )
                    held.append((each, tile))
                each = tile
            reads.append(each)
        writes: list[Access] = []
        for each in operation.writes:
            if each.tensor is self.tensor:
                tile = self.tile(each, path)
                behind.append(self.transfer(self.store, self.at(each), tile, operation))
                # Of what was held before some may be old now.
                held[:] = [(each, tile)]
                each = tile
            writes.append(each)
        changed = dataclasses.replace(
            operation, reads=tuple(reads), writes=tuple(writes)
        )
        return [*before, changed, *behind]

    def held(
        self, access: Access, held: Sequence[tuple[Access, Access]]
    ) -> Access | None:
        return next((tile for each, tile in held if _same(each, access)), None)

    def tile(self, access: Access, path: tuple[Loop, ...]) -> Access:
        _, tile = fresh("sbuf", access, path, self.tensor.name)
        return tile

    def transfer(
        self, choice: Choice, dst: Access, src: Access, operation: Operation
    ) -> Operation:
        return Operation(
            SPILL if dst.space == "hbm" else RELOAD,
            (choice,),
            (dst,),
            (src,),
            operation.place,
            implicit=True,
        )

    def at(self, access: Access) -> Access:
        """The same elements in HBM, where partitions are an axis like others."""
        if self.origin is not None:
            return self.origin.at(access)
        tensor = self.tensor
        row = math.prod(tensor.shape[1:])
        member = Affine()
        for size, index in zip(tensor.block, access.member, strict=True):
            member = member.times(size).plus(index)
        offset = member.times(row * tensor.shape[0])
        offset = offset.plus(access.partition.times(row)).plus(access.offset)
        assert access.partitions is not None
        rows = (access.partition_step * row, access.partitions)
        return Access(
            self.home,
            (),
            Affine(),
            None,
            offset,
            (rows, *access.axes),
            form=access.form,
        )


def has_spills(body: Sequence[Node]) -> bool:
    """Whether something in a body goes through HBM because SBUF was full."""
    return any(each.name in (SPILL, RELOAD) for each, _ in walk(list(body)))


def _same(one: Access, other: Access) -> bool:
    return one is other or _what(one) == _what(other)


def _what(access: Access) -> Mapping[str, object]:
    """What tells two accesses of one tensor apart."""

    def key(expression: Affine) -> object:
        return expression.constant, frozenset(expression.terms)

    return {
        "member": [key(each) for each in access.member],
        "partition": key(access.partition),
        "offset": key(access.offset),
        "axes": access.axes,
        "partitions": (access.partitions, access.partition_step, access.form),
    }


__all__ = ["NAME", "apply", "has_spills"]
