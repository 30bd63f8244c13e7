"""What a recorded NKI kernel is: operations and loops over tensors, before they are instructions.

A kernel file is run once as plain Python. What it asks of the machine is recorded as `Operation`s;
where a Python loop did the same again at addresses that go on evenly, a `Loop` stands for all its
turns (`roll`). Addresses are affine in the loops around them, so a loop of a thousand turns is one
body. Passes change this tree, and `lower` makes a JAX function of our instructions of it.
"""

import dataclasses
import functools
from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

import numpy as np

from emu.instruction import Instruction


@dataclasses.dataclass(frozen=True)
class Place:
    """A line of the kernel's file: what reports and errors name."""

    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


@dataclasses.dataclass(eq=False)
class Loop:
    """A body that runs `count` times; it is also the name of its own index in addresses.

    Attributes:
      count: turns; at least 1.
      body: in program order.
      kind: `affine`, `sequential` or `static` as the kernel wrote it, `python` for `range`,
        `dynamic` for a trip count that was given, `grid` for the programs of a launch that one core
        runs in turn, `cores` for those that run at the same time (`Recorded.cores`).
      place: of the loop in the kernel.
    """

    count: int
    body: list["Node"]
    kind: str
    place: Place


@dataclasses.dataclass(frozen=True)
class Affine:
    """`constant + Σ coefficient · index` over loops.

    Example: row 128·i + 3 of a loop `i` is `Affine(3, ((i, 128),))`.
    """

    constant: int = 0
    terms: tuple[tuple[Loop, int], ...] = ()

    def plus(self, other: "Affine | int") -> "Affine":
        """The sum; terms of one loop are added, those that cancel are dropped."""
        if isinstance(other, int):
            return Affine(self.constant + other, self.terms)
        coefficients = dict(self.terms)
        for loop, coefficient in other.terms:
            coefficients[loop] = coefficients.get(loop, 0) + coefficient
        terms = tuple((loop, c) for loop, c in coefficients.items() if c)
        return Affine(self.constant + other.constant, terms)

    def times(self, factor: int) -> "Affine":
        """The product with a whole number."""
        if factor == 0:
            return Affine()
        terms = tuple((loop, factor * c) for loop, c in self.terms)
        return Affine(factor * self.constant, terms)

    def put(self, values: Mapping[Loop, "Affine | int"]) -> "Affine":
        """With other expressions in place of some loops' indices."""
        result = Affine(self.constant)
        for loop, coefficient in self.terms:
            value = values.get(loop)
            if value is None:
                result = result.plus(Affine(0, ((loop, coefficient),)))
            elif isinstance(value, int):
                result = result.plus(coefficient * value)
            else:
                result = result.plus(value.times(coefficient))
        return result

    def least(self) -> int:
        """The smallest value over all turns of its loops."""
        return self.constant + sum(min(0, c * (p.count - 1)) for p, c in self.terms)

    def most(self) -> int:
        """The largest value over all turns of its loops."""
        return self.constant + sum(max(0, c * (p.count - 1)) for p, c in self.terms)


