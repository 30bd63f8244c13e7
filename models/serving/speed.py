"""How fast a pipeline answers so many users, of the cycles of its stages alone: no weights.

Users are alike: each has one answer under way all the time, with a context that hardly grows. One
at a time a token, each waits for the longer of a token's whole way and of all users' work in the
busiest region, which the schedule of `pipeline.py` comes to exactly. With draft tokens there is no
such formula, because what is proposed in vain passes through as well: then the schedule is run.
"""

import dataclasses
from collections.abc import Sequence

from models.serving.agenda import Agenda
from models.serving.drafts import ModelDraft
from models.serving.foretold import RIGHT, Foretold, Rated, Recorded
from models.serving.pipeline import Pipeline, Stage
from models.serving.seat import Model, Seat
from models.serving.session import Session
from models.serving.stage_times import StageTimes, bottleneck, constant

TOKENS = 1_000  # of all users together, in a run; each makes `LEAST` at least
LEAST = 40


@dataclasses.dataclass(frozen=True)
class Drafting:
    """Draft tokens, proposed by a model in a pipeline of its own.

    Attributes:
      ahead: tokens proposed in a round.
      right: the probability that one is right; or of each position in turn, whether it is.
      stages, cycles: of the draft's pipeline.
    """

    ahead: int
    right: float | Sequence[bool]
    stages: Sequence[Stage]
    cycles: Sequence[int]


@dataclasses.dataclass(frozen=True)
class Speed:
    """What users get.

    Attributes:
      users: at once.
      token_cycles: from one token of a user to the next, on average.
      way_cycles: of a token alone: the pipeline's depth.
      bottleneck: the region that works longest for a token.
      bottleneck_cycles: how long.
      at_work: the share of the time for which that region's program runs.
      tokens_a_round: 1 without drafts.
    """

    users: int
    token_cycles: float
    way_cycles: int
    bottleneck: str
    bottleneck_cycles: int
    at_work: float
    tokens_a_round: float = 1.0

    def user_tokens_per_s(self, hz: float) -> float:
        """Of one user, at a clock of the wafer."""
        return hz / self.token_cycles

    def tokens_per_s(self, hz: float) -> float:
        """Of all users."""
        return self.users * self.user_tokens_per_s(hz)


def user_speed(
    stages: Sequence[Stage],
    cycles: Sequence[int],
    users: int,
    drafting: Drafting | None = None,
) -> Speed:
    """How fast so many users are answered.

    Args:
      stages, cycles: of the pipeline, for a token at the users' context.
      users: at once, at least 1.
      drafting: draft tokens; None: one token at a time.
    """
    if users < 1:
        raise ValueError(f"{users} users, must be at least 1")
    region, work = bottleneck(stages, cycles)
    if drafting is not None:
        return _run(stages, cycles, users, drafting)
    way = sum(cycles)
    apart = max(way, users * work)
    return Speed(users, apart, way, region, work, users * work / apart)


def _run(
    stages: Sequence[Stage], cycles: Sequence[int], users: int, drafting: Drafting
) -> Speed:
    """Runs the schedule, and looks at the part between everybody's start and anybody's end."""
    agenda = Agenda()
    own = constant(stages, cycles)
    pipeline = Pipeline(agenda, stages)
    drafts = constant(drafting.stages, drafting.cycles)
    draft_pipeline = Pipeline(agenda, drafts.stages)
    tokens = max(LEAST, TOKENS // users)
    sessions = [
        _session(
            *(agenda, user, tokens),
            *((pipeline, own), (draft_pipeline, drafts), drafting),
        )
        for user in range(users)
    ]
    for session in sessions:
        session.begin()
    agenda.run()
    made = [session.made_at for session in sessions]
    # The first quarter is for users to come out of step.
    begin = max(times[tokens // 4] for times in made)
    end = min(times[-1] for times in made)
    counted = sum(begin < time <= end for times in made for time in times)
    region, work = bottleneck(stages, cycles)
    left = sum(begin < token.ends[-1] <= end for token in pipeline.passes)
    rounds = sum(session.counts.rounds for session in sessions)
    return Speed(
        users=users,
        token_cycles=users * (end - begin) / counted,
        way_cycles=sum(cycles),
        bottleneck=region,
        bottleneck_cycles=work,
        at_work=left * work / (end - begin),
        tokens_a_round=users * (tokens - 1) / rounds,
    )


def _session(
    agenda: Agenda,
    user: int,
    tokens: int,
    target: tuple[Pipeline, StageTimes],
    draft: tuple[Pipeline, StageTimes],
    drafting: Drafting,
) -> Session:
    """A user's answer, with the prompt in both caches."""
    prompt = [RIGHT]
    model: Model
    if isinstance(drafting.right, float | int):
        model = Rated(drafting.right, user)
    else:
        model = Recorded(drafting.right)
    return Session(
        agenda,
        Seat(user, *target, Foretold()),
        prompt,
        RIGHT,
        tokens,
        lambda session: None,
        ModelDraft(Seat(user, *draft, model), prompt),
        drafting.ahead,
    )


__all__ = ["Drafting", "Speed", "user_speed"]
