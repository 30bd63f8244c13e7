"""Stages and their cycles: of a plan, between positions that were read, and the bottleneck."""

import dataclasses
from contextlib import nullcontext

import pytest

from emu.errors import OutOfMemory
from models.loading.load import load_tiny
from models.machines.decode import Decoder
from models.machines.disaggregated import spread
from models.serving.pipeline import Stage
from models.serving.stage_times import (
    between,
    bottleneck,
    check_buffer,
    constant,
    every,
)

STAGES = [Stage("embed", "ends"), Stage("layer 0", "layer 0"), Stage("head", "ends")]


def test_the_clock_of_a_plan() -> None:
    """Stages are its regions, and their cycles add up to a step's; a few positions give the rest.

    Between those read a layer of 25 rows is off by less than the step where a slot is added.
    """
    tiny = load_tiny()
    decoder = Decoder(tiny.config, tiny.weights, 64)
    exact = every(decoder.clock)
    names = [stage.name for stage in exact.stages]
    assert names == ["embed", "layer 0", "layer 1", "head", "host"]
    regions = [stage.region for stage in exact.stages]
    assert regions == ["ends", "layer 0", "layer 1", "ends", None]
    some = between(exact, spread(0, 64))
    for position in (0, 9, 25, 31, 40, 63):
        own = exact.latency_cycles(position)
        assert own == decoder.read(position).cycles
        assert abs(some.latency_cycles(position) - own) < 0.01 * own
        on_wafers = every(decoder.clock, through_host=False)
        assert on_wafers.latency_cycles(position) == decoder.read(position).wafer_cycles
    assert all(some.at(position) == exact.at(position) for position in spread(0, 64))


def test_a_waiting_embedding_is_paid_for() -> None:
    """A PE of the ends that is full to the last byte has no room for it."""
    tiny = load_tiny()
    clock = Decoder(tiny.config, tiny.weights, 24).clock
    depth, held = clock.plan.head.depth, sum(clock.plan.head_bytes.values())
    room = clock.device.sram_bytes - held
    check_buffer(clock.plan, clock.device)
    for left, fits in ((4 * depth, True), (4 * depth - 1, False)):
        more = clock.plan.head_bytes["buffers"] + room - left
        head_bytes = {**clock.plan.head_bytes, "buffers": more}
        full = dataclasses.replace(clock.plan, head_bytes=head_bytes)
        with nullcontext() if fits else pytest.raises(OutOfMemory, match="over its"):
            check_buffer(full, clock.device)


def test_straight_lines_are_rounded_down() -> None:
    read = {1: (10, 5), 5: (17, 5), 9: (17, 9)}
    times = constant(STAGES[:2], (1, 1))
    some = between(type(times)(times.stages, read.__getitem__), [1, 5, 9])
    assert some.at(3) == (13, 5) and some.at(5) == (17, 5) and some.at(8) == (17, 8)
    for position in (0, 10):
        with pytest.raises(ValueError, match="must be from 1 to 9"):
            some.at(position)


def test_the_bottleneck_counts_all_stages_of_a_region() -> None:
    assert bottleneck(STAGES, (3, 4, 2)) == ("ends", 5)
    assert bottleneck(STAGES, (1, 4, 2)) == ("layer 0", 4)
    assert constant(STAGES, (1, 4, 2)).bottleneck(7) == ("layer 0", 4)
