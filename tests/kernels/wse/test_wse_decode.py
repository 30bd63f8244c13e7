"""The whole decoder against a float64 reference; its clock, memory and floor plan."""

import dataclasses
from typing import Any

import jax
import numpy as np
import pytest

from emu import Quantity
from emu.wse import WSE3
from emu.wse.placement.regions import DoesNotFit
from kernels.wse.decode import estimate
from kernels.wse.decode.layer import layer_arguments, layer_program
from kernels.wse.decode.plan import WaferPlan, plan_wafer
from kernels.wse.decode.token import TokenClock
from models.config import ModelConfig
from models.machines.decode import Decoder
from tests.kernels.wse.reference import Reference, Sizes, random_weights

LLAMA = Sizes(66, 90, 2, 4, 2, 16, 101)
QWEN3 = Sizes(
    64, 100, 2, 6, 3, 24, 53, qk_norm=True, tie_word_embeddings=False, rope_theta=1e6
)
WIDE_HEADS = Sizes(48, 80, 1, 4, 1, 128, 67, tie_word_embeddings=False)
MODELS = {"llama": LLAMA, "qwen3": QWEN3, "wide heads": WIDE_HEADS}
PROMPT = [5, 17, 3, 42, 8]
CONTEXT = 40


@pytest.fixture(scope="module", params=MODELS)
def pair(request: pytest.FixtureRequest) -> tuple[Sizes, Any, Decoder]:
    sizes = MODELS[request.param]
    weights = random_weights(sizes, 0)
    return sizes, weights, Decoder(config_of(sizes), weights, CONTEXT)


def config_of(sizes: Sizes) -> ModelConfig:
    """The same model as a config."""
    values = dataclasses.asdict(sizes)
    family = "qwen3" if values.pop("qk_norm") else "llama"
    return ModelConfig(
        name="of sizes",
        model_type=family,
        max_position_embeddings=1024,
        source="this test",
        **values,
    )


def test_greedy_tokens_and_logits(pair: tuple[Sizes, Any, Decoder]) -> None:
    """From a prefilled cache on, the same tokens; logits to float32 rounding."""
    sizes, weights, decoder = pair
    reference = Reference(sizes, weights)
    for token in PROMPT:
        expected = reference.step(token)
    cache = decoder.cache_from(np.stack(reference.k), np.stack(reference.v))
    token = int(expected.argmax())
    for pos in range(len(PROMPT), 30):
        after, logits, cache = decoder.step(token, pos, cache)
        expected = reference.step(token)
        np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)
        assert after == expected.argmax() == np.asarray(logits).argmax()
        token = after


def test_prefilled_cache_is_the_decoded_one(pair: tuple[Sizes, Any, Decoder]) -> None:
    sizes, weights, decoder = pair
    reference, cache = Reference(sizes, weights), decoder.empty_cache()
    for pos, token in enumerate(PROMPT):
        reference.step(token)
        _, _, cache = decoder.step(token, pos, cache)
    expected = decoder.cache_from(np.stack(reference.k), np.stack(reference.v))
    for layer, alike in zip(cache, expected, strict=True):
        for name in ("k", "v"):
            np.testing.assert_allclose(layer[name], alike[name], rtol=1e-4, atol=2e-5)


def test_step_clock_adds_up(pair: tuple[Sizes, Any, Decoder]) -> None:
    sizes, _, decoder = pair
    step = decoder.read(CONTEXT - 1)
    parts = decoder.clock.stops(CONTEXT - 1, "nominal")
    assert step.wafer_cycles == sum(r.end_ticks for r in parts)
    # 10 us of 1.1 GHz by way of the host.
    assert step.cycles - step.wafer_cycles == step.phase_cycles["host"] == 11_000
    stages = decoder.clock.stages(CONTEXT - 1, "nominal")
    layers = [f"layer {n}" for n in range(sizes.num_hidden_layers)]
    assert [stage.name for stage in stages] == ["embed", *layers, "head", "host"]
    assert sum(stage.cycles for stage in stages) == step.cycles
    assert step.seconds == step.cycles / 1.1e9
    assert 0 < step.busy_cycles["datapath"] <= step.cycles
    m, head = decoder.plan.kinds[0].map, decoder.plan.head
    weights = m.weight_shapes()
    per_pe = sum(np.prod(weights[k]) for k in ("qkv", "out", "gate_up", "down"))
    per_layer = 2 * int(per_pe) * m.rows * m.cols
    table = 2 * head.depth * head.tokens * head.rows * head.cols
    assert step.io_bytes == 0
    maps = sum(r.tally.by("flops")["wse.fmac_map"] for r in parts[1:])
    assert maps == sizes.num_hidden_layers * per_layer + table
    scores = sum(r.tally.by("flops")["wse.score_map"] for r in parts[1:-1])
    heads = sizes.num_attention_heads * sizes.head_dim
    assert scores == 2 * sizes.num_hidden_layers * CONTEXT * heads
    for r in parts:
        assert r.end_ticks >= r.most_busy_ticks["datapath"]


