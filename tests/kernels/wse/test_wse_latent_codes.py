"""Latent attention with its matrices in codes: what PEs hold, and that they compute with that."""

import dataclasses
import itertools
from typing import Any

import numpy as np
import pytest

from emu.errors import EmulationError
from kernels.formats.coding import as_held
from kernels.formats.formats import FORMATS
from kernels.latent_heads import LatentHeads
from kernels.wse.decode import layout
from kernels.wse.decode.form import DecodeForm
from kernels.wse.decode.held import Held, scale_of
from kernels.wse.decode.mapping import LayerMap
from tests.kernels.wse.latent_reference import (
    LatentReference,
    gated,
    random_latent,
    random_mlp,
)
from tests.kernels.wse.layer_reference import run_layer
from tests.kernels.wse.reference import Array
from tests.kernels.wse.test_wse_coded import numbers_of, unpacked

CODED = [name for name, held in FORMATS.items() if held.is_coded]
HIDDEN, FFN, HEADS = 80, 26, 6
# Latents of more than a block of 32, whose slices end within blocks; heads that share none.
FORM = LatentHeads(query_rank=42, rank=72, plain=6, turned=8, value_dim=10)


def latent_layer(form: LatentHeads, rows: int, groups: int, parts: int) -> LayerMap:
    return LayerMap(
        hidden=HIDDEN,
        ffn=FFN,
        heads=HEADS,
        kv_heads=groups,
        head_dim=form.cached_width,
        eps=1e-5,
        qk_norm=False,
        context=6,
        rows=rows,
        parts=parts,
        form=DecodeForm(latent=form),
    )


def random_weights(form: LatentHeads) -> dict[str, Any]:
    return random_latent(form, HIDDEN, HEADS, 3) | random_mlp(HIDDEN, FFN, 4)


def as_numbers(weights: dict[str, Any], held: str) -> dict[str, Any]:
    """The same with the numbers that matrices in codes stand for."""
    coded = {
        name: np.asarray(as_held(weights[name], FORMATS[held]))
        for name in layout.MATRICES
        if name in weights
    }
    return weights | coded


# Rows that have several heads, or part of one; with a latent of queries and without.
REGIONS = ((2, 2, 2), (17, 2, 4))
# Rows of five features: seven for each block of 32, and four for the 16 behind two of them.
ENDING = (18, 2, 2)
CHEAP_TILES = (("mxfp8", 42, REGIONS[0]), ("fp8_block", 42, REGIONS[1]))


@pytest.mark.parametrize(
    ("held", "query_rank", "region"),
    [
        case if case in CHEAP_TILES else pytest.param(*case, marks=pytest.mark.slow)
        for case in itertools.product(CODED, (42, None), REGIONS)
    ],
)
def test_pes_hold_just_the_numbers_of_whole_matrices(held, query_rank, region) -> None:
    form = dataclasses.replace(FORM, query_rank=query_rank)
    plain, weights = latent_layer(form, *region), random_weights(form)
    layer = dataclasses.replace(plain, held=Held(FORMATS[held]))
    wanted = layout.layer_weights(as_numbers(weights, held), plain)
    found = layout.layer_weights(weights, layer)
    shapes, dtypes = layer.weight_shapes(), layer.weight_dtypes()
    assert set(found) == set(shapes)
    names = {"latent_down", "absorb", "values_up", "out", "gate_up", "down"}
    assert set(layer.matrices) == names | ({"query_up"} if query_rank else set())
    for name, tile in layer.matrices.items():
        codes, scales = found[name], found[scale_of(name)]
        for one, tiles in ((name, codes), (scale_of(name), scales)):
            assert tiles.shape == (1, layer.rows, layer.cols, *shapes[one])
            assert tiles.dtype == np.dtype(dtypes[one])
        if FORMATS[held].element_bits == 4:
            codes = unpacked(codes, tile, FORMATS[held].element)
        np.testing.assert_array_equal(numbers_of(codes, scales, tile), wanted[name])


@pytest.mark.parametrize(
    ("held", "query_rank", "region"),
    [
        case if case[2] == ENDING else pytest.param(*case, marks=pytest.mark.slow)
        for case in (
            ("mxfp8", 42, ENDING),
            ("mxfp8", 42, REGIONS[0]),
            ("mxfp4", None, REGIONS[1]),
            ("int4", 42, REGIONS[1]),
            ("fp8", 42, REGIONS[0]),
            ("fp8_block", None, REGIONS[0]),
        )
    ],
)
def test_values(held, query_rank, region) -> None:
    """To float32 rounding of some hundred products those of the numbers held."""
    form = dataclasses.replace(FORM, query_rank=query_rank)
    weights = random_weights(form)
    layer = latent_layer(form, *region)
    layer = dataclasses.replace(layer, held=Held(FORMATS[held]))
    assert layer.cut == (32 if region == ENDING else None)
    of_numbers = as_numbers(weights, held)
    reference = LatentReference(layer, of_numbers, gated(of_numbers))
    tokens = np.random.default_rng(7).standard_normal((3, HIDDEN))
    expected = np.stack([reference.step(x) for x in tokens])
    got = run_layer(layer, weights, tokens)
    np.testing.assert_allclose(got, expected, rtol=2e-5, atol=2e-5)


