"""Four users on two wafers, experts and latents: each gets the tokens and ticks it gets alone."""

from collections.abc import Sequence

import numpy as np
import pytest

from models.loading.hf_folder import load_hf_folder
from models.machines.decode import Decoder
from models.serving import stage_times
from models.serving.drafts import LookupDraft
from models.serving.requests import Request, Served
from models.serving.resident import Resident
from models.serving.service import (
    Costs,
    Deployment,
    Prefilled,
    Service,
    Speculation,
)
from tests.models.conftest import DATA

CONTEXT, MADE, USERS = 8, 4, 4


@pytest.mark.slow
@pytest.mark.parametrize("drafts", [False, True], ids=["one by one", "drafts"])
def test_four_users_in_one_pipeline_of_two_wafers(drafts: bool) -> None:
    config, weights, _ = load_hf_folder(DATA / "deepseek_v3")
    decoder = Decoder(config, weights, CONTEXT, users=USERS, wafers=2)
    plan = decoder.plan
    assert plan.users == USERS and plan.wafers == 2
    times = stage_times.every(decoder.clock)
    prompts = np.random.default_rng(5).integers(0, config.vocab_size, (USERS, 4))

    def prefilled(request: Request) -> Prefilled:
        cache, best = decoder.empty_cache(), -1
        for position, token in enumerate(request.prompt):
            best, _, cache = decoder.step(token, position, cache)
        return Prefilled(best, Resident(decoder, cache))

    def serve(requests: Sequence[Request], drafts: bool) -> list[Served]:
        # The second of each two has come meanwhile, as prefill takes its time.
        costs = Costs(lambda tokens: 500 * tokens, lambda tokens: 10 * tokens)
        speculation = Speculation(2, lambda request, decode: LookupDraft(1, 2))
        service = Service(
            Deployment(2, 1, USERS, CONTEXT),
            times,
            costs,
            prefilled,
            speculation if drafts else None,
        )
        return service.run(requests)

    def request_of(user: int) -> Request:
        return Request(user, 0, tuple(int(token) for token in prompts[user]), MADE)

    together = serve([request_of(user) for user in range(USERS)], drafts)
    queued = [token.waited_cycles for served in together for token in served.passes]
    assert any(queued)
    for served in together:
        (alone,) = serve([request_of(served.request.user)], False)
        assert served.tokens == alone.tokens
        if drafts:
            continue
        assert all(token.waited_cycles == 0 for token in alone.passes)
        ticks = [tuple(token.cycles) for token in served.passes]
        assert ticks == [tuple(token.cycles) for token in alone.passes]
        # Positions, not users: those at equal context take equal ticks.
        assert ticks == [tuple(token.cycles) for token in together[0].passes]
