"""A decode layer with latent attention: values, FLOPs, bytes and what is refused."""

import dataclasses
import re
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from emu.errors import LimitExceeded
from emu.wse import WSE3
from emu.wse.placement.regions import DoesNotFit
from kernels.attention.layers import DecoderVariant
from kernels.latent_heads import LatentHeads
from kernels.moe.routing import Routing
from kernels.moe.wafer import ExpertMlp
from kernels.variants.sliding_window import sliding_window
from kernels.wse.decode import layout
from kernels.wse.decode.demand import LayerKind
from kernels.wse.decode.form import DecodeForm
from kernels.wse.decode.layer import layer_arguments, layer_program
from kernels.wse.decode.layer_plan import LayerStep, plan_layer
from kernels.wse.decode.mapping import LayerMap
from tests.kernels.moe.wafer_reference import mixture, random_experts
from tests.kernels.wse.latent_reference import (
    LatentReference,
    gated,
    random_latent,
    random_mlp,
)
from tests.kernels.wse.layer_reference import run_layer
from tests.kernels.wse.reference import Sizes

WAFER = WSE3.at()
HIDDEN, FFN, HEADS, CONTEXT = 22, 26, 6, 9
FORM = LatentHeads(query_rank=10, rank=12, plain=6, turned=8, value_dim=5)


def latent_layer(
    rows: int, groups: int, parts: int, dtype: str = "float32", **form: Any
) -> LayerMap:
    return LayerMap(
        hidden=HIDDEN,
        ffn=FFN,
        heads=HEADS,
        kv_heads=groups,
        head_dim=FORM.cached_width,
        eps=1e-5,
        qk_norm=False,
        context=CONTEXT,
        rows=rows,
        parts=parts,
        dtype=dtype,
        form=dataclasses.replace(DecodeForm(latent=FORM), **form),
    )


def random_dense(seed: int) -> dict[str, Any]:
    latent = random_latent(FORM, HIDDEN, HEADS, seed)
    return latent | random_mlp(HIDDEN, FFN, seed + 1)


def tokens(count: int) -> np.ndarray:
    return np.random.default_rng(7).standard_normal((count, HIDDEN))


# Rows that have several heads or part of one; a group with a head of zeros; columns of which the
# last have fewer features; as few PEs as there are.
REGIONS = [
    (5, 4, 2),
    (40, 1, 4),
    pytest.param((4, 2, 2), marks=pytest.mark.slow),
    pytest.param((3, 6, 1), marks=pytest.mark.slow),
    pytest.param((1, 1, 1), marks=pytest.mark.slow),
]