def test_bytes_of_a_pe() -> None:
    """Of one row and one group of two columns: codes, and scales of the blocks they touch."""
    plain = latent_layer(FORM, 1, 1, 2)
    # Inputs and outputs; of latents half of each on a column, whose 36 and 21 end within blocks.
    down = HIDDEN, 21 + 36 + 4
    query_up = 21, HEADS * (6 + 8)
    absorb = HEADS * 6, 36
    values_up = HEADS * 36, 10
    out = HEADS * 5, HIDDEN
    mlp = (HIDDEN, 2 * 13), (13, HIDDEN)
    matrices = [down, query_up, absorb, values_up, out, *mlp]
    codes = sum(inputs * outputs for inputs, outputs in matrices)
    others = plain.weight_bytes() - 4 * codes

    def nbytes(held: str) -> int:
        layer = dataclasses.replace(plain, held=Held(FORMATS[held]))
        return layer.weight_bytes() - others

    # A scale for each output of each head; turned, for each input.
    of_columns = 61 + 84 + HEADS * 10 + HIDDEN + 26 + HIDDEN
    assert nbytes("fp8") == codes + 4 * (of_columns + absorb[0])
    # No block of 32 ends within 16 of 80 rows, 1 of 21, 4 of 36 or 5 of a head's 10; all of 26
    # hidden features are in one.
    of_blocks = 5 * 61 + 21 * 84 + HEADS * 9 * 10 + HEADS * 5 * HIDDEN
    of_blocks += 5 * 26 + HIDDEN
    assert nbytes("mxfp8") == codes + of_blocks + absorb[0] * 9


class HeldReference(LatentReference):
    """The same with a token's latent and its turned key in codes, by a scale each."""

    held = FORMATS["fp8"]

    def remember(self, latent: Array, turned: Array) -> Array:
        parts = [np.asarray(as_held(x[:, None], self.held)) for x in (latent, turned)]
        return np.concatenate(parts)[:, 0].astype(np.float64)


@pytest.mark.parametrize(
    ("held", "region"),
    [
        ("fp8", REGIONS[1]),
        pytest.param("fp8", REGIONS[0], marks=pytest.mark.slow),
        pytest.param("int8", REGIONS[0], marks=pytest.mark.slow),
    ],
)
def test_a_cache_in_codes(held, region) -> None:
    """To float32 rounding; the codes themselves change the result a thousand times as much."""
    weights, plain = random_weights(FORM), latent_layer(FORM, *region)
    layer = dataclasses.replace(plain, held=Held(cache=FORMATS[held]))
    reference = HeldReference(layer, weights, gated(weights))
    reference.held = FORMATS[held]
    tokens = np.random.default_rng(7).standard_normal((5, HIDDEN))
    expected = np.stack([reference.step(x) for x in tokens])
    got = run_layer(layer, weights, tokens)
    np.testing.assert_allclose(got, expected, rtol=2e-5, atol=2e-5)
    # A byte a feature, and for each token a float32 of its latent and of its turned key.
    dims = FORM.cached_width // layer.parts
    assert layer.cache_bytes() == layer.held_slots * (dims + 2 * 4)


def test_a_prefilled_cache_in_codes() -> None:
    """Codes and scales are those of a token's whole vectors, on the row that has it."""
    layer = latent_layer(FORM, 4, 2, 2)
    layer = dataclasses.replace(layer, held=Held(cache=FORMATS["fp8"]))
    rng = np.random.default_rng(5)
    turned, latent = (
        rng.standard_normal((1, 6, n)).astype(np.float32)
        for n in (FORM.turned, FORM.rank)
    )
    tiles = layout.coded_cache_tiles(turned, latent, layer, FORMATS["fp8"])
    shapes, dtypes = layer.cache_shapes(), layer.cache_dtypes()
    assert set(tiles) == set(shapes) == {"k", "k_scale"}
    for name, tile in tiles.items():
        assert tile.shape == (1, layer.rows, layer.cols, *shapes[name])
        assert tile.dtype == np.dtype(dtypes[name])
    # Position 5 is in slot 1 of row 1; the second column of a group has the latent's second half.
    codes, scales = (tiles[x][0, 1, 1, :, 1].astype(np.float32) for x in shapes)
    wanted = np.asarray(as_held(latent[0, 5, :, None], FORMATS["fp8"]))[36:, 0]
    np.testing.assert_array_equal(codes[:36] * scales[0], wanted)
    assert scales[1] == np.float32(np.abs(turned[0, 5]).max()) / np.float32(448)


def test_float16_is_refused() -> None:
    layer = dataclasses.replace(latent_layer(FORM, 2, 2, 2), dtype="float16")
    with pytest.raises(EmulationError, match="must be with bfloat16 or float32"):
        dataclasses.replace(layer, held=Held(FORMATS["fp8"]))
