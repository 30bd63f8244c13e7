"""Mixtures of experts on small regions against float64 NumPy; their clock, FLOPs and bytes."""

import dataclasses
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from emu import Program
from emu.wse import WSE3
from emu.wse.placement.regions import DoesNotFit
from kernels.formats.coding import as_held
from kernels.formats.formats import FORMATS
from kernels.moe.router import route
from kernels.moe.routing import Routing
from kernels.moe.wafer import (
    ExpertMlp,
    expert_arguments,
    expert_program,
    least_region,
)
from kernels.moe.wafer.layout import MATRICES
from kernels.moe.wafer.router import choose
from kernels.wse.decode.activation import Activation
from kernels.wse.decode.dealing import deal
from kernels.wse.decode.region import Region
from tests.helpers import same_clock
from tests.kernels.moe.wafer_reference import layer, random_experts

WAFER = WSE3.at()
HIDDEN = 22

MIXTURES = {
    "mixtral": ExpertMlp(Routing(8, 2), 14),
    "qwen": ExpertMlp(Routing(16, 4, normalised=False), 6, shared=2),
    "deepseek": ExpertMlp(
        Routing(
            24,
            4,
            score="sigmoid",
            selection_bias=True,
            groups=4,
            chosen_groups=2,
            scale=2.5,
        ),
        7,
        shared=1,
    ),
    "gpt-oss": ExpertMlp(
        Routing(9, 3),
        10,
        activation=Activation("clamped_swiglu", 0.8),
        router_bias=True,
        bias=True,
    ),
    "llama 4": ExpertMlp(
        Routing(6, 1, score="sigmoid", normalised=False, on_input=True), 11, shared=1
    ),
    "softmax with all": ExpertMlp(
        Routing(12, 3, selection_bias=True, groups=3, chosen_groups=2, scale=0.5),
        5,
        shared=1,
        activation=Activation("gelu_tanh"),
        router_bias=True,
        bias=True,
    ),
    "biases on the input": ExpertMlp(
        Routing(5, 2, on_input=True), 9, shared=2, bias=True
    ),
}
# Few PEs, so that a row activates several experts; many, so that several share one; an odd number.
REGIONS = {"2x3": (2, 3), "12x4": (12, 4), "5x6": (5, 6), "24x2": (24, 2)}


# Every form once by default.
PAIRS = [
    *(("mixtral", "2x3"), ("gpt-oss", "12x4"), ("llama 4", "5x6")),
    *(("softmax with all", "5x6"), ("deepseek", "24x2")),
    pytest.param("qwen", "12x4", marks=pytest.mark.slow),
    pytest.param("biases on the input", "24x2", marks=pytest.mark.slow),
    pytest.param("deepseek", "2x3", marks=pytest.mark.slow),
]


def region_of(shape: tuple[int, int], dtype: str = "float32") -> Region:
    return Region(HIDDEN, *shape, eps=1e-5, dtype=dtype)


def tiles_of(mlp: ExpertMlp, region: Region, weights: Any) -> dict[str, jax.Array]:
    rows = (region.rows, region.depth)
    tiles = {"mlp_norm": deal(weights["mlp_norm"], 1, *rows)}
    tiles |= mlp.weight_tiles(weights, region)
    dtypes = {"mlp_norm": region.dtype, **mlp.weight_dtypes(region)}
    return {name: jnp.asarray(tiles[name][0], dtypes[name]) for name in tiles}


def run(program: Program, region: Region, tiles: Any, x: np.ndarray) -> np.ndarray:
    """The token `[hidden]` after the mixture, which every column must hold alike."""
    residual = deal(x, 0, region.rows, region.depth)
    got = np.asarray(program.run(jnp.asarray(residual), tiles))
    assert (got == got[:, :1]).all()
    return got[:, 0].reshape(-1)[:HIDDEN]


