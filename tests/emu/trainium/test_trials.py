"""Advice is given where a reading with it is faster, and with that reading's time."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jax import lax

from emu import Program
from emu.errors import OutOfMemory
from emu.report.attribution import last_core, spent_by, split
from emu.report.changes import DeeperRings, OtherParameter, own_banks, ring_lines
from emu.report.explain import Reason, explain
from emu.report.trials import Trials
from emu.trainium import TRN2, dma_load, dma_store, psum, sbuf
from emu.trainium.isa import activation, nc_matmul, tensor_tensor

BLOCKS = 16
F32 = jnp.float32


def shape(*sizes: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(sizes, F32)


def products(
    x: Any, w: Any, *, loaded: int = 2, summed: int = 2, queue: str = "load_queue"
) -> Any:
    """silu(x·w) by block: loads, products, activations and stores that could overlap."""
    left = dma_load(sbuf(128, 128), x)

    def block(_: None, tile: Any) -> tuple[None, Any]:
        right = dma_load(sbuf(128, 512, buffers=loaded), tile, queue=queue)
        sums = nc_matmul(psum(128, 512, buffers=summed), left, right, 0)
        out = sbuf(128, 512, buffers=2)
        return None, dma_store(activation(out, sums, op="silu"))

    return lax.scan(block, None, w)[1]


def doubled(x: Any, *, buffers: int = 2, engine: str = "vector") -> Any:
    """Twice x in copies so short that the load queue starts them as often as it can."""

    def block(_: None, tile: Any) -> tuple[None, Any]:
        tile = dma_load(sbuf(128, 16, buffers=buffers), tile)
        out = sbuf(128, 16, buffers=buffers)
        return None, dma_store(tensor_tensor(out, tile, tile, op="add", engine=engine))

    return lax.scan(block, None, x)[1]


PRODUCTS = shape(128, 128), shape(BLOCKS, 128, 512)
DOUBLED = (shape(64, 128, 16),)


def program_of(kernel: Any, arguments: tuple[Any, ...], **options: Any) -> Program:
    """A kernel on one core."""
    given = functools.partial(kernel, **options)
    return Program(given, {"core": 1}, ((),) * len(arguments))


def ticks(kernel: Any, arguments: tuple[Any, ...], **options: Any) -> int:
    """What a kernel with its own options takes."""
    return (
        program_of(kernel, arguments, **options).read(TRN2.at(), *arguments).end_ticks
    )


def trials_of(kernel: Any, arguments: tuple[Any, ...], **options: Any) -> Trials:
    program = program_of(kernel, arguments, **options)
    clock = program.read(TRN2.at(), *arguments, trace_core=(0,))
    return Trials(program, clock.device, arguments, clock.end_ticks, clock.events)


def explained(trials: Trials, engine: str) -> list[Reason]:
    """Every reason why an engine is not at its bound."""
    clock = trials.program.read(trials.device, *trials.arguments, trace_core=(0,))
    found = split(spent_by(clock, last_core(clock)), engine)
    hz = clock.device.tick_hz
    return explain(found, hz, clock.events, count=len(found.parts), trials=trials)


# --- a change is what the kernel would be with it ---


def test_a_change_reads_as_the_kernel_written_so() -> None:
    trials = trials_of(products, PRODUCTS)
    assert trials.ticks == ticks(products, PRODUCTS)
    body, _ = trials.program.trace(PRODUCTS)
    loaded, summed, _ = ring_lines(body)  # the tile of x, outside the loop, is none
    deeper = ticks(products, PRODUCTS, loaded=3)
    assert trials.with_change(DeeperRings(frozenset({loaded}))) == deeper
    both = ticks(products, PRODUCTS, loaded=3, summed=3)
    assert trials.with_change(DeeperRings(frozenset({loaded, summed}))) == both
    moved = OtherParameter("trn.dma_load", loaded, "queue", "load_queue2")
    assert trials.with_change(moved) == ticks(products, PRODUCTS, queue="load_queue2")
    assert trials.with_change(lambda _: {}) == trials.ticks


def test_a_change_reaches_into_loops_branches_and_calls() -> None:
    def kernel(x: Any, *, buffers: int) -> Any:
        @jax.jit
        def tile(block: Any) -> Any:
            return dma_load(sbuf(128, 16, buffers=buffers), block)

        def inner(_: None, block: Any) -> tuple[None, Any]:
            return None, dma_store(lax.cond(True, tile, tile, block))

        def outer(_: None, blocks: Any) -> tuple[None, Any]:
            return None, lax.scan(inner, None, blocks)[1]

        return lax.scan(outer, None, x)[1]

    arguments = (shape(3, 20, 128, 16),)
    trials = trials_of(kernel, arguments, buffers=1)
    body, _ = trials.program.trace(arguments)
    (line,) = ring_lines(body)
    assert trials.with_change(DeeperRings(frozenset({line}))) == ticks(
        kernel, arguments, buffers=2
    )
    assert ticks(kernel, arguments, buffers=2) < trials.ticks


def test_what_does_not_fit_is_no_advice_but_the_rest_is_tried() -> None:
    # Eight banks of PSUM are full: of the rings only those in SBUF can be deeper.
    trials = trials_of(products, PRODUCTS, loaded=1, summed=8)
    body, _ = trials.program.trace(PRODUCTS)
    everything = DeeperRings(frozenset(ring_lines(body)))
    assert trials.with_change(everything) is None
    with pytest.raises(OutOfMemory):
        trials.program.read(trials.device, *PRODUCTS, change=everything)
    (found,) = trials.deeper_rings()
    assert found.ticks < trials.ticks
    assert found.ticks == ticks(products, PRODUCTS, loaded=2, summed=8)


def test_banks_of_their_own() -> None:
    def kernel(x: Any, w: Any, *, bank: int | None) -> Any:
        left = dma_load(sbuf(128, 128), x)

        def block(_: None, tile: Any) -> tuple[None, Any]:
            right = dma_load(sbuf(128, 512, buffers=3), tile)
            sums = nc_matmul(psum(128, 512, bank=bank), left, right, 0)
            return None, dma_store(activation(sbuf(128, 512), sums, op="silu"))

        return lax.scan(block, None, w)[1]

    trials = trials_of(kernel, PRODUCTS, bank=0)
    assert trials.with_change(own_banks) == ticks(kernel, PRODUCTS, bank=None)


# --- what is advised ---


def test_deeper_rings_are_advised_where_they_help_and_by_how_much() -> None:
    trials = trials_of(products, PRODUCTS, loaded=1, summed=1)
    (advised,) = [
        reason
        for reason in explained(trials, "tensor")
        if reason.part.what == "wait:load"
    ]
    assert advised.faster is not None
    assert advised.faster.ticks < trials.ticks
    # The shortest that any of them makes it: rings one deeper, or both of the slower two.
    assert advised.faster.ticks == ticks(products, PRODUCTS, loaded=2, summed=2)
    us = advised.faster.ticks / trials.device.tick_hz * 1e6
    gain = 1 - advised.faster.ticks / trials.ticks
    assert f"{us:,.1f} us, {gain:.1%} less (read again)" in advised.sentence
    assert "one buffer deeper at test_trials.py:" in advised.sentence


def test_no_deeper_ring_is_advised_where_a_queue_starts_copies_as_fast_as_it_can() -> (
    None
):
    assert len({ticks(doubled, DOUBLED, buffers=depth) for depth in (2, 3, 4)}) == 1
    trials = trials_of(doubled, DOUBLED)
    (advised,) = [
        reason
        for reason in explained(trials, "vector")
        if reason.part.what == "wait:load"
    ]
    assert advised.faster is None
    assert "rings one buffer deeper" not in advised.sentence
    assert "tried, and no faster: deeper rings, another engine or queue" in (
        advised.sentence
    )
    assert "least time between two copies of a queue" in advised.sentence
    us = trials.ticks / trials.device.tick_hz * 1e6
    assert f"not tried; would lower total_time, {us:,.1f} us" in advised.sentence


def test_another_engine_is_advised_where_it_is_faster() -> None:
    def kernel(x: Any, *, engine: str) -> Any:
        def block(_: None, tile: Any) -> tuple[None, Any]:
            tile = dma_load(sbuf(128, 512, buffers=3), tile)
            for _unused in range(3):
                out = sbuf(128, 512, buffers=3)
                tile = tensor_tensor(out, tile, tile, op="add")
            out = sbuf(128, 512, buffers=3)
            return None, dma_store(
                tensor_tensor(out, tile, tile, op="add", engine=engine)
            )

        return lax.scan(block, None, x)[1]

    arguments = (shape(BLOCKS, 128, 512),)
    trials = trials_of(kernel, arguments, engine="vector")
    found = {faster.ticks for faster in trials.moved(["vector"])}
    on_gpsimd = ticks(kernel, arguments, engine="gpsimd")
    assert on_gpsimd < trials.ticks
    assert on_gpsimd in found
    assert all(faster < trials.ticks for faster in found)
    # Back again nothing is gained.
    assert trials_of(kernel, arguments, engine="gpsimd").moved(["gpsimd"]) == []
    # Tensor instructions have no engine to choose.
    assert trials.moved(["tensor"]) == []


def test_without_trials_advice_says_that_it_is_not_tried() -> None:
    program = program_of(products, PRODUCTS)
    clock = program.read(TRN2.at(), *PRODUCTS, trace_core=(0,))
    reasons = explain(split(spent_by(clock, (0,))), clock.device.tick_hz, clock.events)
    assert len(reasons) == 3
    for reason in reasons:
        assert reason.faster is None
        assert "(not tried; would lower " in reason.sentence