def test_bands_order_and_longer_caches_take_longer(
    pair: tuple[Sizes, Any, Decoder],
) -> None:
    decoder = pair[2]
    low, nominal, high = (
        decoder.read(CONTEXT - 1, b) for b in ("low", "nominal", "high")
    )
    assert low.seconds < nominal.seconds < high.seconds
    assert decoder.read(0).cycles < nominal.cycles
    assert decoder.read(0).flops < nominal.flops


def test_trace_covers_every_phase(pair: tuple[Sizes, Any, Decoder]) -> None:
    sizes, _, decoder = pair
    trace, step = decoder.trace(7, WSE3.at()), decoder.read(7)
    assert trace.cycles == step.wafer_cycles
    assert max(e.end for e in trace.events) <= trace.cycles
    start, end = trace.layer_window(sizes.num_hidden_layers - 1)
    assert end == step.phase_cycles["embed"] + step.phase_cycles["layers"]
    assert {"wse.walk", "wse.fmac_map"} <= {
        e.name for e in trace.events if e.start >= start
    }
    assert decoder.bound(7).what == "dependency chain"


def test_bytes_are_those_of_the_program(pair: tuple[Sizes, Any, Decoder]) -> None:
    decoder = pair[2]
    m, kinds = decoder.plan.kinds[0].map, decoder.bytes_per_pe["layer"]
    peak = layer_program(m).memory(WSE3.at(), *layer_arguments(m, 0, 0))["sram"]
    assert kinds["weights"] + kinds["cache"] + kinds["buffers"] == peak
    assert kinds["weights"] == 4 * sum(np.prod(s) for s in m.weight_shapes().values())
    assert kinds["cache"] == 4 * 2 * m.slots * m.dims
    assert (
        decoder.pes
        == sum(r.pes for r in decoder.plan.regions) + m.rows * decoder.plan.head.cols
    )


def test_positions_outside_the_context_are_refused(
    pair: tuple[Sizes, Any, Decoder],
) -> None:
    decoder = pair[2]
    with pytest.raises(ValueError, match="outside the context of 40"):
        decoder.step(0, CONTEXT, decoder.empty_cache())
    with pytest.raises(ValueError, match="outside the context of 40"):
        decoder.read(-1)
    with pytest.raises(ValueError, match="41 tokens for a context of 40"):
        decoder.cache_from(np.zeros((1, 41, 1, 4)), np.zeros((1, 41, 1, 4)))


def test_bfloat16_decodes_near_the_reference() -> None:
    """Weights, cache and multiply-add inputs carry 8 bits: errors of about a percent."""
    weights = random_weights(LLAMA, 1)
    decoder, reference = (
        Decoder(config_of(LLAMA), weights, 16, "bfloat16"),
        Reference(LLAMA, weights),
    )
    decoder.compile()
    cache = decoder.empty_cache()
    for pos, token in enumerate(PROMPT):
        _, logits, cache = decoder.step(token, pos, cache)
        expected = reference.step(token)
        assert (
            np.abs(np.asarray(logits) - expected).max() < 0.05 * np.abs(expected).max()
        )
    assert {tile.dtype.name for tile in jax.tree.leaves(cache)} == {"bfloat16"}
    single = TokenClock(plan_wafer(LLAMA, 16, "float32", WSE3.at()), WSE3.at())
    # Of a layer this small sums are most of its time, on whatever region it lies.
    assert decoder.read(3).sram_read_bytes < 0.7 * single.read(3).sram_read_bytes


