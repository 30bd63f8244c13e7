"""What was issued: counts, FLOPs and bytes, summed over cores exactly."""

import collections
import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from emu.clock.ticks import Active, PerCore
from emu.instruction import Cost, Instruction, Operand
from emu.tracing import jaxpr as jx

Key: TypeAlias = tuple[str, str]
"""What is counted, and of whom."""

Counts: TypeAlias = list[tuple[Key, PerCore]]
"""What one instruction adds on each core, by key; an array where cores differ."""


@dataclasses.dataclass
class Tally:
    """Sums over all cores of everything issued so far, as Python integers.

    Keys: `("count", instruction)`, `("flops", instruction)`, `("bytes", "space_read")`,
    `("other", counter)`.
    """

    sums: dict[Key, int] = dataclasses.field(
        default_factory=lambda: collections.defaultdict(int)
    )

    def add(self, counted: Counts, cores: "Cores") -> None:
        """Adds what `counts` gives for one instruction, issued on `cores`."""
        sums = self.sums
        number = cores.count
        for key, each in counted:
            if isinstance(each, np.ndarray):
                sums[key] += cores.total(each)
            else:
                sums[key] += each * number

    def grown_since(self, before: dict[Key, int], times: int) -> None:
        """Adds what was issued since `before`, `times` over: the jump of a loop.

        Where 20 was 12 a period ago, 5 more periods make it 20 + 5 * 8 = 60.
        """
        for key, now in list(self.sums.items()):
            period = now - before.get(key, 0)
            self.sums[key] = now + times * period

    def by(self, kind: str) -> collections.Counter[str]:
        """The sums of one kind, by name; 0 for what nothing counted."""
        found: collections.Counter[str] = collections.Counter()
        for (of_kind, name), total in self.sums.items():
            if of_kind == kind:
                found[name] = total
        return found

    @property
    def flops(self) -> int:
        """All floating-point operations issued, over all cores."""
        each = self.by("flops")
        return sum(each.values())


def counts(
    inst: Instruction[..., Any],
    cost: Cost,
    operands: list[Operand],
    results: list[jx.Aval],
) -> Counts:
    """What one instruction adds to a tally on each core, by key; an array where cores differ."""
    name = inst.name
    each: dict[Key, PerCore] = {("count", name): 1}
    if isinstance(cost.flops, np.ndarray) or cost.flops:
        each["flops", name] = cost.flops
    moved = cost.moved_bytes
    if moved is None:
        moved = moved_bytes(inst, operands, results)
    for what, nbytes in moved.items():
        each["bytes", what] = nbytes
    for what, number in cost.counts.items():
        each["other", what] = number
    # A list, not a dictionary: it is gone through once per instruction walked.
    return list(each.items())


def moved_bytes(
    inst: Instruction[..., Any],
    operands: Sequence[Operand],
    results: Sequence[jx.Aval],
) -> Mapping[str, int]:
    """Traffic where a cost does not say: every source read, every result written once."""
    moved: dict[str, int] = collections.defaultdict(int)
    # What is accumulated into is read as well.
    first = 0 if inst.reads_destination else inst.destinations
    for operand in operands[first:]:
        # Immediates and known integers come with the instruction, out of no memory.
        if operand.known is None and operand.space != "register":
            moved[f"{operand.space}_read"] += operand.nbytes
    for space, result in zip(inst.writes, results, strict=True):
        elements = math.prod(result.shape)
        nbytes = elements * result.dtype.itemsize
        moved[f"{space}_write"] += nbytes
    return moved


@dataclasses.dataclass(frozen=True)
class Cores:
    """The cores an instruction is issued on: all of the mesh, or those in `active`."""

    grid: tuple[int, ...]
    active: Active

    @functools.cached_property
    def count(self) -> int:
        """How many they are."""
        size = math.prod(self.grid)
        if self.active is None:
            return size
        # Where a dimension of `active` is 1, an entry stands for all cores along it.
        # On a mesh of 4 x 16 `bool[1, 16]` with 3 set are 3 x 4 = 12 cores.
        along = size // self.active.size
        return int(self.active.sum()) * along

    def total(self, each: PerCore) -> int:
        """The sum over these cores of a number that is one for all, or an array over the mesh."""
        if not isinstance(each, np.ndarray) or each.size == 1:
            one = int(np.asarray(each).item())
            return one * self.count
        if self.active is not None:
            each = each * self.active
        # Only where cores differ are there entries to add; all else is one product of Python
        # integers, which no count of cores overflows.
        along = math.prod(self.grid) // each.size
        return int(each.sum()) * along
