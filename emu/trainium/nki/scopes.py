"""Where each buffer of a recorded kernel is declared: in the innermost loop with all its uses.

A family of tiles with block dimensions is rarely alive at once. Say every use of
`t[8, par_dim(128), 512]` is inside one loop `i` and names member `i`: then no turn sees another
turn's tile, and the family is one tile declared in the body, which a ring holds (`rings`). A block
dimension that no loop accounts for stays, as a dimension of the buffer.

Members that are never named together are first taken apart: `t[0]` and `t[1]` of a kernel that
rotates two tiles itself are buffers of their own, and so is the last one of 11 where a loop has the
first 10.
"""

import dataclasses
import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import TypeAlias

from emu.datasheet import Packing, packed_bytes
from emu.trainium.nki.tree import (
    Access,
    Affine,
    Loop,
    Node,
    Operation,
    PerCore,
    Tensor,
)

BANK_BYTES = 2048
"""Of PSUM, per partition."""


Block: TypeAlias = tuple[Loop | PerCore, int]
"""A body inside a node: number 0 of a loop, or what one of the cores does."""


@dataclasses.dataclass(frozen=True, eq=False)
class Buffer:
    """What one declaration makes.

    Attributes:
      tensor: the family.
      kept: the dimensions of `tensor.block` that are dimensions of the buffer, with the first
        index of each and how many.
      blocks: around the declaration, outermost first.
      before: the node in that block before which it is declared; None for what is given.
      packing: in PSUM, whether it shares banks with others: not if products are added up in it, as
        the Tensor Engine can have one accumulation group a bank.
    """

    tensor: Tensor
    kept: tuple[tuple[int, int, int], ...]
    blocks: tuple[Block, ...]
    before: Node | None
    packing: Packing = Packing.WHOLE

    @property
    def is_given(self) -> bool:
        """Whether it is an argument or a constant, which nobody declares."""
        return self.before is None

    @property
    def loops(self) -> tuple[Loop, ...]:
        """The loops around its declaration: it is a ring where there are some."""
        return tuple(node for node, _ in self.blocks if isinstance(node, Loop))

    @property
    def pitch(self) -> int:
        """Elements, per partition in SBUF and PSUM, from one member to the next."""
        tensor = self.tensor
        free = tensor.shape if tensor.space == "hbm" else tensor.shape[1:]
        size = math.prod(free)
        if tensor.space != "psum" or not self.kept:
            return size
        itemsize = tensor.dtype.itemsize
        return packed_bytes(size * itemsize, BANK_BYTES, self.packing) // itemsize

    @property
    def shape(self) -> tuple[int, ...]:
        """As declared: partitions first, then the kept block dimensions, then the free ones."""
        tensor = self.tensor
        blocks = tuple(count for _, _, count in self.kept)
        if tensor.space == "hbm":
            return (*blocks, *tensor.shape)
        partitions, *free = tensor.shape
        if self.pitch != math.prod(free):
            free = [self.pitch]
        return (partitions, *blocks, *free)

    @property
    def partition_bytes(self) -> int:
        """Bytes of one partition; in HBM of all."""
        free = self.shape if self.tensor.space == "hbm" else self.shape[1:]
        return math.prod(free) * self.tensor.dtype.itemsize

    def member(self, access: Access) -> Affine:
        """Which of its members an access names, counted through the kept dimensions."""
        number = Affine()
        for dim, first, count in self.kept:
            number = number.times(count).plus(access.member[dim].plus(-first))
        return number


@dataclasses.dataclass(frozen=True, eq=False)
class Use:
    """An access where it stands."""

    access: Access
    blocks: tuple[Block, ...]
    operation: Operation

    def in_block(self, depth: int) -> Node:
        """The node that has it in the `depth`-th block around it; 0 is the kernel's own body."""
        return self.blocks[depth][0] if depth < len(self.blocks) else self.operation


class Scopes:
    """The buffers of a body, and where each is declared.

    Attributes:
      declared: before a node, the buffers that are declared there.
    """

    def __init__(self, groups: Sequence[tuple[Buffer, Sequence[Use]]]):
        self._buffers: dict[Access, Buffer] = {}
        self._in_hbm: dict[Tensor, Buffer] = {}
        self._written: dict[Buffer, list[Access]] = {}
        self.declared: dict[Node, list[Buffer]] = {}
        for buffer, uses in groups:
            if buffer.tensor.space == "hbm":
                self._in_hbm[buffer.tensor] = buffer
            if buffer.before is not None:
                self.declared.setdefault(buffer.before, []).append(buffer)
            for use in uses:
                self._buffers[use.access] = buffer
                if use.access in use.operation.writes:
                    self._written.setdefault(buffer, []).append(use.access)

    def __iter__(self) -> Iterator[Buffer]:
        return iter(dict.fromkeys(self._buffers.values()))

    def of(self, access: Access) -> Buffer:
        """The buffer that an access is in."""
        return self._buffers[access]

    def written(self, buffer: Buffer) -> Sequence[Access]:
        """The accesses that write to a buffer."""
        return self._written.get(buffer, ())

    def whole(self, tensor: Tensor) -> Buffer | None:
        """The buffer of a tensor in HBM; None if nothing uses it."""
        return self._in_hbm.get(tensor)


