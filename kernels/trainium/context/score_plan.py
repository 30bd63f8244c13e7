"""What of a user's arithmetic on scores is computed when, and what is read from a table.

A score function's values differ in what they depend on, and so in where they come from:

    depends on                   example                  comes from
    score                        20 tanh(s / 20)          instructions, for every tile of scores
    query and key, linearly      q - k                    one `iota`, for every pair of tiles
    query and key                (q - k) // 2             instructions on that, or a table of tiles
    key                          bias[k]                  a table, a row spread over all queries
    query                        log(q)                   a table, a column
    head or batch alone          slope[h]                 a table, one number in all rows

What does not depend on the score and cannot be computed by instructions is a table: it was worked
out before the kernel runs, as masks are, and is read from HBM. What does not depend on the head is
made once for all heads of a block, and what does not depend on the key before the loop over keys.
"""

import dataclasses
from collections.abc import Sequence
from typing import Literal, TypeAlias

from emu.lower import Constant, Elementwise, Operand, Operation, Slot
from emu.trainium.lower import check_placeable, is_placeable

SCORE, BATCH, HEAD, QUERY, KEY = "s", "b", "h", "q", "k"

Home: TypeAlias = Literal["head", "query", "key", "linear", "pair"]
"""Where a value that does not depend on the score comes from."""


@dataclasses.dataclass(frozen=True)
class Linear:
    """`queries · q + keys · k + constant`, of whole numbers."""

    queries: int
    keys: int
    constant: int


@dataclasses.dataclass(frozen=True, eq=False)
class Leaf:
    """A value that does not depend on the score and that instructions read.

    Attributes:
      slot: of the function.
      home: where it comes from.
      by_head: whether it depends on head or batch.
      linear: for the home `linear`, what of.
      relative: for the home `pair`, whether it depends on `q - k` alone.
    """

    slot: Slot
    home: Home
    by_head: bool
    linear: Linear | None = None
    relative: bool = False


@dataclasses.dataclass(frozen=True, eq=False)
class ScorePlan:
    """What of a score function is computed when.

    Attributes:
      function: of score, batch, head, query and key; see `kernels.scores.form`.
      leaves: what is not computed by instructions.
      shared: operations on positions alone, the same for all heads.
      of_head: operations on positions that differ by head.
      of_score: operations on the score.
    """

    function: Elementwise
    leaves: tuple[Leaf, ...]
    shared: tuple[Operation, ...]
    of_head: tuple[Operation, ...]
    of_score: tuple[Operation, ...]

    @classmethod
    def of(cls, function: Elementwise) -> "ScorePlan":
        """Plans a score function.

        Raises:
          CannotLower: no instruction computes something of the score.
        """
        planner = _Planner(function)
        of_score = []
        for operation in function.operations:
            if function.depends_on(Slot(operation.result), SCORE):
                check_placeable(function, operation)
                of_score.append(operation)
        for operation in of_score:
            for operand in operation.operands:
                planner.want(operand)
        planner.want(function.result)
        computed = [x for x in function.operations if x.result in planner.computed]
        of_head = [x for x in computed if _by_head(function, Slot(x.result))]
        shared = [x for x in computed if x not in of_head]
        return cls(
            function,
            tuple(planner.leaves.values()),
            tuple(shared),
            tuple(of_head),
            tuple(of_score),
        )

    @property
    def by_head(self) -> bool:
        """Whether it matters which head a score is of."""
        return any(leaf.by_head for leaf in self.leaves)

    @property
    def pairs(self) -> Literal["none", "relative", "all"]:
        """Which pairs of tiles its tables are of."""
        of_pairs = [leaf for leaf in self.leaves if leaf.home == "pair"]
        if not of_pairs:
            return "none"
        return "relative" if all(leaf.relative for leaf in of_pairs) else "all"

    def of_home(self, *homes: Home, by_head: bool) -> list[tuple[int, Leaf]]:
        """The leaves of some homes with their places among all."""
        found = []
        for place, leaf in enumerate(self.leaves):
            if leaf.home in homes and leaf.by_head == by_head:
                found.append((place, leaf))
        return found


