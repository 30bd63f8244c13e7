"""The search over sizes on surfaces whose minimum is known."""

import itertools

from emu.errors import OutOfMemory
from experiments.kernel.search import search

GRID = {"block": (1, 2, 4, 8), "buffers": (1, 2, 3)}


def bowl(setting: dict[str, int]) -> int:
    return (setting["block"] - 4) ** 2 + (setting["buffers"] - 2) ** 2


def test_a_small_grid_is_searched_whole_and_in_order() -> None:
    found = search(bowl, GRID)
    every = [dict(zip(GRID, v, strict=True)) for v in itertools.product(*GRID.values())]
    assert [t.setting for t in found.tried] == every
    assert found.exhaustive
    assert found.best is not None and found.best.setting == {"block": 4, "buffers": 2}
    assert [t.ticks for t in found.ranked()] == sorted(map(bowl, every))


def test_a_large_grid_is_descended_one_parameter_at_a_time() -> None:
    found = search(bowl, GRID, limit=5)
    assert found.best is not None and found.best.setting == {"block": 4, "buffers": 2}
    assert not found.exhaustive
    assert len(found.tried) < len(GRID["block"]) * len(GRID["buffers"])
    assert len({tuple(t.setting.values()) for t in found.tried}) == len(found.tried)


def test_settings_that_do_not_fit_are_kept_with_the_reason() -> None:
    def fits(setting: dict[str, int]) -> int:
        if setting["block"] * setting["buffers"] > 8:
            raise OutOfMemory("NeuronCore: the kernel needs\n 9 bytes of sbuf, has 8")
        return 100 - setting["block"] * setting["buffers"]

    for limit in (12, 1):
        found = search(fits, GRID, limit=limit)
        refused = [t for t in found.tried if t.ticks is None]
        assert refused and all("needs 9 bytes of sbuf" in t.reason for t in refused)
        assert found.best is not None and found.best.ticks == 100 - 8
        assert found.ranked()[-1].ticks is None


def test_a_start_that_does_not_fit_leads_to_the_first_that_does() -> None:
    def only_the_smallest(setting: dict[str, int]) -> int:
        if setting != {"block": 1, "buffers": 1}:
            raise ValueError("too large")
        return 7

    best = search(only_the_smallest, GRID, limit=1).best
    assert best is not None and best.setting == {"block": 1, "buffers": 1}


def test_a_grid_of_which_nothing_can_run_has_no_best() -> None:
    def never(setting: dict[str, int]) -> int:
        raise ValueError("no")

    for limit in (12, 1):
        found = search(never, GRID, limit=limit)
        assert found.best is None and found.exhaustive


def test_ties_go_to_the_first_and_the_search_repeats() -> None:
    flat = lambda setting: 5  # noqa: E731
    for limit in (12, 1):
        first, again = search(flat, GRID, limit=limit), search(flat, GRID, limit=limit)
        assert first == again
    assert search(flat, GRID).best == search(flat, GRID).tried[0]


def test_progress_tells_how_many_there_are_where_that_is_known() -> None:
    told: list[tuple[int, int | None]] = []
    search(bowl, GRID, lambda n, of, tried: told.append((n, of)))
    assert told == [(i, 12) for i in range(1, 13)]
    told.clear()
    search(bowl, GRID, lambda n, of, tried: told.append((n, of)), limit=1)
    assert [n for n, _ in told] == list(range(1, len(told) + 1))
    assert {of for _, of in told} == {None}