@dataclasses.dataclass(eq=False)
class Tensor:
    """A buffer that the kernel names, or a family of equal ones.

    Attributes:
      shape: of one member. In SBUF and PSUM partitions come first; in HBM any shape.
      dtype: of its elements.
      space: `hbm`, `sbuf` or `psum`.
      name: the kernel's, for messages; may be empty.
      place: where it was declared.
      block: sizes of the family: block dimensions before `par_dim`, and a dimension for each loop
        that declares the tensor anew in every turn. `()` is a single buffer.
      role: `input`, `output`, `constant` or `temporary`.
      value: of a constant in HBM.
      number: of an input or output, its place among them.
      bank: PSUM bank that the kernel asked for.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    space: str
    name: str = ""
    place: Place | None = None
    block: tuple[int, ...] = ()
    role: str = "temporary"
    value: np.ndarray | None = None
    number: int | None = None
    bank: int | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Access:
    """The elements that an operation reads or writes, as the hardware's access pattern has them.

    In SBUF and PSUM a pattern is a range of partitions and, the same in each, free axes; element
    `[p, a, b, ...]` of the access is at partition `partition + p · partition_step` and at
    `offset + a · stride_a + b · stride_b + ...` of that partition's elements, the member's own,
    counted as if its free dimensions were flat. In HBM there are no partitions: all axes are in
    `axes`, `offset` counts the buffer's elements, and `partitions` is None.

    Example: columns 512·j and on of rows 128·i and on of `hbm[4096, 2048]` are offset
    262144·i + 512·j, axes ((2048, 128), (1, 512)).

    Attributes:
      tensor: the family.
      member: which of it, an index for each dimension of `tensor.block`.
      partition: the first one.
      partitions: how many; None in HBM.
      partition_step: from one to the next.
      offset: of the first element.
      axes: (stride in elements, count) of each further axis; stride 0 repeats.
      cast: the format that the bytes are read as, where it is not the tensor's own; `offset` and
        strides then count its elements.
    """

    tensor: Tensor
    member: tuple[Affine, ...]
    partition: Affine
    partitions: int | None
    offset: Affine
    axes: tuple[tuple[int, int], ...]
    partition_step: int = 1
    form: tuple[int, ...] | None = None
    cast: np.dtype | None = None

    @functools.cached_property
    def shape(self) -> tuple[int, ...]:
        """As the operation sees it."""
        if self.form is not None:
            return self.form
        free = tuple(count for _, count in self.axes)
        return free if self.partitions is None else (self.partitions, *free)

    @property
    def dtype(self) -> np.dtype:
        return self.tensor.dtype if self.cast is None else self.cast

    @property
    def space(self) -> str:
        return self.tensor.space


@dataclasses.dataclass(frozen=True, eq=False)
class Choice:
    """One way to run an operation: an instruction of ours on one engine.

    Attributes:
      engine: that runs it, `vector`, `scalar`, `gpsimd`, `tensor` or `dma`.
      instruction: of `emu.trainium`. Its destinations are the operation's `writes`, its sources
        those of `reads` that `operands` names, in that order.
      parameters: static ones of the instruction.
      operands: places in `reads`; None takes all of them.
    """

    engine: str
    instruction: Instruction[..., Any]
    parameters: Mapping[str, Any]
    operands: tuple[int, ...] | None = None


@dataclasses.dataclass(eq=False)
class Operation:
    """One call of the kernel that the machine executes.

    Attributes:
      name: NKI's, such as `nki.isa.tensor_copy`.
      choices: ways to run it; more than one where the kernel left the engine open.
      chosen: which of them.
      writes: destinations, in the instruction's order.
      reads: sources; an `Affine` is a register, such as a matmul's accumulate flag, for which
        every value but 0 means yes.
      place: of the call.
      implicit: whether the compiler adds it and the kernel does not say so, such as a copy of a
        result out of PSUM before it can be stored.
    """

    name: str
    choices: tuple[Choice, ...]
    writes: tuple[Access, ...]
    reads: tuple["Access | Affine", ...]
    place: Place
    chosen: int = 0
    implicit: bool = False

    @property
    def choice(self) -> Choice:
        return self.choices[self.chosen]

    @property
    def accesses(self) -> tuple[Access, ...]:
        """All tensors' parts that it touches, destinations first."""
        reads = tuple(read for read in self.reads if isinstance(read, Access))
        return (*self.writes, *reads)

    @property
    def accumulates(self) -> bool:
        """Whether the result depends on what the destination held before."""
        instruction = self.choice.instruction
        if instruction.adds_if is not None:
            more = self.register(instruction.adds_if)
            return more is None or (more.constant, more.terms) != (0, ())
        # `partial` alone says that the rest of the destination stays, which an access says already.
        keeps = instruction.reads_destination and not instruction.partial
        return keeps or instruction.adds

    def register(self, place: int) -> Affine | None:
        """The register among the instruction's sources; None if it is a tensor."""
        operands = self.choice.operands
        found = self.reads[place if operands is None else operands[place]]
        return found if isinstance(found, Affine) else None


@dataclasses.dataclass(eq=False)
class PerCore:
    """Where the cores of a launch do not do the same: `bodies[c]` is what core `c` alone does.

    Operations that cross cores are never in one: all cores meet them in the same order, so they
    part a program, and what lies between two of them is either the same on all cores, with the
    index of `Recorded.cores` in its addresses, or a `PerCore`.
    """

    bodies: tuple[list["Node"], ...]


Node: TypeAlias = Operation | Loop | PerCore


@dataclasses.dataclass(eq=False)
class Recorded:
    """A kernel, recorded for arguments of given shapes.

    Attributes:
      name: of the kernel.
      api: `neuronxcc.nki` or `nki`: which one it was written for.
      body: of one core; with `PerCore` parts where the cores of a launch do not do the same.
      inputs: the arguments that are tensors, in order.
      outputs: what the kernel returned, in order.
      constants: arrays that the kernel holds itself, in HBM.
      cores: None of a kernel for one core. Else a `Loop` of kind `cores` that is in no body: its
        `count` cores run `body` at the same time, along the mesh axis `nc`, and its index in
        addresses is the core's own. They share HBM: each has a copy of a buffer there, to which
        it writes its part; `owners` tell whose part counts, and `nki.isa.core_barrier` hands the
        parts on.
      owners: of each output, who wrote which element last, `int8` of the output's shape; None
        where there is one core. -1 is an element that nobody wrote.
      depths: buffers of some tensors' rings, where a pass chose them.
    """

    name: str
    api: str
    body: list[Node]
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    constants: tuple[Tensor, ...]
    cores: Loop | None = None
    owners: tuple[np.ndarray | None, ...] = ()
    depths: Mapping[Tensor, int] = dataclasses.field(default_factory=dict)


def walk(
    body: list[Node], path: tuple[Loop, ...] = ()
) -> Iterator[tuple[Operation, tuple[Loop, ...]]]:
    """Every operation in program order, with the loops around it, outermost first."""
    for node in body:
        if isinstance(node, Loop):
            yield from walk(node.body, (*path, node))
        elif isinstance(node, PerCore):
            for each in node.bodies:
                yield from walk(each, path)
        else:
            yield node, path


__all__ = [
    "Access",
    "Affine",
    "Choice",
    "Loop",
    "Node",
    "Operation",
    "PerCore",
    "Place",
    "Recorded",
    "Tensor",
    "walk",
]
