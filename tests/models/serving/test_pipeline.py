"""When a token is in which region: examples by hand, laws of any pipeline, both by hypothesis."""

import itertools
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.serving.agenda import Agenda
from models.serving.pipeline import Pass, Pipeline, Stage


def stages(*regions: str | None) -> list[Stage]:
    return [Stage(f"stage {n}", region) for n, region in enumerate(regions)]


def run(
    regions: Sequence[str | None],
    cycles: Sequence[Sequence[int]],
    arrivals: Sequence[int] | None = None,
) -> Pipeline:
    """All tokens, each from its arrival on."""
    agenda = Agenda()
    pipeline = Pipeline(agenda, stages(*regions))
    for number, own in enumerate(cycles):
        token = Pass(number, 0, own, left=lambda token: None)
        at = 0 if arrivals is None else arrivals[number]
        agenda.at(at, lambda token=token: pipeline.submit(token))
    agenda.run()
    return pipeline


def test_two_tokens_as_the_module_draws_them() -> None:
    first, second = run("abc", [(2, 3, 1)] * 2).passes
    assert (first.begins, first.ends) == ([0, 2, 5], [2, 5, 6])
    assert (second.begins, second.ends) == ([2, 5, 8], [4, 8, 9])
    assert (first.waited_cycles, second.waited_cycles) == (0, 3)


def test_a_result_that_cannot_walk_on_stands_in_the_way() -> None:
    """The third may not begin in `a` at 2, where the second stands until `b` takes it at 6."""
    *_, third = run("ab", [(1, 5)] * 3).passes
    assert third.begins == [6, 11]


def test_an_embedding_goes_before_a_head_and_waits_in_its_buffer() -> None:
    """Both ends want `e` at 6: the third token's embedding, then the first one's head.

    Its result waits for `a`, in which the second stands until `b` is free at 7; the fourth's waits
    for that buffer, while the first one's head runs.
    """
    arrivals = [0, 0, 6, 6]
    first, second, third, fourth = run("eabe", [(1, 3, 2, 4)] * 4, arrivals).passes
    assert first.begins == [0, 1, 4, 7]
    assert second.begins == [1, 4, 7, 12]
    assert third.begins[:2] == [6, 7]
    # `a` took the third at 7, but `e` has the head until 11.
    assert fourth.begins[:2] == [11, 12]


def test_a_flight_takes_many_and_keeps_their_order() -> None:
    """The link is 10 cycles long; the second's would be 3, but it cannot overtake."""
    pipeline = run(["a", None, "b"], [(1, 10, 4), (1, 3, 4)])
    first, second = pipeline.passes
    assert first.ends == [1, 11, 15] and second.ends == [2, 11, 19]
    assert pipeline.busy_cycles == {"a": 2, "b": 8}


@pytest.mark.parametrize(
    ("regions", "told"),
    [
        (["a", "b", "b"], "stage 2.*region 'b' as another is"),
        (["a", "a"], "only the first and the last may share one"),
        (["a", "b", "a", "c"], "stage 2"),
        ([None], "no stage has a region"),
    ],
)
def test_pipelines_that_are_none(regions: list[str | None], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        Pipeline(Agenda(), stages(*regions))


@pytest.mark.parametrize("cycles", [(1,), (1, 0), (1, 2, 3)])
def test_every_stage_takes_time(cycles: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="at least 1 for each of 2 stages"):
        run("ab", [cycles])


WAYS = ["ab", "abc", "eabe", "eabce", ["e", "a", None, "b", "e"], ["e", "a", "e", None]]


@settings(deadline=None, max_examples=80)
@given(st.data(), st.sampled_from(WAYS))
def test_laws_of_every_pipeline(data: st.DataObject, way: Sequence[str | None]) -> None:
    """All get through; in order; a region has one at a time; nobody is served for less or longer.

    And nobody waits without a cause: a stage begins when the one before has ended, or at the very
    cycle when a region becomes free.
    """
    each = st.tuples(*[st.integers(1, 9) for _ in way])
    cycles = data.draw(st.lists(each, min_size=1, max_size=9))
    arrivals = [data.draw(st.integers(0, 30)) for _ in cycles]
    pipeline = run(way, cycles, arrivals)
    passes = pipeline.passes
    assert sorted(token.user for token in passes) == list(range(len(cycles)))
    for before, behind in itertools.pairwise(passes):
        assert before.begins[0] <= behind.begins[0]
        assert all(a <= b for a, b in zip(before.ends, behind.ends, strict=True))
    held: dict[str, list[tuple[int, int]]] = {}
    freed = {0}
    for token in passes:
        assert token.ready == arrivals[token.user] <= token.begins[0]
        for number, region in enumerate(way):
            # The last stage has no next, and an embedding has a buffer where it shares a region.
            stays = number < len(way) - 1 and (number or way.count("e") < 2)
            left = token.begins[number + 1] if stays else token.ends[number]
            assert token.ends[number] <= left
            if region is None:
                continue
            # A flight may end later than alone, as it delivers in order.
            took = token.ends[number] - token.begins[number]
            assert took == token.cycles[number]
            held.setdefault(region, []).append((token.begins[number], left))
            freed |= {left, *token.begins[number + 1 : number + 2]}
    for spans in held.values():
        spans.sort()
        assert all(a[1] <= b[0] for a, b in itertools.pairwise(spans))
    for token in passes:
        came = [token.ready, *token.ends]
        for number, begin in enumerate(token.begins):
            assert begin == came[number] or begin in freed


@settings(deadline=None, max_examples=60)
@given(
    st.sampled_from(["abcd", "eabe", "eabcdfe", "eabcdfghie"]),
    st.integers(1, 12),
    st.data(),
)
def test_users_who_come_again_wait_for_the_way_or_for_the_busiest_region(
    way: str, users: int, data: st.DataObject
) -> None:
    """One token a user at a time, all alike: exactly the longer of the two, once all is settled."""
    cycles = [data.draw(st.integers(1, 20)) for _ in way]
    agenda, trips = Agenda(), 24
    pipeline = Pipeline(agenda, stages(*way))
    left: list[list[int]] = [[] for _ in range(users)]

    def send(user: int) -> None:
        pipeline.submit(Pass(user, 0, cycles, done))

    def done(token: Pass) -> None:
        left[token.user].append(token.ends[-1])
        if len(left[token.user]) < trips:
            send(token.user)

    for user in range(users):
        send(user)
    agenda.run()
    work = {region: 0 for region in way}
    for region, own in zip(way, cycles, strict=True):
        work[region] += own
    period = max(sum(cycles), users * max(work.values()))
    # Without the first trips, and the last ones, when some come no more.
    assert all(own[-4] - own[10] == (trips - 4 - 10) * period for own in left)


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.integers(1, 20), min_size=2, max_size=6),
    st.integers(1, 6),
)
def test_a_long_queue_leaves_at_the_pace_of_the_slowest_region(
    own: list[int], more: int
) -> None:
    """In a line of regions tokens that are alike leave that many cycles after one another."""
    regions = [f"region {number}" for number in range(len(own))]
    passes = run(regions, [own] * (len(own) + more)).passes
    leaving = [token.ends[-1] for token in passes]
    assert leaving[0] == sum(own)
    assert all(b - a == max(own) for a, b in itertools.pairwise(leaving))