class _Planner:
    """Finds leaves, and what of positions is computed by instructions."""

    def __init__(self, function: Elementwise):
        self._function = function
        self.leaves: dict[int, Leaf] = {}
        self.computed: set[int] = set()

    def want(self, operand: Operand) -> None:
        """Something that instructions read."""
        function = self._function
        if isinstance(operand, Constant) or function.depends_on(operand, SCORE):
            return
        if operand.index in self.leaves or operand.index in self.computed:
            return
        axes = function.axes_of(operand)
        by_head = _by_head(function, operand)
        linear = None if by_head else self._linear(operand)
        if linear is not None and axes:
            leaf = Leaf(operand, "linear", by_head, linear)
        elif axes == {QUERY, KEY}:
            if self._compute(operand):
                return
            relative = self._relative(operand)
            leaf = Leaf(operand, "pair", by_head, relative=relative)
        elif axes == {KEY}:
            leaf = Leaf(operand, "key", by_head)
        elif axes == {QUERY}:
            leaf = Leaf(operand, "query", by_head)
        else:
            leaf = Leaf(operand, "head", by_head)
        self.leaves[operand.index] = leaf

    def _compute(self, operand: Slot) -> bool:
        """Whether instructions compute a value of queries and keys; then they are wanted."""
        within = self._within(operand)
        if within is None:
            return False
        for operation in within:
            self.computed.add(operation.result)
        for operation in within:
            for read in operation.operands:
                self.want(read)
        return True

    def _within(self, operand: Slot) -> list[Operation] | None:
        """The operations on both queries and keys that make an operand; None if one has no
        instruction."""
        function = self._function
        found: list[Operation] = []
        waiting = [operand]
        while waiting:
            slot = waiting.pop()
            operation = function.by_slot[slot.index]
            if not is_placeable(function, operation):
                return None
            found.append(operation)
            for read in operation.operands:
                if isinstance(read, Constant) or function.axes_of(read) != {QUERY, KEY}:
                    continue
                is_linear = (
                    not _by_head(function, read) and self._linear(read) is not None
                )
                if not is_linear:
                    waiting.append(read)
        return found

    def _linear(self, operand: Operand) -> Linear | None:
        """An operand as a linear expression of the positions; None if it is none."""
        function = self._function
        if isinstance(operand, Constant):
            number = operand.number
            whole = isinstance(number, int) and not isinstance(number, bool)
            return Linear(0, 0, int(number)) if whole and number is not None else None
        if operand.index < len(function.inputs):
            name = function.inputs[operand.index].name
            if name not in (QUERY, KEY):
                return None
            return Linear(int(name == QUERY), int(name == KEY), 0)
        operation = function.by_slot[operand.index]
        if operation.shape:
            return None
        parts = [self._linear(x) for x in operation.operands]
        if any(part is None for part in parts):
            return None
        return _combined(operation.name, [part for part in parts if part is not None])

    def _relative(self, operand: Slot) -> bool:
        """Whether positions matter to an operand by `q - k` alone."""
        function = self._function
        waiting: list[Operand] = [operand]
        while waiting:
            read = waiting.pop()
            if isinstance(read, Constant) or not (
                function.axes_of(read) & {QUERY, KEY}
            ):
                continue
            linear = self._linear(read)
            if linear is not None:
                if linear.queries + linear.keys:
                    return False
                continue
            waiting += function.by_slot[read.index].operands
        return True


def _combined(name: str, parts: Sequence[Linear]) -> Linear | None:
    if name == "convert_element_type":
        return parts[0]
    if name == "neg":
        return _times(parts[0], -1)
    if name in ("add", "sub"):
        first, second = parts
        second = _times(second, -1) if name == "sub" else second
        return Linear(
            first.queries + second.queries,
            first.keys + second.keys,
            first.constant + second.constant,
        )
    if name == "mul":
        first, second = parts
        for one, other in ((first, second), (second, first)):
            if not (one.queries or one.keys):
                return _times(other, one.constant)
    return None


def _times(linear: Linear, factor: int) -> Linear:
    return Linear(
        linear.queries * factor, linear.keys * factor, linear.constant * factor
    )


def _by_head(function: Elementwise, operand: Operand) -> bool:
    return function.depends_on(operand, BATCH) or function.depends_on(operand, HEAD)


__all__ = [
    "BATCH",
    "HEAD",
    "Home",
    "KEY",
    "Leaf",
    "Linear",
    "QUERY",
    "SCORE",
    "ScorePlan",
]
