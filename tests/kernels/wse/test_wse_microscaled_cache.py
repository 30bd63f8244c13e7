"""A layer's cache in MXFP8: a token's keys and values by whole blocks of their heads."""

import dataclasses

import numpy as np
import pytest

from emu.errors import EmulationError
from kernels.formats.coding import as_held
from kernels.formats.formats import FORMATS
from kernels.wse.decode import layout
from kernels.wse.decode.cache_format import Blocks
from kernels.wse.decode.form import DecodeForm
from kernels.wse.decode.held import Held
from kernels.wse.decode.mapping import LayerMap
from tests.kernels.wse.latent_reference import gated
from tests.kernels.wse.layer_reference import LayerReference, random_layer, run_layer
from tests.kernels.wse.reference import Array

MXFP8 = FORMATS["mxfp8"]
HEADS = 2


def layer_map(head_dim: int, parts: int, rotary_dim: int | None) -> LayerMap:
    return LayerMap(
        hidden=40,
        ffn=26,
        heads=2 * HEADS,
        kv_heads=HEADS,
        head_dim=head_dim,
        eps=1e-5,
        qk_norm=False,
        context=6,
        rows=2,
        parts=parts,
        form=DecodeForm(rotary_dim=rotary_dim),
        held=Held(cache=MXFP8),
    )


def of_features(x: Array) -> Array:
    """What MXFP8 makes of the last axis."""
    columns = np.asarray(x, np.float32)[..., None]
    return np.asarray(as_held(columns, MXFP8), np.float64)[..., 0]


class Remembered(list[Array]):
    """Keys or values as they are held."""

    def append(self, value: Array) -> None:
        super().append(of_features(value))


# Halves of a head that are one and a half blocks, so that one block has features of both; slices of
# which several are part of a block; features that do not turn.
SIZES = ((96, 2, None), (128, 4, None), (64, 4, 32), (64, 8, 16))


@pytest.mark.parametrize(
    "size", [SIZES[0], *(pytest.param(x, marks=pytest.mark.slow) for x in SIZES[1:])]
)
def test_values(size: tuple[int, int, int | None]) -> None:
    """To float32 rounding; the codes change the result ten thousand times as much."""
    layer = layer_map(*size)
    weights = random_layer(layer, 3)
    reference = LayerReference(layer, weights, gated(weights))
    reference.k, reference.v = Remembered(), Remembered()
    tokens = np.random.default_rng(7).standard_normal((4, layer.hidden))
    expected = np.stack([reference.step(x) for x in tokens])
    got = run_layer(layer, weights, tokens)
    np.testing.assert_allclose(got, expected, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("size", SIZES)
def test_a_prefilled_cache(size: tuple[int, int, int | None]) -> None:
    """Codes times powers are the numbers of whole heads, dealt as numbers are."""
    layer = layer_map(*size)
    plain = dataclasses.replace(layer, held=Held())
    rng = np.random.default_rng(5)
    k, v = rng.standard_normal((2, 1, 6, HEADS, layer.head_dim)).astype(np.float32)
    tiles = layout.coded_cache_tiles(k, v, layer, MXFP8)
    wanted = layout.cache_tiles(of_features(k), of_features(v), plain)
    shapes, dtypes = layer.cache_shapes(), layer.cache_dtypes()
    assert set(tiles) == set(shapes)
    for name, tile in tiles.items():
        assert tile.shape == (1, layer.rows, layer.cols, *shapes[name])
        assert tile.dtype == np.dtype(dtypes[name])
    run = layer.cache_blocks.run
    of_keys, of_values = (
        np.repeat(tiles[name].astype(np.float32), run, axis=-2)
        for name in ("k_powers", "v_powers")
    )
    np.testing.assert_array_equal(tiles["k"].astype(np.float32) * of_keys, wanted["k"])
    of_values = np.swapaxes(of_values, -1, -2)
    np.testing.assert_array_equal(
        tiles["v"].astype(np.float32) * of_values, wanted["v"]
    )


def test_runs_and_bytes() -> None:
    """Of 128 features on 8 columns 16 each, from `8 j` on and from `64 + 8 j` on."""
    layer = layer_map(128, 8, None)
    assert layer.cache_blocks == Blocks(32, starts=(0, 64), widths=(8, 8))
    assert layer.cache_blocks.runs == ((0, 8), (64, 8))
    assert layer.cache_bytes() == 2 * layer.held_slots * (16 + 2)
    # With 32 that turn there are none but 32 that stay, of which a column has 4 and 8.
    layer = layer_map(64, 4, 32)
    assert layer.cache_blocks.runs == ((0, 4), (16, 4), (32, 8), (36, 8))


def test_float16_and_latents_are_refused() -> None:
    with pytest.raises(
        EmulationError, match="a cache is held as mxfp8, must be so with"
    ):
        dataclasses.replace(layer_map(64, 2, None), dtype="float16")
