"""What was issued: counts, FLOPs and bytes, summed over cores exactly."""

import collections
import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from emu.instruction import Cost, Instruction, Operand

Counts = list[tuple[tuple[str, str], Any]]


@dataclasses.dataclass
class Tally:
    """Sums over all cores of everything issued so far, as Python integers.

    Keys: `("count", instruction)`, `("flops", instruction)`, `("bytes", "space_read")`,
    `("other", counter)`.
    """

    sums: dict[tuple[str, str], int] = dataclasses.field(
        default_factory=lambda: collections.defaultdict(int)
    )

    def add(self, counted: "Counts", cores: "Cores") -> None:
        """Adds what `counts` gives for one instruction, issued on `cores`."""
        number = cores.count
        for key, n in counted:
            self.sums[key] += (
                cores.total(n) if isinstance(n, np.ndarray) else n * number
            )

    def grown_since(self, before: dict[tuple[str, str], int], times: int) -> None:
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
    inst: Instruction, cost: Cost, operands: list[Operand], results: list[Any]
) -> "Counts":
    """What one instruction adds to a tally on each core, by key; an array where cores differ."""
    out: Counts = [(("count", inst.name), 1)]
    if isinstance(cost.flops, np.ndarray) or cost.flops:
        out.append((("flops", inst.name), cost.flops))
    moved = _moved(inst, cost, operands, results)
    out += [(("bytes", key), n) for key, n in moved.items()]
    return out + [(("other", key), n) for key, n in cost.counts.items()]


def _moved(
    inst: Instruction, cost: Cost, operands: list[Operand], results: list[Any]
) -> Mapping[str, Any]:
    if cost.moved_bytes is not None:
        return cost.moved_bytes
    moved: dict[str, int] = collections.defaultdict(int)
    first = 0 if inst.reads_destination else inst.destinations
    for x in operands[first:]:
        if x.known is None and x.space != "register":
            moved[f"{x.space}_read"] += x.nbytes
    for space, r in zip(inst.writes, results, strict=True):
        moved[f"{space}_write"] += math.prod(r.shape) * r.dtype.itemsize
    return moved


@dataclasses.dataclass(frozen=True)
class Cores:
    """The cores an instruction is issued on: all of the mesh, or those in `active`."""

    grid: tuple[int, ...]
    active: np.ndarray | None

    @functools.cached_property
    def count(self) -> int:
        size = math.prod(self.grid)
        if self.active is None:
            return size
        return int(self.active.sum()) * (size // self.active.size)

    def total(self, n: Any) -> int:
        """The sum over these cores of a number that is one for all, or an array over the mesh."""
        if not isinstance(n, np.ndarray) or n.size == 1:
            return int(np.asarray(n).item()) * self.count
        active = (
            np.ones((1,) * len(self.grid), bool) if self.active is None else self.active
        )
        return int(np.broadcast_to(n * active, self.grid).sum())
