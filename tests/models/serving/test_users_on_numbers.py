"""Users together on numbers: each gets the tokens and the ticks that it gets alone."""

import functools
import itertools
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.loading.load import load_tiny
from models.machines.decode import Cache, Decoder
from models.serving import stage_times
from models.serving.agenda import Agenda
from models.serving.drafts import LookupDraft, ModelDraft
from models.serving.pipeline import Pipeline
from models.serving.requests import Request, Served
from models.serving.resident import Resident
from models.serving.seat import Seat
from models.serving.service import (
    Costs,
    Deployment,
    Prefilled,
    Service,
    Speculation,
)
from models.serving.session import Draft

CONTEXT = 24
COSTS = Costs(prefill=lambda tokens: 900 * tokens, handoff=lambda tokens: 70 * tokens)
MADE = 5
PROMPTS = ((7, 11, 13), (500, 2), (7, 11, 14), (31, 31, 31, 31))


@functools.cache
def decoder() -> Decoder:
    tiny = load_tiny()
    return Decoder(tiny.config, tiny.weights, CONTEXT)


@functools.cache
def times() -> stage_times.StageTimes:
    return stage_times.every(decoder().clock)


def prefilled(request: Request) -> Prefilled:
    """The prompt token by token, as a wafer alone would."""
    cache, best = decoder().empty_cache(), -1
    for position, token in enumerate(request.prompt):
        best, _, cache = decoder().step(token, position, cache)
    return Prefilled(best, Resident(decoder(), cache))


def serve(
    requests: Sequence[Request],
    deployment: Deployment,
    speculation: Speculation | None = None,
) -> list[Served]:
    service = Service(deployment, times(), COSTS, prefilled, speculation)
    return service.run(requests)


@functools.cache
def alone(prompt: tuple[int, ...]) -> Served:
    request = Request(0, 0, prompt, MADE)
    (served,) = serve([request], Deployment(1, 1, 1, CONTEXT))
    return served


def check(together: Served) -> None:
    """Tokens, and the cycles of each of them, are those of the same prompt alone."""
    own = alone(together.request.prompt)
    assert together.tokens == own.tokens
    for token, single in zip(together.passes, own.passes, strict=True):
        assert token.position == single.position
        assert tuple(token.cycles) == tuple(single.cycles)
        assert token.waited_cycles >= single.waited_cycles == 0


def test_an_answer_alone_is_the_decoders_own() -> None:
    """And its ticks are the clock's, token by token."""
    for prompt in PROMPTS:
        served = alone(prompt)
        cache, known = decoder().empty_cache(), list(prompt)
        for position in range(len(prompt) + MADE - 1):
            best, _, cache = decoder().step(known[position], position, cache)
            if position >= len(prompt) - 1:
                known.append(best)
        assert served.tokens == tuple(known[len(prompt) :])
        for before, behind in itertools.pairwise(served.made_at):
            place = served.made_at.index(behind) - 1
            position = len(prompt) + place
            assert behind - before == decoder().read(position).cycles


def test_four_users_in_one_pipeline() -> None:
    """All at once, so that they queue; tokens are the same, and so are ticks without the waits."""
    requests = [Request(user, 0, prompt, MADE) for user, prompt in enumerate(PROMPTS)]
    together = serve(requests, Deployment(4, 1, 4, CONTEXT))
    begun = max(served.made_at[0] for served in together)
    assert all(served.made_at[-1] > begun for served in together)
    for served in together:
        check(served)
    assert any(token.waited_cycles for served in together for token in served.passes)


def test_two_users_who_do_not_queue_get_the_ticks_they_get_alone() -> None:
    """The second comes half a pipeline later: at equal context the same ticks, waits included."""
    prompt = PROMPTS[0]
    half = times().latency_cycles(len(prompt)) // 2
    requests = [Request(0, 0, prompt, MADE), Request(1, half, prompt, MADE)]
    first, second = serve(requests, Deployment(2, 1, 2, CONTEXT))
    assert first.made_at[0] < second.made_at[0] < first.made_at[1]
    for served in (first, second):
        shifted = np.asarray(served.made_at) - served.request.arrives
        assert tuple(shifted) == alone(prompt).made_at


@settings(deadline=None, max_examples=10)
@given(
    arrivals=st.lists(st.integers(0, 40_000), min_size=4, max_size=4),
    order=st.permutations(range(4)),
    prefill=st.integers(1, 3),
    decode=st.integers(1, 2),
    slots=st.integers(1, 4),
)
def test_any_batch_order_of_arrival_and_ratio(
    arrivals: list[int], order: list[int], prefill: int, decode: int, slots: int
) -> None:
    requests = [Request(user, arrivals[user], PROMPTS[user], MADE) for user in order]
    for served in serve(requests, Deployment(prefill, decode, slots, CONTEXT)):
        check(served)


# --- tokens of one user that follow each other closely ---


