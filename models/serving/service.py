"""Requests through prefill machines and decode pipelines: who waits where, and who is batched.

Prefill machines take requests as they come, one each at a time. A prefilled request then waits for
a slot of SRAM, which holds the cache of one user with as much context as was planned for: all of it
is reserved on entry, so that nobody has to be put out later. It takes the emptiest decode pipeline;
its cache is handed over, and its tokens join those of others in flight. The slot is free for the
next one when its last token has left, whoever else is still at it: that is continuous batching.
"""

import collections
import dataclasses
from collections.abc import Callable, Sequence
from typing import NamedTuple

from models.errors import ModelError
from models.serving.agenda import Agenda
from models.serving.foretold import RIGHT, Foretold
from models.serving.pipeline import Pipeline
from models.serving.requests import Request, Served
from models.serving.seat import Model, Seat
from models.serving.session import Draft, Session
from models.serving.stage_times import StageTimes


@dataclasses.dataclass(frozen=True)
class Deployment:
    """How many machines there are, and what each holds.

    Attributes:
      prefill: machines for prompts.
      decode: pipelines of wafers, each with the whole model.
      slots: users whose caches each pipeline's SRAM holds.
      context: most tokens of one user, prompt included.
    """

    prefill: int
    decode: int
    slots: int
    context: int

    def __post_init__(self) -> None:
        for name, count in dataclasses.asdict(self).items():
            if count < 1:
                raise ValueError(f"{name} is {count}, must be at least 1")


class Prefilled(NamedTuple):
    """What a prefill machine made of a request.

    Attributes:
      first: the token behind the prompt.
      model: with the prompt in the user's cache.
    """

    first: int
    model: Model


@dataclasses.dataclass(frozen=True)
class Costs:
    """Cycles of what is not decode, in the wafer's cycles.

    Attributes:
      prefill: of a prompt of so many tokens.
      handoff: of its cache, from the moment a slot is free.
    """

    prefill: Callable[[int], int]
    handoff: Callable[[int], int]


class Speculation(NamedTuple):
    """Draft tokens.

    Attributes:
      ahead: tokens to propose in a round.
      draft: of a request that enters, on a decode pipeline of that number.
    """

    ahead: int
    draft: Callable[[Request, int], Draft]


def foretold(request: Request) -> Prefilled:
    """A prefill and a model without numbers."""
    return Prefilled(RIGHT, Foretold())


class _Decode:
    """A pipeline and the slots of its SRAM."""

    def __init__(self, number: int, pipeline: Pipeline, slots: int):
        self.number = number
        self.pipeline = pipeline
        self.free = list(range(slots))


class Service:
    """All machines, and the requests on them.

    Attributes:
      agenda: of all.
      pipelines: of decode.
    """

    def __init__(
        self,
        deployment: Deployment,
        times: StageTimes,
        costs: Costs,
        prefilled: Callable[[Request], Prefilled] = foretold,
        speculation: Speculation | None = None,
        stops: Sequence[int] = (),
        agenda: Agenda | None = None,
    ):
        """Machines at rest.

        Args:
          deployment: how many there are.
          times: of the decode pipelines, which are alike.
          costs: of the rest.
          prefilled: computes a prompt; none: there are no numbers.
          speculation: draft tokens; None: without.
          stops: tokens that end an answer.
          agenda: of all, where the draft has pipelines of its own.
        """
        self.agenda = agenda or Agenda()
        self._deployment = deployment
        self._times = times
        self._costs = costs
        self._prefilled = prefilled
        self._speculation = speculation
        self._stops = stops
        self._decode = [
            _Decode(number, Pipeline(self.agenda, times.stages), deployment.slots)
            for number in range(deployment.decode)
        ]
        self.pipelines = [decode.pipeline for decode in self._decode]
        self._prompts = collections.deque[Request]()
        self._idle = deployment.prefill
        self._ready = collections.deque[tuple[Request, int]]()
        self._served: list[Served] = []

    def run(self, requests: Sequence[Request]) -> list[Served]:
        """Serves all requests; in the order of `requests`.

        Raises:
          ModelError: one that no slot has room for, or users with the same number.
        """
        numbers = [request.user for request in requests]
        if len(set(numbers)) != len(numbers):
            raise ModelError("requests must be of different users' numbers")
        for request in requests:
            self._check(request)
            # Not the loop's variable, which is another one by then.
            self.agenda.at(
                request.arrives, lambda request=request: self._arrive(request)
            )
        self.agenda.run()
        by_user = {served.request.user: served for served in self._served}
        return [by_user[number] for number in numbers]

    def _check(self, request: Request) -> None:
        needed, room = len(request.prompt) + request.tokens, self._deployment.context
        if needed > room:
            raise ModelError(
                f"user {request.user}: {len(request.prompt)} tokens and {request.tokens} to make, "
                f"but a slot holds {room}; shorten one of them, or plan for a longer context and "
                "fewer users"
            )

    def _arrive(self, request: Request) -> None:
        self._prompts.append(request)
        self.agenda.at(self.agenda.now, self._prefill, late=True)

    def _prefill(self) -> None:
        while self._idle and self._prompts:
            self._idle -= 1
            request = self._prompts.popleft()
            ends = self.agenda.now + self._costs.prefill(len(request.prompt))
            self.agenda.at(ends, lambda request=request: self._end_prefill(request))

    def _end_prefill(self, request: Request) -> None:
        self._idle += 1
        self._ready.append((request, self.agenda.now))
        self.agenda.at(self.agenda.now, self._prefill, late=True)
        self.agenda.at(self.agenda.now, self._admit, late=True)

    def _admit(self) -> None:
        while self._ready:
            decode = max(self._decode, key=lambda each: len(each.free))
            if not decode.free:
                return
            request, prefilled = self._ready.popleft()
            slot, admitted = decode.free.pop(0), self.agenda.now
            arrives = admitted + self._costs.handoff(len(request.prompt))
            self.agenda.at(
                arrives,
                lambda each=_Stay(request, prefilled, admitted, decode, slot): (
                    self._begin(each)
                ),
            )

    def _begin(self, stay: "_Stay") -> None:
        """The cache has arrived."""
        request, decode = stay.request, stay.decode
        first, model = self._prefilled(request)
        seat = Seat(request.user, decode.pipeline, self._times, model)
        draft = ahead = None
        if self._speculation is not None:
            ahead = self._speculation.ahead
            draft = self._speculation.draft(request, decode.number)
        Session(
            self.agenda,
            seat,
            request.prompt,
            first,
            request.tokens,
            lambda session: self._leave(stay, session, seat),
            draft,
            ahead or 0,
            self._stops,
        ).begin()

    def _leave(self, stay: "_Stay", session: Session, seat: Seat) -> None:
        stay.decode.free.append(stay.slot)
        stay.decode.free.sort()
        self._served.append(
            Served(
                stay.request,
                stay.prefilled,
                stay.admitted,
                stay.decode.number,
                stay.slot,
                tuple(session.made),
                tuple(session.made_at),
                self.agenda.now,
                tuple(seat.passes),
                session.counts,
            )
        )
        self.agenda.at(self.agenda.now, self._admit, late=True)


class _Stay(NamedTuple):
    """A request in a slot."""

    request: Request
    prefilled: int
    admitted: int
    decode: _Decode
    slot: int


__all__ = ["Costs", "Deployment", "Prefilled", "Service", "Speculation", "foretold"]
