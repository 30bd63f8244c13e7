"""A pipeline of regions: which token is in which region when, exactly, in integer cycles.

A token passes through the stages in order, and a region works on one token at a time. When its
program has ended, the result walks on as soon as the next region is free, and until then it stands
in the way of the next token: a PE has one buffer for its part of the residual stream, and nobody
paid for a second. So tokens never overtake each other. Two tokens through regions that take 2, 3
and 1 cycles; the second waits a cycle for the region of 3, in the region of 2:

    cycle    0  1  2  3  4  5  6  7  8
    first    a  a  b  b  b  c
    second         a  a  .  b  b  b  c

Embedding and head are two stages of one region. The embedding goes first, as it is short and feeds
all others, and its result has a buffer of its own there: else it would stand where a head is
wanted, which in a full pipeline waits for a region that waits for that head. Heads first would
bring all users together at the head, then all at the embedding, and leave regions idle between.
So a pipeline of tokens that are alike and come again as they leave has each of n users wait for the
longest of a token's whole way and n times the work of its busiest region; tests hold that exactly.

A stage without a region is a flight, over a link or through a host: tokens follow each other on it
as they come, and those that cannot go on wait where it ends.
"""

import collections
import dataclasses
from collections.abc import Callable, Sequence

from models.serving.agenda import Agenda


@dataclasses.dataclass(frozen=True)
class Stage:
    """A part of a token's way.

    Attributes:
      name: such as `layer 3`.
      region: whose PEs compute it; the first and the last that have one may share it. None: a
        flight.
    """

    name: str
    region: str | None


@dataclasses.dataclass(eq=False)
class Pass:
    """One token's way through all stages.

    Attributes:
      user: whose token.
      position: its place in the user's sequence.
      cycles: that each stage takes.
      left: called when the last stage has ended.
      computes: called as each stage in a region begins, with its name; None: there are no numbers.
      ready: when it might have begun.
      begins, ends: of each stage so far.
    """

    user: int
    position: int
    cycles: Sequence[int]
    left: Callable[["Pass"], None]
    computes: Callable[[str], None] | None = None
    ready: int = -1
    begins: list[int] = dataclasses.field(default_factory=list[int])
    ends: list[int] = dataclasses.field(default_factory=list[int])

    @property
    def service_cycles(self) -> int:
        """Of its own stages: what the token takes alone."""
        return sum(self.cycles)

    @property
    def waited_cycles(self) -> int:
        """For other tokens, until it left."""
        return self.ends[-1] - self.ready - self.service_cycles


class Pipeline:
    """Stages, and the tokens on their way through them.

    Attributes:
      stages: in order.
      busy_cycles: of each region, those in which its program ran.
      passes: that have left, in order.
    """

    def __init__(self, agenda: Agenda, stages: Sequence[Stage]):
        """A pipeline without tokens.

        Raises:
          ValueError: there are no regions, or two stages share one and are not the first and the
            last that have any.
        """
        self._stages_of = _stages_of(stages)
        regions = list(self._stages_of)
        self.stages = tuple(stages)
        self.busy_cycles = dict.fromkeys(regions, 0)
        # Of the region that a token both enters by and leaves from, if there is such a one.
        first, *again = self._stages_of[regions[0]]
        self._entrance, self._exit = (first, again[0]) if again else (None, None)
        self.passes: list[Pass] = []
        self._agenda = agenda
        self._holder: dict[str, Pass | None] = dict.fromkeys(regions)
        # Before each stage: one in the region behind, or those that a flight has brought.
        self._waiting = [collections.deque[Pass]() for _ in stages]
        self._landed = [0] * len(stages)
        self._tried: set[int] = set()

    def submit(self, token: Pass) -> None:
        """Lets a token in as soon as there is room, behind those submitted before."""
        if len(token.cycles) != len(self.stages) or min(token.cycles) < 1:
            raise ValueError(
                f"a token takes {list(token.cycles)} cycles, must be one number of at least 1 for "
                f"each of {len(self.stages)} stages"
            )
        token.ready = self._agenda.now
        self._waiting[0].append(token)
        self._try([0])

    def _try(self, stages: Sequence[int]) -> None:
        """Looks, once all is known that happens now, whether these stages may begin."""
        if not self._tried:
            self._agenda.at(self._agenda.now, self._settle, late=True)
        self._tried.update(stages)

    def _settle(self) -> None:
        # The furthest first: who walks on makes room for who is behind.
        while self._tried:
            stage = max(self._tried)
            if self._may_begin(stage):
                self._begin(stage)
            else:
                self._tried.remove(stage)

    def _may_begin(self, stage: int) -> bool:
        region = self.stages[stage].region
        if not self._waiting[stage] or (region and self._holder[region] is not None):
            return False
        if stage == self._entrance:
            # Its result needs the buffer.
            return not self._waiting[stage + 1]
        if stage == self._exit and self._entrance is not None:
            return not self._may_begin(self._entrance)
        return True

    def _begin(self, stage: int) -> None:
        now, token = self._agenda.now, self._waiting[stage].popleft()
        if stage > 0:
            self._tried.update(self._leave(stage - 1))
        ends = now + token.cycles[stage]
        region = self.stages[stage].region
        if region is None:
            # A link delivers in order.
            ends = self._landed[stage] = max(ends, self._landed[stage])
        else:
            self._holder[region] = token
            self.busy_cycles[region] += token.cycles[stage]
            if token.computes is not None:
                token.computes(self.stages[stage].name)
        token.begins.append(now)
        self._agenda.at(ends, lambda: self._end(stage, token))

    def _end(self, stage: int, token: Pass) -> None:
        token.ends.append(self._agenda.now)
        if stage == self._entrance:
            self._try(self._free(stage))
        if stage + 1 < len(self.stages):
            self._waiting[stage + 1].append(token)
            self._try([stage + 1])
            return
        self._try(self._free(stage))
        self.passes.append(token)
        token.left(token)

    def _leave(self, stage: int) -> Sequence[int]:
        """Frees what a token held that walks on; the stages that may begin for it."""
        # A region was free when the embedding ended: it is the buffer that is so now.
        return [stage] if stage == self._entrance else self._free(stage)

    def _free(self, stage: int) -> Sequence[int]:
        """Frees a stage's region; the stages that may begin there for it."""
        region = self.stages[stage].region
        if region is None:
            return []
        self._holder[region] = None
        return self._stages_of[region]


def _stages_of(stages: Sequence[Stage]) -> dict[str, list[int]]:
    """The stages of each region, in order.

    Raises:
      ValueError: there are none, or two stages share one that are not the ends with others between.
    """
    found: dict[str, list[int]] = {}
    with_region = [number for number, stage in enumerate(stages) if stage.region]
    for number in with_region:
        region = stages[number].region
        assert region is not None
        others = found.setdefault(region, [])
        ends = with_region[0], with_region[-1]
        if others and ((others[-1], number) != ends or len(with_region) == 2):
            raise ValueError(
                f"stage {stages[number].name!r} is in region {region!r} as another is: only the "
                "first and the last may share one, with others between"
            )
        others.append(number)
    if not found:
        raise ValueError("no stage has a region, at least one must")
    return found


__all__ = ["Pass", "Pipeline", "Stage"]
