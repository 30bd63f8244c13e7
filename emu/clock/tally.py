"""What was issued: counts, FLOPs and bytes, summed over cores exactly."""

import collections
import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import TypeAlias

import numpy as np

from emu.clock.ticks import Active, Ticks
from emu.instruction import Cost, Instruction, Operand
from emu.tracing import jaxpr as jx

Key: TypeAlias = tuple[str, str]
"""What is counted, and of whom."""

Counts: TypeAlias = list[tuple[Key, Ticks]]
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
        number = cores.count
        for key, each in counted:
            if isinstance(each, np.ndarray):
                self.sums[key] += cores.total(each)
            else:
                self.sums[key] += each * number

    def grown_since(self, before: dict[Key, int], times: int) -> None:
        """Adds what was issued since `before`, `times` over: the jump of a loop."""
        for key, now in list(self.sums.items()):
            self.sums[key] = now + times * (now - before.get(key, 0))

    def by(self, kind: str) -> dict[str, int]:
        """The sums of one kind, by name."""
        return {name: n for (k, name), n in self.sums.items() if k == kind}

    @property
    def flops(self) -> int:
        """All floating-point operations issued, over all cores."""
        return sum(self.by("flops").values())


def counts(
    inst: Instruction, cost: Cost, operands: list[Operand], results: list[jx.Aval]
) -> Counts:
    """What one instruction adds to a tally on each core, by key; an array where cores differ."""
    out: Counts = [(("count", inst.name), 1)]
    if isinstance(cost.flops, np.ndarray) or cost.flops:
        out.append((("flops", inst.name), cost.flops))
    moved = _moved_bytes(inst, cost, operands, results)
    out += [(("bytes", key), nbytes) for key, nbytes in moved.items()]
    out += [(("other", key), number) for key, number in cost.counts.items()]
    return out


def _moved_bytes(
    inst: Instruction, cost: Cost, operands: list[Operand], results: list[jx.Aval]
) -> Mapping[str, int]:
    if cost.moved_bytes is not None:
        return cost.moved_bytes
    moved: dict[str, int] = collections.defaultdict(int)
    first = 0 if inst.reads_destination else inst.destinations
    for operand in operands[first:]:
        if operand.known is None and operand.space != "register":
            moved[f"{operand.space}_read"] += operand.nbytes
    for space, result in zip(inst.writes, results, strict=True):
        nbytes = math.prod(result.shape) * result.dtype.itemsize
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
        return int(self.active.sum()) * (size // self.active.size)

    def total(self, each: Ticks) -> int:
        """The sum over these cores of a number that is one for all, or an array over the mesh."""
        if not isinstance(each, np.ndarray) or each.size == 1:
            return int(np.asarray(each).item()) * self.count
        if self.active is not None:
            each = each * self.active
        return int(np.broadcast_to(each, self.grid).sum())
