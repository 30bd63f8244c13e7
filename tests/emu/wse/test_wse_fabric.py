"""Collectives: sums in hop order bit for bit, times equal to HPDC'24's closed forms."""

from typing import Any

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emu import EmulationError, Known, Program, wse
from emu.wse import WSE2, WSE3, arrival
from tests.emu.wse.single_pe import struct

LINE = ("row",)


def on_line(pes: int, call: Any, inputs: int = 1, knowns: int = 0) -> Program:
    return Program(call, {"row": pes}, (LINE,) * inputs + ((),) * knowns)


def like(x: Any) -> Any:
    return wse.sram_tile(shape=x.shape, dtype=x.dtype)


def chained(x: np.ndarray, join: Any) -> np.ndarray:
    """From the far end to the first, each sum rounded to the array's dtype."""
    acc = x[-1]
    for own in x[-2::-1]:
        acc = join(own.astype(np.float64), acc.astype(np.float64))
        acc = acc.astype(np.float32).astype(x.dtype)
    return acc


@pytest.mark.parametrize("pes", [8, 64])  # unrolled, and a loop
@pytest.mark.parametrize("op", ["add", "max"])
def test_chain_reduce_rounds_hop_by_hop(pes: int, op: str) -> None:
    x = np.random.default_rng(pes).standard_normal((pes, 5)).astype(ml_dtypes.bfloat16)
    got = on_line(pes, lambda x: wse.chain_reduce(like(x), x, axis="row", op=op)).run(x)
    got = np.asarray(got)
    assert (got[0] == chained(x, np.add if op == "add" else np.maximum)).all()
    assert np.isnan(got[1:].astype(np.float32)).all()
    if op == "add" and pes == 64:
        tree: Any = x
        while len(tree) > 1:
            tree = tree[::2] + tree[1::2]
        assert (got[0] != tree[0]).any()


def test_groups_and_strides_sum_apart() -> None:
    x = np.random.default_rng(0).standard_normal((12, 3)).astype(np.float32)

    def call(x: Any) -> Any:
        y = wse.chain_reduce(like(x), x, axis="row", group=3)
        return y, wse.chain_reduce(like(x), y, axis="row", group=12, stride=3)

    program = Program(call, {"row": 12}, (LINE,), (LINE, LINE))
    first, second = map(np.asarray, program.run(x))
    sums = np.stack([chained(x[i : i + 3], np.add) for i in range(0, 12, 3)])
    assert (first[::3] == sums).all() and np.isnan(np.delete(first, slice(None, None, 3), 0)).all()
    assert (second[0] == chained(sums, np.add)).all() and np.isnan(second[1:]).all()


def test_groups_must_divide_the_axis() -> None:
    with pytest.raises(EmulationError, match="must divide one another"):
        on_line(12, lambda x: wse.chain_reduce(like(x), x, axis="row", group=5)).read(
            WSE3.at(), struct((12, 3))
        )


@pytest.mark.parametrize(("sheet", "stage", "setup"), [(WSE2, 6, 39), (WSE3, 7, 24)])
@pytest.mark.parametrize(("pes", "words"), [(2, 1), (8, 5), (64, 300)])
def test_chain_takes_b_plus_stage_times_p_minus_one(
    sheet: Any, stage: int, setup: int, pes: int, words: int
) -> None:
    """Set-up: three descriptor loads (9 or 4 each), 6 to issue, 6 for the branch of the role."""
    program = on_line(pes, lambda x: wse.chain_reduce(like(x), x, axis="row"))
    clock = program.read(sheet.at(), struct((pes, words)))
    assert clock.end_ticks == setup + words + stage * (pes - 1)
    assert clock.tally.by("other")["wavelet_hops"] == words * (pes - 1)
    assert clock.tally.flops == words * (pes - 1)


@pytest.mark.parametrize(("sheet", "hop", "setup"), [(WSE2, 1, 30), (WSE3, 2, 20)])
@pytest.mark.parametrize(("pes", "words"), [(2, 1), (8, 5), (64, 300)])
def test_multicast_takes_b_plus_hops_plus_two_ramps(
    sheet: Any, hop: int, setup: int, pes: int, words: int
) -> None:
    program = on_line(pes, lambda x: wse.multicast(like(x), x, axis="row"))
    x = np.random.default_rng(0).standard_normal((pes, words)).astype(np.float32)
    assert (np.asarray(program.run(x)) == x[:1]).all()
    clock = program.read(sheet.at(), x)
    assert clock.end_ticks == setup + words + hop * (pes - 1) + 2 * 2
    assert clock.tally.by("other")["wavelet_hops"] == words * (pes - 1)