def prompted(prompt: tuple[int, ...]) -> Resident:
    model = prefilled(Request(0, 0, prompt, 1)).model
    assert isinstance(model, Resident)
    return model


def bits(cache: Cache, places: int) -> list[bytes]:
    """Keys and values of the first positions: row p % rows has position p in slot p // rows."""
    found = []
    rows = decoder().plan.kinds[0].map.rows
    for layer in cache:
        for position in range(places):
            row, slot = position % rows, position // rows
            found.append(np.asarray(layer["k"])[row, :, :, slot].tobytes())
            found.append(np.asarray(layer["v"])[row, :, slot, :].tobytes())
    return found


def test_region_by_region_is_token_by_token() -> None:
    """Three tokens, each a region behind the one before, as a pipeline has them."""
    model, tokens = prompted(PROMPTS[0]), (5, 6, 7)
    cache = prompted(PROMPTS[0]).cache
    logits = []
    for place, token in enumerate(tokens):
        _, values, cache = decoder().step(token, 3 + place, cache)
        logits.append(np.asarray(values).tobytes())
    walks = [model.start(3 + place, token) for place, token in enumerate(tokens)]
    stages = [stage.name for stage in times().stages if stage.region]
    for moment in range(len(stages) + len(tokens) - 1):
        for number, walk in enumerate(walks):
            if 0 <= moment - number < len(stages):
                walk.compute(stages[moment - number])
    together = [walk.step for walk in walks]
    assert all(step is not None for step in together)
    found = [np.asarray(step.logits).tobytes() for step in together if step]
    assert found == logits
    assert bits(model.cache, 6) == bits(cache, 6)


def test_what_lies_behind_a_token_is_never_looked_at() -> None:
    """Wrong tokens behind it, and then the largest numbers there are: the same bits."""
    clean, stale, poisoned = (prompted(PROMPTS[0]) for _ in range(3))
    for model in (stale, poisoned):
        for place, token in enumerate((900, 901, 902)):
            _, _, model.cache = decoder().step(token, 3 + place, model.cache)
    position = 3
    rows = decoder().plan.kinds[0].map.rows
    places = np.arange(rows)[:, None] + rows * np.arange(-(-CONTEXT // rows))
    behind = jnp.asarray(places > position)
    for layer in poisoned.cache:
        layer["k"] = jnp.where(behind[:, None, None, :], 3e38, layer["k"])
        layer["v"] = jnp.where(behind[:, None, :, None], 3e38, layer["v"])
    assert bool(behind.any())
    steps = [
        decoder().step(42, position, model.cache) for model in (clean, stale, poisoned)
    ]
    first, *others = (np.asarray(logits).tobytes() for _, logits, _ in steps)
    assert others == [first, first]


class Stubborn:
    """A draft that always proposes the same tokens."""

    resting = True

    def __init__(self, tokens: Sequence[int]):
        self.tokens = tokens

    def on_rest(self, rested: object) -> None: ...

    def begin(self, known: Sequence[int], most: int, offer: object) -> None:
        assert callable(offer)
        for token in self.tokens[:most]:
            offer(token)


@pytest.mark.parametrize(
    "draft",
    [
        lambda prompt: Stubborn([1, 2, 3]),
        lambda prompt: Stubborn([*alone(prompt).tokens[1:3], 999]),
        lambda prompt: LookupDraft(1, 2),
    ],
    ids=["wrong", "right and wrong", "lookup"],
)
def test_tokens_are_the_same_whatever_a_draft_proposes(draft) -> None:
    requests = [Request(user, 0, prompt, MADE) for user, prompt in enumerate(PROMPTS)]
    speculation = Speculation(3, lambda request, decode: draft(request.prompt))
    together = serve(requests, Deployment(4, 1, 2, CONTEXT), speculation)
    assert any(served.counts.proposed for served in together)
    for served in together:
        assert served.tokens == alone(served.request.prompt).tokens


def test_a_draft_that_is_the_model_is_always_right() -> None:
    """A hundred times as fast, with a cache of its own that begins empty: one round does it all."""
    agenda = Agenda()
    stages = times().stages
    quick = stage_times.constant(stages, [1 + n // 100 for n in times().at(0)])
    pipeline = Pipeline(agenda, stages)

    def draft(request: Request, decode: int) -> Draft:
        model = Resident(decoder(), decoder().empty_cache())
        return ModelDraft(Seat(request.user, pipeline, quick, model))

    requests = [Request(user, 0, prompt, MADE) for user, prompt in enumerate(PROMPTS)]
    deployment, speculation = Deployment(4, 1, 4, CONTEXT), Speculation(3, draft)
    service = Service(deployment, times(), COSTS, prefilled, speculation, agenda=agenda)
    for served in service.run(requests):
        assert served.tokens == alone(served.request.prompt).tokens
        counts = served.counts
        assert (counts.rounds, counts.proposed, counts.accepted) == (1, 3, 3)
