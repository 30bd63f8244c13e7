"""How fast users are answered: the formula, the schedule with drafts, and what they must not be."""

import pytest

from models.serving.foretold import tokens_a_round
from models.serving.pipeline import Stage
from models.serving.requests import Request
from models.serving.service import Costs, Deployment, Service
from models.serving.speed import Drafting, user_speed
from models.serving.stage_times import constant

NAMES = ["embed", *(f"layer {layer}" for layer in range(8)), "head"]
STAGES = [Stage(name, "ends" if name in ("embed", "head") else name) for name in NAMES]
CYCLES = [10, *[100] * 8, 115]  # 925 in all, 125 at the ends
DRAFT = [Stage("draft", "draft")]


def test_few_users_wait_for_the_way_and_many_for_the_bottleneck() -> None:
    speeds = {users: user_speed(STAGES, CYCLES, users) for users in (1, 7, 8, 20)}
    apart = {users: speed.token_cycles for users, speed in speeds.items()}
    assert apart == {1: 925, 7: 925, 8: 1000, 20: 2500}
    assert {speed.bottleneck for speed in speeds.values()} == {"ends"}
    assert speeds[1].at_work == 125 / 925 and speeds[8].at_work == 1
    assert speeds[7].user_tokens_per_s(925e6) == 1e6
    assert speeds[20].tokens_per_s(1e9) == speeds[8].tokens_per_s(1e9) == 8e6


@pytest.mark.parametrize("users", [1, 5, 9])
def test_the_formula_is_what_a_service_comes_to(users: int) -> None:
    """All users' requests at once, through the service; the middle of their answers."""
    requests = [Request(user, 0, (0,), 40) for user in range(users)]
    costs = Costs(lambda tokens: 1, lambda tokens: 1)
    service = Service(Deployment(users, 1, users, 64), constant(STAGES, CYCLES), costs)
    for served in service.run(requests):
        apart = (served.made_at[-6] - served.made_at[10]) / (40 - 6 - 10)
        assert apart == user_speed(STAGES, CYCLES, users).token_cycles


def test_a_draft_that_is_always_right_saves_trips() -> None:
    """Five tokens a round: 925 for the first, then a head's 115 for each of four more.

    All five embeddings are over when the first head begins.
    """
    drafting = Drafting(4, 1.0, DRAFT, [10])
    speed = user_speed(STAGES, CYCLES, 1, drafting)
    assert speed.tokens_a_round == pytest.approx(5, rel=0.03)
    assert speed.token_cycles == pytest.approx((925 + 4 * 115) / 5, rel=0.02)


def test_a_draft_that_is_never_right_costs_one_user_nothing_and_many_their_share() -> (
    None
):
    """In vain: alone, the way as ever; many users share the pace of the bottleneck three ways."""
    drafting = Drafting(2, 0.0, DRAFT, [1])
    alone = user_speed(STAGES, CYCLES, 1, drafting)
    assert alone.tokens_a_round == 1
    assert 925 <= alone.token_cycles < 925 + 2 * 125
    many = user_speed(STAGES, CYCLES, 16, drafting)
    assert many.token_cycles == pytest.approx(16 * 3 * 125, rel=0.05)
    assert many.at_work == pytest.approx(1, rel=0.02)


def test_rates_in_between() -> None:
    drafting = Drafting(3, 0.7, DRAFT, [10])
    speeds = [user_speed(STAGES, CYCLES, users, drafting) for users in (1, 4)]
    for speed in speeds:
        assert speed.tokens_a_round == pytest.approx(tokens_a_round(0.7, 3), rel=0.05)
    assert speeds[0].token_cycles < 925 < user_speed(STAGES, CYCLES, 8).token_cycles


def test_measured_proposals_are_gone_through_in_turn() -> None:
    """Every second one is right: a right one, then one that ends the round: two tokens each."""
    drafting = Drafting(3, (True, False), DRAFT, [1])
    speed = user_speed(STAGES, CYCLES, 1, drafting)
    assert speed.tokens_a_round == pytest.approx(2, rel=0.05)


def test_nobody_is_no_user() -> None:
    with pytest.raises(ValueError, match="0 users"):
        user_speed(STAGES, CYCLES, 0)