def token(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(HIDDEN).astype(np.float32)


@pytest.mark.parametrize(("name", "shape"), PAIRS)
def test_values(name: str, shape: str) -> None:
    """To float32 rounding of sums of a hundred products, whichever experts are chosen."""
    mlp, region = MIXTURES[name], region_of(REGIONS[shape])
    weights = random_experts(mlp, HIDDEN, 1)
    program, tiles = expert_program(mlp, region), tiles_of(mlp, region, weights)
    for seed in range(3):
        x = token(seed)
        expected = layer(mlp, weights, x.astype(np.float64), region.eps)
        got = run(program, region, tiles, x)
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "name", ["deepseek", pytest.param("gpt-oss", marks=pytest.mark.slow)]
)
def test_bfloat16_is_near(name: str) -> None:
    """Weights and inputs of products carry 8 bits; the reference takes the same weights.

    Only where both choose the same experts: a score's error may exchange two that are close.
    """
    mlp, region = MIXTURES[name], region_of((4, 3), "bfloat16")
    weights = random_experts(mlp, HIDDEN, 2)
    rounded = {
        key: np.asarray(jnp.asarray(value, jnp.bfloat16)).astype(np.float32)
        if key not in ("router_bias", "selection_bias")
        else value
        for key, value in weights.items()
    }
    x = token(5)
    expected = layer(mlp, rounded, x.astype(np.float64), region.eps)
    got = run(expert_program(mlp, region), region, tiles_of(mlp, region, rounded), x)
    error = np.abs(got - expected).max()
    assert error < 0.02 * np.abs(expected).max()


def router_program(mlp: ExpertMlp, region: Region) -> Program:
    """Choices of every PE, of a normalised token and all weights."""
    layout = mlp.on(region)
    specs = {"mlp_norm": ("row",), **mlp.weight_specs(region)}
    return Program(lambda x, w: choose(layout, x, w), region.mesh, (("row",), specs))


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("deepseek", "12x4"),
        pytest.param("softmax with all", "24x2", marks=pytest.mark.slow),
        pytest.param("llama 4", "2x3", marks=pytest.mark.slow),
    ],
)
def test_choice_is_the_plain_routers(name: str, shape: str) -> None:
    """On every PE, in the same order, shared experts behind; weights to float32 rounding."""
    mlp, region = MIXTURES[name], region_of(REGIONS[shape])
    weights = random_experts(mlp, HIDDEN, 3)
    program, tiles = router_program(mlp, region), tiles_of(mlp, region, weights)
    routing = mlp.routing
    for seed in range(4):
        x = token(seed)
        dealt = jnp.asarray(deal(x, 0, region.rows, region.depth))
        at, counts = map(np.asarray, program.run(dealt, tiles))
        assert (at == at[:1, :1]).all() and (counts == counts[:1, :1]).all()
        logits = x[None] @ weights["router"][0]
        if mlp.router_bias:
            logits = logits + weights["router_bias"]
        bias = weights["selection_bias"][0] if routing.selection_bias else None
        expected = route(
            jnp.asarray(logits), routing, None if bias is None else jnp.asarray(bias)
        )
        shared = routing.experts + np.arange(mlp.shared)
        assert at[0, 0].tolist() == [*expected.experts[0].tolist(), *shared.tolist()]
        counted = [*np.asarray(expected.weights[0]), *[1.0] * mlp.shared]
        np.testing.assert_allclose(counts[0, 0], counted, rtol=1e-5)


def test_equal_scores_go_to_the_lower_number() -> None:
    mlp, region = MIXTURES["mixtral"], region_of((4, 2))
    weights = random_experts(mlp, HIDDEN, 4)
    weights["router"] = np.zeros_like(weights["router"])
    tiles = tiles_of(mlp, region, weights)
    x = jnp.asarray(deal(token(0), 0, region.rows, region.depth))
    at, counts = router_program(mlp, region).run(x, tiles)
    assert np.asarray(at)[0, 0].tolist() == [0, 1]
    assert np.asarray(counts)[0, 0].tolist() == [0.5, 0.5]


@pytest.mark.parametrize("name", ["deepseek", "gpt-oss"])
def test_flops_are_the_closed_form(name: str) -> None:
    """Of chosen and shared experts and the router, with the padding of every PE's share."""
    mlp, region = MIXTURES[name], region_of((12, 4))
    layout = mlp.on(region)
    pes = region.rows * region.cols
    reading = expert_program(mlp, region).read(WAFER, *expert_arguments(mlp, region))
    flops = reading.tally.by("flops")
    active = mlp.routing.chosen + mlp.shared
    padded = region.rows * region.depth
    width = region.cols * layout.width
    experts = 2 * padded * 3 * active * width
    bias = 2 * padded * active if mlp.bias else 0
    assert flops["wse.chosen_map"] == experts + bias
    assert flops["wse.fmac_map"] == 2 * pes * region.depth * layout.own
    assert reading.end_ticks >= reading.most_busy_ticks["datapath"]


