"""Who waits where: prefill machines, slots, decode pipelines, worked out by hand."""

import pytest

from models.errors import ModelError
from models.serving.pipeline import Stage
from models.serving.requests import Request, Served
from models.serving.service import Costs, Deployment, Service
from models.serving.stage_times import constant

STAGES = [Stage("embed", "ends"), Stage("layer 0", "layer 0"), Stage("head", "ends")]
TIMES = constant(STAGES, (1, 4, 2))  # a token alone takes 7; one at a time has room
COSTS = Costs(prefill=lambda tokens: 10 * tokens, handoff=lambda tokens: tokens)


def serve(deployment: Deployment, *requests: Request) -> list[Served]:
    return Service(deployment, TIMES, COSTS).run(requests)


def test_one_request_is_the_sum_of_its_parts() -> None:
    """20 of prefill, 2 of hand-off, then 7 for each token behind the first."""
    (served,) = serve(Deployment(1, 1, 1, 8), Request(0, 5, (3, 3), 4))
    assert served.prefilled == served.admitted == 25
    assert served.made_at == (27, 34, 41, 48)
    assert served.first_token_cycles == 22 and served.token_cycles == 7
    assert served.left == 48


def test_prefill_machines_take_requests_as_they_come() -> None:
    """Two machines: the third request begins when the first is done, at 10."""
    requests = [Request(user, user, (3,), 1) for user in range(3)]
    done = [each.prefilled for each in serve(Deployment(2, 1, 3, 8), *requests)]
    assert done == [10, 11, 20]


def test_a_slot_is_reused_while_the_others_go_on() -> None:
    """Three users, two slots: the third enters slot 0 when the first is over."""
    first, second, third = serve(
        Deployment(3, 1, 2, 8),
        Request(0, 0, (3,), 2),
        Request(1, 0, (3,), 6),
        Request(2, 0, (3,), 3),
    )
    assert (first.slot, second.slot, third.slot) == (0, 1, 0)
    assert third.admitted == first.left < second.left
    assert third.prefilled == 10


def test_the_emptiest_pipeline_takes_the_next_request() -> None:
    requests = [Request(user, user, (3,), 9) for user in range(4)]
    served = serve(Deployment(4, 2, 2, 16), *requests)
    assert [each.decoder for each in served] == [0, 1, 0, 1]


def test_what_no_slot_has_room_for_is_refused_before_anything_runs() -> None:
    with pytest.raises(ModelError, match="user 1: 6 tokens and 3 to make.*holds 8"):
        serve(
            Deployment(1, 1, 1, 8), Request(0, 0, (1,), 1), Request(1, 0, (1,) * 6, 3)
        )
    with pytest.raises(ModelError, match="different users' numbers"):
        serve(Deployment(1, 1, 1, 8), *[Request(0, 0, (1,), 1)] * 2)


def test_machines_and_requests_that_are_none() -> None:
    with pytest.raises(ValueError, match="slots is 0"):
        Deployment(1, 1, 0, 8)
    with pytest.raises(ValueError, match="user 3: a prompt of 0 tokens"):
        Request(3, 0, (), 1)


def test_the_same_run_twice_is_the_same_schedule() -> None:
    requests = [Request(user, 3 * user, (1,) * (user + 1), 5) for user in range(5)]

    def schedule() -> list[tuple[object, ...]]:
        served = serve(Deployment(2, 2, 2, 16), *requests)
        return [(each.made_at, each.decoder, each.slot, each.left) for each in served]

    assert schedule() == schedule()
