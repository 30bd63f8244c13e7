"""Rounds with draft tokens: worked out by hand, and their laws against the closed form."""

import math

import pytest

from models.serving.agenda import Agenda
from models.serving.drafts import LookupDraft, ModelDraft
from models.serving.foretold import Foretold, Rated, Recorded, tokens_a_round
from models.serving.pipeline import Pipeline, Stage
from models.serving.seat import Seat
from models.serving.session import Draft, Session
from models.serving.stage_times import constant

STAGES = [Stage("a", "a"), Stage("b", "b"), Stage("c", "c")]
TIMES = constant(STAGES, (2, 3, 1))
DRAFTS = constant([Stage("draft", "draft")], (1,))


def decoded(
    tokens: int,
    ahead: int,
    draft: Draft | None = None,
    agenda: Agenda | None = None,
) -> tuple[Session, Seat, Agenda]:
    """An answer behind a prompt of one token, alone."""
    agenda = agenda or Agenda()
    seat = Seat(0, Pipeline(agenda, STAGES), TIMES, Foretold())
    over: list[Session] = []
    session = Session(agenda, seat, [0], 0, tokens, over.append, draft, ahead)
    session.begin()
    agenda.run()
    assert over == [session] and not seat.in_flight
    assert len(session.made) == tokens and set(session.made) == {0}
    return session, seat, agenda


def drafting(model: Rated | Recorded | Foretold, agenda: Agenda) -> ModelDraft:
    return ModelDraft(Seat(0, Pipeline(agenda, DRAFTS.stages), DRAFTS, model), [0])


def test_without_a_draft_tokens_come_one_trip_apart() -> None:
    session, seat, _ = decoded(4, ahead=3)
    assert session.made_at == [0, 6, 12, 18]
    assert [token.position for token in seat.passes] == [1, 2, 3]


def test_right_proposals_leave_a_bottleneck_apart() -> None:
    """Two proposals a round at 1 and 2: three tokens at 6, 9, 12, then three more."""
    agenda = Agenda()
    session, _, _ = decoded(7, 2, drafting(Foretold(), agenda), agenda)
    assert session.made_at == [0, 6, 9, 12, 18, 21, 24]
    assert (session.counts.rounds, session.counts.accepted) == (2, 4)


def test_a_wrong_proposal_ends_the_round_and_passes_through_in_vain() -> None:
    """Behind position 1 the draft is right, behind 2 wrong: the round gives tokens at 6 and 9.

    The next one's first token enters at 9. What was proposed wrongly entered `b` at 8 and leaves
    at 12, in nobody's way: the token begins `b` at 11.
    """
    agenda = Agenda()
    draft = drafting(Recorded([True, True, False, True, True]), agenda)
    session, seat, _ = decoded(4, 2, draft, agenda)
    assert session.made_at == [0, 6, 9, 15]
    in_vain = [token for token in seat.passes if token.ends[-1] not in session.made_at]
    assert [(token.position, token.ends[-1]) for token in in_vain] == [(3, 12)]
    assert session.counts.proposed == 2 and session.counts.accepted == 1


@pytest.mark.parametrize(("rate", "ahead"), [(0.8, 4), (0.5, 2), (0.9, 8), (0.3, 1)])
def test_tokens_a_round_are_the_closed_form(rate: float, ahead: int) -> None:
    """Within four standard errors of the mean over 3,000 tokens; a round gives 1 to k + 1."""
    agenda = Agenda()
    session, _, _ = decoded(3001, ahead, drafting(Rated(rate, 0), agenda), agenda)
    rounds = session.counts.rounds
    found = 3000 / rounds
    mean = tokens_a_round(rate, ahead)
    chances = [rate**n * (1 - rate) for n in range(ahead)] + [rate**ahead]
    square = sum(p * (n + 1) ** 2 for n, p in enumerate(chances))
    error = math.sqrt((square - mean**2) / rounds)
    assert abs(found - mean) < 4 * error


def test_the_closed_form_by_hand() -> None:
    assert tokens_a_round(0.8, 4) == pytest.approx(1 + 0.8 + 0.64 + 0.512 + 0.4096)
    assert tokens_a_round(1, 4) == 5 and tokens_a_round(0, 4) == 1
    assert tokens_a_round(0.7, 0) == pytest.approx(1)


def test_lookup_proposes_what_followed_last() -> None:
    draft = LookupDraft(shortest=2, longest=3)
    assert draft.proposed([1, 2, 3, 4, 1, 2], 3) == [3, 4, 1]
    assert draft.proposed([1, 2, 9, 1, 2, 8, 1, 2], 1) == [8]
    # Three that stood before go before two that stood later.
    assert draft.proposed([5, 1, 2, 9, 1, 2, 8, 5, 1, 2], 1) == [9]
    assert draft.proposed([1, 2, 3], 3) == []
    with pytest.raises(ValueError, match="runs of 3 to 2"):
        LookupDraft(3, 2)


def test_a_draft_is_fed_what_it_has_not() -> None:
    """A prompt of 3 and a token of which it has one: it is fed positions 1, 2, 3, then its own."""
    agenda = Agenda()
    seat = Seat(0, Pipeline(agenda, DRAFTS.stages), DRAFTS, Foretold())
    draft, offered = ModelDraft(seat, [7]), []
    draft.begin([7, 8, 9, 5], 2, offered.append)
    agenda.run()
    assert [token.position for token in seat.passes] == [1, 2, 3, 4]
    assert offered == [0, 0]
    # It proposed 0 and 0, and was right once: the last is fed again, in its place.
    draft.begin([7, 8, 9, 5, 0, 6], 1, offered.append)
    agenda.run()
    assert [token.position for token in seat.passes[4:]] == [5]


def test_a_slow_draft_holds_nobody_up() -> None:
    """A draft slower than the model: what it proposes comes too late, and tokens as without it."""
    agenda = Agenda()
    slow = constant([Stage("draft", "draft")], (20,))
    seat = Seat(0, Pipeline(agenda, slow.stages), slow, Foretold())
    session, _, _ = decoded(5, 3, ModelDraft(seat, [0]), agenda)
    assert session.made_at == [0, 6, 12, 18, 24]


def test_an_answer_ends_at_a_stop() -> None:
    agenda = Agenda()
    seat = Seat(0, Pipeline(agenda, STAGES), TIMES, Foretold())
    over: list[Session] = []
    session = Session(agenda, seat, [5], 9, 10, over.append, stops=[0])
    session.begin()
    agenda.run()
    assert over == [session] and session.made == [9, 0]


@pytest.mark.parametrize("rate", [-0.1, 1.5])
def test_rates_that_are_none(rate: float) -> None:
    with pytest.raises(ValueError, match="must be from 0 to 1"):
        Rated(rate, 0)
