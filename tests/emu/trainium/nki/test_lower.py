"""Lowered kernels against the tree run operation by operation, and against themselves unrolled."""

import dataclasses

import numpy as np
import pytest

from emu import EmulationError, Program
from emu.clock.reading import Event
from emu.trainium import TRN2, dma_load, isa
from emu.trainium.engines.memory import dma_store
from emu.trainium.nki import interpret, rings
from emu.trainium.nki.lower import lower
from emu.trainium.nki.tree import Choice, Operation, Recorded, Tensor, walk
from tests.emu.trainium.nki.trees import (
    F32,
    Random,
    affine,
    in_hbm,
    loop,
    on_chip,
    operation,
    tile,
    unrolled,
)


def program(recorded: Recorded, depth: int = rings.DEPTH) -> Program:
    kernel = lower(recorded, depth=depth)
    return Program(kernel, {"nc": 1}, ((),) * len(recorded.inputs))


def data(recorded: Recorded) -> np.ndarray:
    generator = np.random.default_rng(0)
    return generator.normal(size=recorded.inputs[0].shape).astype(np.float32)


@pytest.mark.parametrize("seed", range(8))
def test_values_are_those_of_the_tree(seed: int) -> None:
    recorded = Random(seed).kernel()
    x = data(recorded)
    (expected,) = interpret.run(recorded, x)
    (found,) = program(recorded).run(x)
    np.testing.assert_allclose(found[0], expected, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("seed", range(4))
def test_rolled_and_unrolled_are_the_same_to_the_bit_and_the_tick(seed: int) -> None:
    recorded = Random(seed, keep=False).kernel()
    flat = dataclasses.replace(recorded, body=unrolled(recorded.body))
    x = data(recorded)
    # As many buffers as turns: written out, each turn has tiles of its own.
    rolled, plain = program(recorded, depth=27), program(flat)
    np.testing.assert_array_equal(rolled.run(x)[0], plain.run(x)[0])
    readings = [p.read(TRN2.at(), x, check_memory=False) for p in (rolled, plain)]
    assert readings[0].end_ticks == readings[1].end_ticks


def test_traces_and_errors_name_the_kernels_own_lines() -> None:
    recorded = Random(3).kernel()
    x = data(recorded)
    clock = program(recorded).read(TRN2.at(), x, trace_core=(0,))
    lines = {event.where for event in clock.events if event.where}
    assert {"mine.py:20", "mine.py:40"} <= lines
    assert all(line.startswith("mine.py:") for line in lines)
    store = next(op for op, _ in walk(recorded.body) if op.name == "trn.dma_store")
    bad = Choice("dma", store.choice.instruction, {"queue": "no queue"})
    store.choices = (bad,)
    with pytest.raises(EmulationError, match=r"no queue.*\(mine.py:40\)"):
        program(recorded).read(TRN2.at(), x)


def test_a_result_that_nothing_is_stored_into() -> None:
    recorded = Random(0).kernel()
    (output,) = recorded.outputs
    other = dataclasses.replace(output, number=1)
    both = dataclasses.replace(recorded, outputs=(output, other))
    with pytest.raises(EmulationError, match="nothing is stored into result 1"):
        program(both).run(data(recorded))


def in_place(turns: int, parts: int, engines: tuple[str, ...]) -> Recorded:
    """Sums `part[i] = part[i] + x` of a tile of `parts`, `turns` times over all of them."""
    x = Tensor((128, 512), F32, "hbm", "x", role="input", number=0)
    y = Tensor((128, parts * 512), F32, "hbm", "y", role="output", number=0)
    a, total = tile((128, 512), "a"), tile((128, parts * 512), "total")
    whole = ((512, 128), (1, 512))
    load = operation(1, dma_load, [on_chip(a)], [in_hbm(x, whole)])
    clear = operation(2, isa.memset, [on_chip(total)], [], value=0.0)
    inner = loop(parts, 4)
    part = on_chip(total, offset=affine(0, (inner, 512)), axes=[(1, 512)])
    for line, engine in enumerate(engines, 5):
        add = operation(
            line, isa.tensor_tensor, [part], [part, on_chip(a)], op="add", engine=engine
        )
        inner.body.append(add)
    everything = ((parts * 512, 128), (1, parts * 512))
    store = operation(9, dma_store, [in_hbm(y, everything)], [on_chip(total)])
    for each, engine in ((clear, "vector"), *zip(inner.body, engines, strict=True)):
        assert isinstance(each, Operation)
        each.choices = tuple(
            dataclasses.replace(choice, engine=engine) for choice in each.choices
        )
    body = [load, clear, loop(turns, 3, inner), store]
    return Recorded("sums", "nki", body, (x,), (y,), ())


def sums(recorded: Recorded) -> list[Event]:
    """The sums of a kernel as they are issued, which give `turns` times the engines."""
    x = np.ones((128, 512), np.float32)
    clock = program(recorded).read(TRN2.at(), x, trace_core=(0,))
    return [each for each in clock.events if each.name == isa.tensor_tensor.name]


@pytest.mark.parametrize("engines", [("vector", "vector"), ("vector", "gpsimd")])
def test_a_sum_into_what_was_just_written_waits_for_it(
    engines: tuple[str, str],
) -> None:
    recorded = in_place(1, 2, engines)
    first, second, *_ = sums(recorded)
    assert second.start == first.ready > first.end
    x = np.ones((128, 512), np.float32)
    np.testing.assert_array_equal(program(recorded).run(x)[0][0], 2)


def test_a_sum_that_goes_from_part_to_part_does_not_wait() -> None:
    recorded = in_place(3, 4, ("vector",))
    events = sums(recorded)
    assert all(b.start == a.end for a, b in zip(events, events[1:], strict=False))
    # Of a single part each waits for the last.
    events = sums(in_place(3, 1, ("vector",)))
    assert all(b.start == a.ready for a, b in zip(events, events[1:], strict=False))
    x = np.ones((128, 512), np.float32)
    np.testing.assert_array_equal(program(recorded).run(x)[0][0], 3)