def test_flops_without_padding() -> None:
    """Where all sizes divide: what the model's own multiply-adds are, in all PEs together."""
    mlp = ExpertMlp(Routing(8, 2), 12, shared=1)
    region = Region(24, 8, 4, eps=1e-5)
    reading = expert_program(mlp, region).read(WAFER, *expert_arguments(mlp, region))
    flops = reading.tally.by("flops")
    # Every block of PEs has a router of its own.
    high, wide = mlp.on(region).block
    routers = region.cols // wide
    router = 2 * 24 * 8
    of_experts = mlp.flops(24) - router
    assert flops["wse.chosen_map"] == of_experts == 2 * 24 * 12 * 3 * 3
    assert flops["wse.fmac_map"] == routers * router


def test_all_experts_are_resident() -> None:
    """Bytes of every expert, chosen or not, are the program's; ten times the experts take more."""
    region = region_of((4, 3), "bfloat16")
    few, many = (ExpertMlp(Routing(n, 2), 14) for n in (8, 80))

    def peak(mlp: ExpertMlp) -> int:
        arguments = expert_arguments(mlp, region)
        return expert_program(mlp, region).memory(WAFER, *arguments)["sram"]

    depth, width = region.depth, few.on(region).width
    router = many.on(region).own - few.on(region).own
    resident = 72 * 3 * depth * width + router * depth
    assert peak(many) - peak(few) >= 2 * resident


def test_time_does_not_depend_on_the_choice() -> None:
    """The clock is read without data, so one reading serves every token."""
    mlp, region = MIXTURES["deepseek"], region_of((12, 4))
    program, arguments = expert_program(mlp, region), expert_arguments(mlp, region)
    first = program.read(WAFER, *arguments)
    data = jax.tree.map(lambda x: np.ones(x.shape, x.dtype), arguments)
    assert program.read(WAFER, *data).end_ticks == first.end_ticks
    bands = program.read_bands(WSE3, *arguments)
    low, nominal, high = (bands[b].end_ticks for b in ("low", "nominal", "high"))
    assert low < nominal == first.end_ticks < high


def test_estimate_is_near_the_clock() -> None:
    """It ranks regions; within a third of the clock is near enough."""
    for rows, cols in ((64, 48), (256, 128)):
        region = Region(2048, rows, cols, 1e-5, "bfloat16")
        mlp = ExpertMlp(Routing(64, 6), 1408, shared=2)
        arguments = expert_arguments(mlp, region)
        reading = expert_program(mlp, region).read(
            WAFER, *arguments, check_memory=False
        )
        assert abs(mlp.cycles(region, WAFER) / reading.end_ticks - 1) < 0.34


CODED = [name for name, held in FORMATS.items() if held.is_coded]
# Two shared experts that are one matrix of the model, whose blocks end within the second; words of
# four codes. A scale for a column, biases, and an odd number of outputs.
CHEAP_CODES = (("qwen", "mxfp4"), ("gpt-oss", "fp8"))


@pytest.mark.parametrize(
    ("name", "held"),
    [
        case if case in CHEAP_CODES else pytest.param(*case, marks=pytest.mark.slow)
        for case in itertools.product(("qwen", "gpt-oss", "deepseek"), CODED)
    ],
)
def test_weights_in_codes(name: str, held: str) -> None:
    """To float32 rounding those of the numbers that the codes of whole matrices stand for."""
    region = dataclasses.replace(region_of((2, 3)), held=FORMATS[held])
    check_values(MIXTURES[name], region, seed=1)