def test_two_halves_share_a_wavelet_and_elements_may_be_fewer() -> None:
    reduce = on_line(4, lambda x: wse.chain_reduce(like(x), x, axis="row"))
    assert reduce.read(WSE3.at(), struct((4, 7), "float16")).end_ticks == 24 + 4 + 7 * 3
    some = on_line(4, lambda x, n: wse.chain_reduce(like(x), x, axis="row", elements=n), knowns=1)
    clock = some.read(WSE3.at(), struct((4, 7)), Known(np.int32(2)))
    assert clock.end_ticks == 24 + 2 + 7 * 3


def test_stride_pays_for_the_routers_passed() -> None:
    call = on_line(12, lambda x: wse.chain_reduce(like(x), x, axis="row", group=12, stride=3))
    clock = call.read(WSE3.at(), struct((12, 5)))
    assert clock.end_ticks == 24 + 5 + 3 * (2 * 2 + 2 * 3 + 1)
    assert clock.tally.by("other")["wavelet_hops"] == 5 * 9


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 90), min_size=1, max_size=9), st.integers(1, 40))
def test_chain_and_multicast_follow_any_skew(starts: list[int], words: int) -> None:
    """Against one PE after another: who waits for whom, written as a loop."""
    armed = np.array(starts, np.int64)[None, :, None]
    stage, queue = 7, 12
    first = list(starts)
    for i in range(len(starts) - 2, -1, -1):
        first[i] = max(starts[i], first[i + 1] + stage)
    sent, free = arrival.chain(armed, np.asarray(words), stage, queue)
    assert sent[0, :, 0].tolist() == [f + words for f in first]
    left = [first[0] + words]
    for i in range(1, len(starts)):  # what the queues cannot hold waits for the neighbour
        wait = left[-1] - stage - queue if words > queue else 0
        left.append(max(first[i] + words, wait))
    assert free[0, :, 0].tolist() == left
    got = arrival.multicast(armed, np.asarray(words), 2, 2, queue)[0, :, 0]
    away = [0] + [4 + 2 * i for i in range(1, len(starts))]
    head = starts[0]
    if words > queue:
        head = max([head] + [s - a - queue for s, a in zip(starts, away, strict=True)])
    expected = [max(s, head + a) + words for s, a in zip(starts, away, strict=True)]
    assert got.tolist() == expected


def test_shift_is_cyclic_and_two_hops_long() -> None:
    x = np.arange(15, dtype=np.float32).reshape(5, 3)
    for by in (1, -1):
        program = on_line(5, lambda x, by=by: wse.shift(like(x), x, axis="row", by=by))
        assert (np.asarray(program.run(x)) == np.roll(x, by, 0)).all()
        # two operations of 20 to set up; the receive waits for 2 ramps and 2 hops of 2
        clock = program.read(WSE3.at(), x)
        assert clock.end_ticks == 20 + 3 + 20 + 3
        assert clock.tally.by("other")["wavelet_hops"] == 5 * 3 * 2


def test_chain_argmax_breaks_ties_low() -> None:
    top = jnp.array([1, 7, 3, 7, 2], jnp.float32)[:, None]
    at = jnp.array([4, 31, 5, 30, 6], jnp.int32)[:, None]

    def call(v: Any, i: Any) -> Any:
        return wse.chain_argmax(like(v), like(i), v, i, axis="row")

    program = Program(call, {"row": 5}, (LINE, LINE), (LINE, LINE))
    value, index = program.run(top, at)
    assert (float(value[0, 0]), int(index[0, 0])) == (7.0, 30)
    # 24 to set up; a stage receives two words and compares: 7 + 1 + 2 * 2 + 6
    assert program.read(WSE3.at(), top, at).end_ticks == 24 + 2 + 18 * 4


def test_walk_crosses_the_gap_and_starts_a_task() -> None:
    x = np.arange(12, dtype=np.float32).reshape(4, 3)
    program = on_line(4, lambda x, gap: wse.walk(like(x), x, gap, axis="row"), knowns=1)
    assert (np.asarray(program.run(x, Known(np.int32(10)))) == x[-1:]).all()
    clock = program.read(WSE3.at(), x, Known(np.int32(10)))
    assert clock.end_ticks == 20 + 2 * 2 + 2 * (10 + 4) + 3 + 3
    assert clock.tally.by("other")["wavelet_hops"] == 3 * (10 + 4)


def test_vmap_and_shard_map_agree() -> None:
    x = np.random.default_rng(0).standard_normal((2, 4, 6)).astype(np.float32)

    def call(x: Any) -> Any:
        y = wse.chain_reduce(like(x), x, axis="col")
        y = wse.multicast(like(x), y, axis="col")
        z = wse.shift(like(x), y, axis="row", by=1)
        z = wse.vector(z, z, x, op="add")
        return wse.chain_reduce(z, z, axis="row", op="max")

    program = Program(call, {"row": 2, "col": 4}, (("row", "col"),))
    batched, sharded = np.asarray(program.run(x)), np.asarray(program.sharded()(x))
    np.testing.assert_array_equal(batched, sharded)
    assert np.isfinite(batched[0]).all() and np.isnan(batched[1]).all()