def test_estimate_is_near_the_clock() -> None:
    """It ranks regions; within a third of the clock is near enough."""
    for sizes in (LLAMA, Sizes(576, 1536, 30, 9, 3, 64, 49_152)):
        m = plan_wafer(sizes, 256, "float32", WSE3.at()).kinds[0].map
        clock = layer_program(m).read(WSE3.at(), *layer_arguments(m, 255, 0)).end_ticks
        assert abs(estimate.layer_cycles(m, WSE3.at()) / clock - 1) < 0.34


def wafer(width: int, height: int) -> Any:
    size = lambda n: Quantity(n, "published", "a smaller wafer, for the test")  # noqa: E731
    sheet = dataclasses.replace(WSE3, grid_width=size(width), grid_height=size(height))
    return sheet.at()


def test_what_does_not_fit_is_told_to_the_last_one_that_does() -> None:
    """The largest context and number of users run, and one more of either is refused."""
    device = wafer(24, 12)

    def plan(context: int, users: int, wafers: int | None = 1) -> WaferPlan:
        return plan_wafer(LLAMA, context, "float32", device, users=users, wafers=wafers)

    told = "context of 1,000,000 .* for each of 3 users .* tokens would fit one wafer"
    with pytest.raises(DoesNotFit, match=told) as error:
        plan(1_000_000, 3)
    most = error.value.context
    assert most is not None and error.value.users is None
    (kind,) = plan(most, 3).kinds
    assert kind.map.context == most
    assert kind.bytes["cache"] == 3 * kind.map.cache_bytes()
    with pytest.raises(DoesNotFit) as error:
        plan(most + 1, 3)
    assert error.value.context == most and error.value.users == 2
    assert plan(most + 1, 2).users == 2
    # As many as are told, and one more, for a context that is small.
    with pytest.raises(DoesNotFit, match="users would fit one wafer") as error:
        plan(100, 100_000)
    users = error.value.users
    assert users is not None and error.value.wafers is None
    assert plan(100, users).users == users
    with pytest.raises(DoesNotFit) as error:
        plan(100, users + 1)
    # Two wafers hold it, as they have a layer each.
    assert error.value.users == users and error.value.wafers == 2
    assert plan(100, users + 1, wafers=None).wafers == 2


def test_a_model_of_several_wafers() -> None:
    """80 layers of Llama-70B in bfloat16 are 141 GB; a wafer's 883,350 PEs hold 43 GB."""
    sizes = Sizes(8192, 28_672, 80, 64, 8, 128, 128_256, tie_word_embeddings=False)
    plan = plan_wafer(sizes, 4096, "bfloat16", WSE3.at())
    assert plan.wafers == 5 == plan.head_wafer + 1
    assert sorted(plan.of_wafers) == list(plan.of_wafers) and len(plan.regions) == 80
    step = TokenClock(plan, WSE3.at())
    stages = step.stages(4095)
    # Into the first layer from the head's wafer, and four times on.
    crossing = [stage.name for stage in stages if stage.crosses]
    firsts = [plan.of_wafers.index(wafer) for wafer in range(5)]
    assert crossing == [f"layer {layer}" for layer in firsts]
    assert step.read(4095).io_bytes == 5 * 4 * plan.head.rows * plan.head.depth
    with pytest.raises(DoesNotFit, match="5 wafers would hold it") as error:
        plan_wafer(sizes, 4096, "bfloat16", WSE3.at(), wafers=4)
    assert error.value.wafers == 5
    # Turned, 18 layers go on a wafer, of which 15 go upright: six wafers need none turned.
    assert plan.turned
    upright = plan_wafer(sizes, 4096, "bfloat16", WSE3.at(), wafers=6)
    assert not upright.turned and upright.wafers == 6


def test_a_layer_larger_than_a_wafer_is_refused() -> None:
    with pytest.raises(DoesNotFit, match="a layer of .* is too large for one"):
        plan_wafer(Sizes(4096, 4096, 1, 4, 4, 64, 64), 8, "float32", wafer(16, 16))