def scopes(body: Sequence[Node]) -> Scopes:
    """Finds the buffers of a body."""
    by_tensor: dict[Tensor, list[Use]] = {}
    for use in _uses(body, ()):
        by_tensor.setdefault(use.access.tensor, []).append(use)
    found: list[tuple[Buffer, Sequence[Use]]] = []
    for tensor, uses in by_tensor.items():
        for group in _apart(tensor, uses):
            found.append((_buffer(tensor, group), group))
    return Scopes(found)


def _uses(body: Sequence[Node], blocks: tuple[Block, ...]) -> Iterator[Use]:
    for node in body:
        if isinstance(node, Operation):
            for access in node.accesses:
                yield Use(access, blocks, node)
        else:
            for number, inner in enumerate(bodies(node)):
                yield from _uses(inner, (*blocks, (node, number)))


def bodies(node: Node) -> Sequence[Sequence[Node]]:
    """The bodies inside a node: none of an operation."""
    if isinstance(node, Loop):
        return [node.body]
    return node.bodies if isinstance(node, PerCore) else []


def _apart(tensor: Tensor, uses: Sequence[Use]) -> list[Sequence[Use]]:
    """The uses in groups that have no member in common."""
    # A family in HBM is one array: no declaration there could be a ring.
    if tensor.space == "hbm":
        return [uses]
    groups: list[Sequence[Use]] = [uses]
    for dim in range(len(tensor.block)):
        parts = [_apart_along(dim, group) for group in groups]
        groups = list(itertools.chain.from_iterable(parts))
    return groups


def _apart_along(dim: int, uses: Sequence[Use]) -> list[list[Use]]:
    """The uses in groups whose indices along a block dimension lie apart.

    Example: indices `i` of 10 turns are 0 to 9; beside them 10 is another group.
    """
    groups: list[list[Use]] = []
    last = -1
    # In program order within a group, as `sorted` keeps it among equals only.
    order = {use: number for number, use in enumerate(uses)}
    for use in sorted(uses, key=lambda use: use.access.member[dim].least()):
        index = use.access.member[dim]
        if index.least() > last:
            groups.append([])
        groups[-1].append(use)
        last = max(last, index.most())
    return [sorted(group, key=order.__getitem__) for group in groups]


def _buffer(tensor: Tensor, uses: Sequence[Use]) -> Buffer:
    dims = range(len(tensor.block))
    if tensor.space == "hbm":
        is_made = tensor.role in ("temporary", "output")
        before = uses[0].in_block(0) if is_made else None
        kept = tuple((dim, 0, tensor.block[dim]) for dim in dims)
        return Buffer(tensor, kept, (), before)
    # Equal in all uses, so that a turn of the loops around them names one member.
    alike = {
        dim: uses[0].access.member[dim]
        for dim in dims
        if len({_key(use.access.member[dim]) for use in uses}) == 1
    }
    around = _common([use.blocks for use in uses])
    for depth in range(len(around), -1, -1):
        blocks = around[:depth]
        loops = [node for node, _ in blocks if isinstance(node, Loop)]
        dropped = {
            dim: member
            for dim, member in alike.items()
            if all(loop in loops for loop, _ in member.terms)
        }
        if all(_tells_apart(loop, dropped.values()) for loop in loops):
            kept = tuple(_range(dim, uses) for dim in dims if dim not in dropped)
            before = uses[0].in_block(depth)
            writers = [
                use.operation for use in uses if use.access in use.operation.writes
            ]
            return Buffer(tensor, kept, blocks, before, packing(tensor, writers))
    raise AssertionError("in the kernel's own body there is nothing to tell apart")


def packing(tensor: Tensor, writers: Iterable[Operation]) -> Packing:
    """Whether a tensor's tiles share PSUM banks with others, by what writes them."""
    if tensor.space != "psum" or tensor.bank is not None:
        return Packing.WHOLE
    summed = any(
        writer.accumulates and writer.choice.engine == "tensor" for writer in writers
    )
    return Packing.WHOLE if summed else Packing.SHARED


def _range(dim: int, uses: Sequence[Use]) -> tuple[int, int, int]:
    """A block dimension, the first of the indices that are used, and how many there are."""
    indices = [use.access.member[dim] for use in uses]
    first = min(index.least() for index in indices)
    return dim, first, max(index.most() for index in indices) - first + 1


def _key(expression: Affine) -> tuple[int, frozenset[tuple[Loop, int]]]:
    return expression.constant, frozenset(expression.terms)


def _common(paths: Sequence[tuple[Block, ...]]) -> tuple[Block, ...]:
    """The blocks around all of them."""
    levels = zip(*paths, strict=False)
    same = itertools.takewhile(lambda level: len(set(level)) == 1, levels)
    return tuple(level[0] for level in same)


def _tells_apart(loop: Loop, members: Iterable[Affine]) -> bool:
    """Whether some member's expression differs between any two turns of a loop."""
    if loop.count == 1:
        return True
    return any(
        any(each is loop for each, _ in member.terms) and _is_one_to_one(member)
        for member in members
    )


def _is_one_to_one(expression: Affine) -> bool:
    """Whether different indices give different values, as the digits of a number do.

    Example: `4·i + j` with 4 turns of `j`. With 5 turns, i = 0, j = 4 and i = 1, j = 0 are alike.
    """
    reached = 0
    for loop, coefficient in sorted(expression.terms, key=lambda term: abs(term[1])):
        if abs(coefficient) <= reached and loop.count > 1:
            return False
        reached += abs(coefficient) * (loop.count - 1)
    return True


__all__ = [
    "BANK_BYTES",
    "Block",
    "Buffer",
    "Scopes",
    "bodies",
    "packing",
    "scopes",
]