def test_short_pieces_of_codes_give_the_same_numbers() -> None:
    """A piece of a few codes instead of all at once: the same bits, and fewer bytes of buffers."""
    mlp, held = MIXTURES["deepseek"], FORMATS["mxfp8"]
    whole = dataclasses.replace(region_of((2, 3)), held=held)
    short = dataclasses.replace(whole, piece_codes=16)
    weights, x = random_experts(mlp, HIDDEN, 1), token(0)
    found, peaks, ticks = [], [], []
    for region in (whole, short):
        program = expert_program(mlp, region)
        found.append(run(program, region, tiles_of(mlp, region, weights), x))
        arguments = expert_arguments(mlp, region)
        peaks.append(program.memory(WSE3.at(), *arguments)["sram"])
        ticks.append(program.read(WSE3.at(), *arguments).end_ticks)
    assert np.array_equal(*found)
    assert peaks[1] < peaks[0] and ticks[1] > ticks[0]


def check_values(mlp: ExpertMlp, region: Region, seed: int) -> None:
    """A token's against float64 of the numbers that codes of whole matrices stand for."""
    format_ = region.held
    assert format_ is not None
    weights = random_experts(mlp, HIDDEN, seed)
    of_numbers = dict(weights)
    for matrix in MATRICES:
        if matrix in weights:
            of_numbers[matrix] = np.asarray(as_held(weights[matrix], format_))
    x = token(0)
    expected = layer(mlp, of_numbers, x.astype(np.float64), region.eps)
    program, tiles = expert_program(mlp, region), tiles_of(mlp, region, weights)
    got = run(program, region, tiles, x)
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


# Slices of the hidden vector that end with blocks: of 32 in 7 of 5 features, with a last block of
# 8, with biases; of two shared experts that are one matrix; of 128 in 6 of 22 and one more.
CUT = (
    (ExpertMlp(Routing(9, 3), 40, bias=True), "mxfp8", 9, 32),
    (ExpertMlp(Routing(5, 2), 64, shared=2), "mxfp4", 14, 32),
    (ExpertMlp(Routing(5, 2), 150), "fp8_block", 7, 128),
)


@pytest.mark.parametrize(
    ("mlp", "held", "cols", "cut"),
    [CUT[0], *(pytest.param(*case, marks=pytest.mark.slow) for case in CUT[1:])],
)
def test_slices_that_end_with_blocks(mlp, held, cols, cut) -> None:
    """Values are those of the numbers held; a slice has one scale where a block has one."""
    format_ = FORMATS[held]
    region = dataclasses.replace(region_of((2, cols)), held=format_)
    layout = mlp.on(region)
    assert layout.cut == cut
    of_tiles = {name: tile.scales(format_) for name, tile in layout.matrices.items()}
    across = 2 if held == "fp8_block" else 2 * layout.width
    assert of_tiles["experts_gate_up"][1] == across
    assert of_tiles["experts_down"][0] == 1
    check_values(mlp, region, seed=2)


def test_slices_follow_each_other_where_ending_with_blocks_takes_more_pes() -> None:
    """40 hidden features in slices of 5 are 8; 32 in 7 and 8 in two are 9. Blocks of two experts
    that are one matrix of 80 rows end elsewhere in the second."""
    region = dataclasses.replace(region_of((2, 8)), held=FORMATS["mxfp8"])
    assert ExpertMlp(Routing(5, 2), 40).on(region).cut is None
    wider = dataclasses.replace(region, cols=9)
    assert ExpertMlp(Routing(5, 2), 40).on(wider).cut == 32
    assert ExpertMlp(Routing(5, 2), 40, shared=2).on(wider).cut is None
    assert ExpertMlp(Routing(5, 2), 36).on(wider).cut is None  # four to a slice


def test_bytes_in_codes() -> None:
    """Of a PE: codes of every expert, and scales as many as blocks that a slice may touch."""
    mlp = ExpertMlp(Routing(10, 2), 12, shared=1)
    plain = Region(26, 2, 3, eps=1e-5)
    depth, width, tiles = 13, 4, 11
    numbers = tiles * 3 * depth * width
    others = mlp.weight_bytes(plain) - 4 * numbers

    def nbytes(held: str) -> int:
        region = dataclasses.replace(plain, held=FORMATS[held])
        return mlp.weight_bytes(region) - others

    # Rows of down, 13 outputs, are filled up to whole words.
    gate_up, down = depth * 2 * width, width * (depth + 1)
    # A scale for each column: of gate and up in each PE, of down for the four experts, of eleven,
    # that one of the three columns of a router's block holds.
    assert mlp.on(plain).block == (2, 3)
    of_down = 4 * 4 * (depth + 1)
    assert nbytes("int8") == tiles * (gate_up + down + 4 * 2 * width) + of_down
    assert nbytes("fp8_tensor") == tiles * (gate_up + down + 4 * 3)
    # A slice of 13 features may begin anywhere in a block of 32; one of 4 hidden ones ends in one.
    of_scales = gate_up + depth + 1
    assert nbytes("mxfp8") == tiles * (gate_up + down + of_scales)
    words = depth * 2 + width * 4
    assert nbytes("mxfp4") == tiles * (2 * words + of_scales)