@pytest.mark.parametrize("region", REGIONS)
def test_values(region: tuple[int, int, int]) -> None:
    """To float32 rounding of sums of a few dozen products, the cache growing from nothing."""
    layer = latent_layer(*region)
    weights = random_dense(3)
    reference = LatentReference(layer, weights, gated(weights))
    x = tokens(6)
    expected = np.stack([reference.step(token) for token in x])
    got = run_layer(layer, weights, x)
    np.testing.assert_allclose(got, expected, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("region", [(11, 4, 2), (2, 1, 4)])
def test_values_of_queries_without_a_latent(region: tuple[int, int, int]) -> None:
    """Rows have part of a head's features, or several heads; columns have parts of all."""
    form = dataclasses.replace(FORM, query_rank=None)
    layer = latent_layer(*region, latent=form)
    latent = random_latent(form, HIDDEN, HEADS, 9)
    weights = latent | random_mlp(HIDDEN, FFN, 4)
    reference = LatentReference(layer, weights, gated(weights))
    x = tokens(3)
    expected = np.stack([reference.step(token) for token in x])
    got = run_layer(layer, weights, x)
    np.testing.assert_allclose(got, expected, rtol=2e-5, atol=2e-5)


def test_values_with_experts_and_a_scale_of_scores() -> None:
    mlp = ExpertMlp(
        Routing(
            8,
            3,
            score="sigmoid",
            selection_bias=True,
            groups=4,
            chosen_groups=2,
            scale=2.5,
        ),
        ffn=6,
        shared=1,
    )
    layer = latent_layer(4, 3, 2, mlp=mlp, score_scale=0.4)
    latent = random_latent(FORM, HIDDEN, HEADS, 5)
    weights = random_experts(mlp, HIDDEN, 6) | latent
    reference = LatentReference(layer, weights, lambda h: mixture(mlp, weights, h))
    x = tokens(4)
    expected = np.stack([reference.step(token) for token in x])
    got = run_layer(layer, weights, x)
    np.testing.assert_allclose(got, expected, rtol=2e-5, atol=2e-5)


def test_bfloat16_is_near() -> None:
    """Weights, cache and inputs of products carry 8 bits, through nine products in a row."""
    layer = latent_layer(4, 2, 2, dtype="bfloat16")
    weights = {
        name: np.asarray(jnp.asarray(x, jnp.bfloat16)).astype(np.float32)
        for name, x in random_dense(3).items()
    }
    reference = LatentReference(layer, weights, gated(weights))
    x = tokens(4)
    expected = np.stack([reference.step(token) for token in x])
    error = np.abs(run_layer(layer, weights, x) - expected).max()
    assert 0 < error < 9 * 2**-8 * np.abs(expected).max()


def test_a_prefilled_cache_is_one_that_grew() -> None:
    """Latents after their norm, and keys after RoPE, on every group's PEs."""
    layer = latent_layer(4, 2, 2)
    weights = random_dense(8)
    reference = LatentReference(layer, weights, gated(weights))
    *before, last = tokens(7)
    for token in before:
        reference.step(token)
    latents, turned = np.split(np.stack(reference.cached), [FORM.rank], axis=1)
    tiles = layout.cache_tiles(turned[None], latents[None], layer)
    cache = {name: jnp.asarray(x[0], layer.dtype) for name, x in tiles.items()}
    (got,) = run_layer(layer, weights, last[None], cache, first=6)
    np.testing.assert_allclose(got, reference.step(last), rtol=2e-5, atol=2e-5)


def unpadded(query_rank: int | None = 12) -> LayerMap:
    """Eight rows and four columns, which divide all that they share."""
    form = LatentHeads(query_rank, rank=12, plain=8, turned=8, value_dim=8)
    return LayerMap(
        hidden=24,
        ffn=32,
        heads=4,
        kv_heads=2,
        head_dim=form.cached_width,
        eps=1e-5,
        qk_norm=False,
        context=48,
        rows=8,
        parts=2,
        form=DecodeForm(latent=form),
    )


@pytest.mark.parametrize("query_rank", [12, None])
def test_flops_are_the_closed_form(query_rank: int | None) -> None:
    layer, pos = unpadded(query_rank), 13
    reading = layer_program(layer).read(WAFER, *layer_arguments(layer, pos, 2))
    flops = reading.tally.by("flops")
    of_products = ("wse.fmac_map", "wse.score_map", "wse.value_map")
    of_mlp = 2 * 3 * 24 * 32
    found = sum(flops[name] for name in of_products) - of_mlp
    # Written out: both down-projections in each of two groups, queries, what absorbs them, scores
    # and means of 14 latents, values, output.
    down, up = 2 * 24 * 20, 4 * 24 * 16
    if query_rank is not None:
        down, up = 2 * 24 * (12 + 20), 4 * 12 * 16
    absorb, attend, values = 4 * 8 * 12, 4 * 14 * (20 + 12), 4 * 12 * 8
    assert found == 2 * (down + up + absorb + attend + values + 4 * 8 * 24)


def test_bytes_are_those_of_the_program() -> None:
    """Every weight once, but for what groups repeat, and a latent once with its turned key."""
    layer = unpadded()
    pes = 8 * 4
    # In each of two groups, and norms of latents in each of 8 rows as well.
    repeated = 2 * 24 * (12 + 20) + 2 * 8 * (12 + 12)
    dealt = 12 * 4 * 16 + 12 * 4 * (8 + 8) + 4 * 8 * 24 + 3 * 24 * 32
    of_norms = 2 * 24 * 4  # of the residual stream, in each of 4 columns
    assert layer.weight_bytes() * pes == 4 * (repeated + dealt + of_norms)
    assert layer.cache_bytes() * pes == 4 * 2 * 48 * (12 + 8)
    peak = layer_program(layer).memory(WAFER, *layer_arguments(layer, 0, 0))["sram"]
    resident = layer.weight_bytes() + layer.cache_bytes()
    assert resident + layer.least_buffer_bytes() < peak < 2 * resident


def test_slow_strides_are_passed_over() -> None:
    """A value's elements are as far apart as a PE has slots, and 4 modulo 8 is slow."""
    assert dataclasses.replace(unpadded(), context=96).held_slots == 13


SIZES = Sizes(512, 384, 1, 16, 16, 24, 1000)
LARGER = LatentHeads(query_rank=96, rank=64, plain=32, turned=16, value_dim=32)


def test_plan_of_a_layer() -> None:
    """Regions grow until every expert's slice fits; cycles grow with the tokens in the cache."""
    mlp = ExpertMlp(Routing(64, 4), 384)
    kind = LayerKind(DecodeForm(mlp=mlp, latent=LARGER))
    placed = plan_layer(SIZES, 64, "bfloat16", WAFER, kind)
    assert sum(placed.bytes.values()) <= WAFER.sram_bytes
    pes = placed.map.rows * placed.map.cols
    assert placed.bytes["weights"] * pes >= 2 * 64 * 3 * 512 * 384
    late, early = (LayerStep(placed, pos).read(WAFER).end_ticks for pos in (63, 0))
    assert late > early


def test_a_layer_that_does_not_fit_is_refused() -> None:
    mlp = ExpertMlp(Routing(8192, 4), 4096)
    kind = LayerKind(DecodeForm(mlp=mlp, latent=LARGER))
    least = 2 * 8192 * 3 * 512 * 4096
    with pytest.raises(DoesNotFit, match="a layer with a context of 64") as told:
        plan_layer(SIZES, 64, "bfloat16", WAFER, kind)
    found = re.search(r"at least ([\d,]+) bytes", str(told.value))
    assert found is not None and int(found[1].replace(",", "")) > least


def test_a_context_that_would_fit_is_told() -> None:
    """512 rows at most, one for each element of the residual stream, of 127 slots at most."""
    kind = LayerKind(DecodeForm(latent=LARGER))
    with pytest.raises(DoesNotFit, match="a context of 50,000 tokens would") as told:
        plan_layer(SIZES, 100_000, "bfloat16", WAFER, kind)
    assert told.value.context == 50_000


def test_what_latent_layers_do_not_have_is_refused() -> None:
    layer = latent_layer(4, 2, 2)
    with pytest.raises(LimitExceeded, match="head_dim is 21, must be 20: a latent"):
        dataclasses.replace(layer, head_dim=21)
    with pytest.raises(LimitExceeded, match="7 groups of 2 columns must be at most 6"):
        dataclasses.replace(layer, kv_heads=7)
    with pytest.raises(LimitExceeded, match="latent attention with qk_norm, must"):
        dataclasses.replace(layer, qk_norm=True)
    variant = DecoderVariant(sliding_window(4).reading)
    with pytest.raises(LimitExceeded, match="in a layer with latent attention"):
        variant.own_cycles(layer, WAFER)
