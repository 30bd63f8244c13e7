"""Where each buffer of a recorded kernel is declared: in the innermost loop with all its uses.

A family of tiles with block dimensions is rarely alive at once. Say every use of
`t[8, par_dim(128), 512]` is inside one loop `i` and names member `i`: then no turn sees another
turn's tile, and the family is one tile declared in the body, which a ring holds (`rings`). A block
dimension that no loop accounts for stays, as a dimension of the buffer; one that is always named by
plain numbers makes buffers of their own, such as the two of a kernel that rotates `t[0]` and `t[1]`
itself.
"""

import dataclasses
import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import TypeAlias

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
"""Of PSUM, per partition: a member of a family takes whole banks."""


Block: TypeAlias = tuple[Loop | PerCore, int]
"""A body inside a node: number 0 of a loop, or what one of the cores does."""


@dataclasses.dataclass(frozen=True, eq=False)
class Buffer:
    """What one declaration makes.

    Attributes:
      tensor: the family.
      split: the dimensions of `tensor.block` that are always named by numbers, and which ones here.
      kept: the dimensions of `tensor.block` that are dimensions of the buffer.
      blocks: around the declaration, outermost first.
      before: the node in that block before which it is declared; None for what is given.
    """

    tensor: Tensor
    split: tuple[tuple[int, int], ...]
    kept: tuple[int, ...]
    blocks: tuple[Block, ...]
    before: Node | None

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
        in_a_bank = BANK_BYTES // tensor.dtype.itemsize
        return -(-size // in_a_bank) * in_a_bank

    @property
    def shape(self) -> tuple[int, ...]:
        """As declared: partitions first, then the kept block dimensions, then the free ones."""
        tensor = self.tensor
        blocks = tuple(tensor.block[dim] for dim in self.kept)
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
        for dim in self.kept:
            number = number.times(self.tensor.block[dim]).plus(access.member[dim])
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

    def __init__(
        self,
        buffers: dict[tuple[Tensor, tuple[int, ...]], Buffer],
        writes: Sequence[Access],
    ):
        self._buffers = buffers
        self._split = {each.tensor: [d for d, _ in each.split] for each in self}
        self.declared: dict[Node, list[Buffer]] = {}
        for each in self:
            if each.before is not None:
                self.declared.setdefault(each.before, []).append(each)
        self._written: dict[Buffer, list[Access]] = {}
        for access in writes:
            self._written.setdefault(self.of(access), []).append(access)

    def __iter__(self) -> Iterator[Buffer]:
        return iter(self._buffers.values())

    def of(self, access: Access) -> Buffer:
        """The buffer that an access is in."""
        dims = self._split[access.tensor]
        return self._buffers[access.tensor, _numbers(access, dims)]

    def written(self, buffer: Buffer) -> Sequence[Access]:
        """The accesses that write to a buffer."""
        return self._written.get(buffer, ())

    def whole(self, tensor: Tensor) -> Buffer | None:
        """The buffer of a tensor in HBM; None if nothing uses it."""
        return self._buffers.get((tensor, ()))


def scopes(body: Sequence[Node]) -> Scopes:
    """Finds the buffers of a body."""
    by_tensor: dict[Tensor, list[Use]] = {}
    writes: list[Access] = []
    for use in _uses(body, ()):
        by_tensor.setdefault(use.access.tensor, []).append(use)
        if use.access in use.operation.writes:
            writes.append(use.access)
    found: dict[tuple[Tensor, tuple[int, ...]], Buffer] = {}
    for tensor, uses in by_tensor.items():
        dims = _split_dimensions(tensor, uses)
        groups: dict[tuple[int, ...], list[Use]] = {}
        for use in uses:
            groups.setdefault(_numbers(use.access, dims), []).append(use)
        for numbers, group in groups.items():
            split = tuple(zip(dims, numbers, strict=True))
            found[tensor, numbers] = _buffer(tensor, split, group)
    return Scopes(found, writes)


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


def _numbers(access: Access, dims: Sequence[int]) -> tuple[int, ...]:
    return tuple(access.member[dim].constant for dim in dims)


def _split_dimensions(tensor: Tensor, uses: Sequence[Use]) -> list[int]:
    """The block dimensions that every use names by a number."""
    # A family in HBM is one array: no declaration there could be a ring.
    if tensor.space == "hbm":
        return []
    return [
        dim
        for dim in range(len(tensor.block))
        if not any(use.access.member[dim].terms for use in uses)
    ]


def _buffer(
    tensor: Tensor, split: tuple[tuple[int, int], ...], uses: Sequence[Use]
) -> Buffer:
    split_dims = [dim for dim, _ in split]
    others = [dim for dim in range(len(tensor.block)) if dim not in split_dims]
    if tensor.space == "hbm":
        is_made = tensor.role in ("temporary", "output")
        before = uses[0].in_block(0) if is_made else None
        return Buffer(tensor, split, tuple(others), (), before)
    # Equal in all uses, so that a turn of the loops around them names one member.
    alike = {
        dim: uses[0].access.member[dim]
        for dim in others
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
            kept = tuple(dim for dim in others if dim not in dropped)
            return Buffer(tensor, split, kept, blocks, uses[0].in_block(depth))
    raise AssertionError("in the kernel's own body there is nothing to tell apart")


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


__all__ = ["BANK_BYTES", "Block", "Buffer", "Scopes", "bodies", "scopes"]