# DeepSeek-V3 (arXiv:2412.19437): 256 experts of 2048 and a shared one, 8 chosen of 4 groups of 8.
DEEPSEEK = ExpertMlp(
    Routing(
        256,
        8,
        score="sigmoid",
        selection_bias=True,
        groups=8,
        chosen_groups=4,
        scale=2.5,
    ),
    2048,
    shared=1,
)


@pytest.mark.parametrize(
    ("held", "rows", "cols"),
    [
        pytest.param(None, 1024, 512, marks=pytest.mark.slow),
        ("mxfp8", 896, 512),
    ],
)
def test_a_layer_of_deepseek_v3_fits(held: str | None, rows: int, cols: int) -> None:
    """All 257 experts beside the code, 7168 x 2048 x 3 of each; FLOPs are the model's own."""
    coded = None if held is None else FORMATS[held]
    region = Region(7168, rows, cols, 1e-6, "bfloat16", coded)
    program, arguments = (
        expert_program(DEEPSEEK, region),
        expert_arguments(DEEPSEEK, region),
    )
    flops = program.read(WAFER, *arguments).tally.by("flops")
    experts = flops["wse.chosen_map"] if held is None else flops["wse.fmac_map"]
    if held is not None:  # the router's are of the same instruction
        experts -= 2 * rows * region.depth * DEEPSEEK.on(region).own * cols
    assert experts == 2 * 9 * 3 * 7168 * 2048
    per_pe = 257 * 3 * 7168 * 2048 // (rows * cols) * (2 if held is None else 1)
    peak = program.memory(WAFER, *arguments)["sram"]
    assert per_pe < peak < WAFER.sram_bytes - WAFER.code_bytes


@pytest.mark.slow
def test_the_same_on_devices() -> None:
    """Eight PEs as eight devices, and stepped clocks as jumped ones."""
    mlp, region = MIXTURES["deepseek"], region_of((4, 2))
    weights = random_experts(mlp, HIDDEN, 6)
    program, tiles = expert_program(mlp, region), tiles_of(mlp, region, weights)
    residual = jnp.asarray(deal(token(1), 0, region.rows, region.depth))
    batched = np.asarray(program.run(residual, tiles))
    sharded = np.asarray(program.sharded(check_vma=True)(residual, tiles))
    np.testing.assert_allclose(sharded, batched, rtol=2e-6, atol=2e-6)
    jumped = program.read(WAFER, residual, tiles)
    same_clock(jumped, program.read(WAFER, residual, tiles, jump=False))


def test_least_region_of_deepseek_v3() -> None:
    """In codes it holds all experts beside the code, and its PEs are nine tenths full.

    Regions of 5 % more PEs are taken where they are quicker.
    """
    held = FORMATS["mxfp8"]
    region = least_region(DEEPSEEK, 7168, 1e-6, "bfloat16", WAFER, held)
    room = WAFER.sram_bytes - WAFER.code_bytes
    arguments = expert_arguments(DEEPSEEK, region)
    peak = expert_program(DEEPSEEK, region).memory(WAFER, *arguments)["sram"]
    assert 0.9 * room < peak <= room
    bytes_of_experts = 257 * 3 * 7168 * 2048
    assert bytes_of_experts < region.rows * region.cols * room
    assert region.rows <= WAFER.grid_height and region.cols <= WAFER.grid_width


def test_too_many_experts_for_a_wafer_are_refused() -> None:
    """DeepSeek-V3's in float32 are 45 GB; a wafer's 883,350 PEs have 39.7 beside their code."""
    with pytest.raises(DoesNotFit, match="257 experts of 7168 x 2048 take 45,2"):
        least_region(DEEPSEEK, 7168, 1e-6, "float32", WAFER)
