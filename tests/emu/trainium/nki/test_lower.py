"""Lowered kernels against the tree run operation by operation, and against themselves unrolled."""

import dataclasses

import numpy as np
import pytest

from emu import EmulationError, Program
from emu.trainium import TRN2
from emu.trainium.nki import interpret
from emu.trainium.nki.lower import lower
from emu.trainium.nki.tree import Choice, Recorded, walk
from tests.emu.trainium.nki.trees import Random, unrolled


def program(recorded: Recorded, **options: int) -> Program:
    kernel = lower(recorded, **options)
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
