"""Which PE takes which number: the closed form against the cache as decode's layout deals it."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.formats.formats import FORMATS, of_activations
from kernels.wse.decode import layout
from kernels.wse.decode.layout import CodedTokens
from kernels.wse.decode.mapping import LayerMap
from models.configurations import published
from models.held_bytes import cache_bytes_a_token
from models.machines.handoff.fields import (
    Field,
    as_format,
    column_bytes,
    fields_of,
    token_bytes,
)
from models.precision import precision
from tests.models.machines.handoff.maps import (
    REGIONS,
    SMALL_MLA,
    WIDE,
    numbered,
    of_heads,
    of_latents,
)

LAW = settings(max_examples=60, derandomize=True, deadline=None)


def filled(layer: LayerMap, field: Field, x: np.ndarray, tile: np.ndarray) -> None:
    """Puts a field's numbers `[tokens, count]` where its takes say; twice is an error."""
    number, column, index = field.takes.T
    for position, own in enumerate(x):
        slot, row = divmod(position, layer.rows)
        # Values lie a slot over all features, all else a feature over all slots.
        place = (slot, index) if field.tile == "v" else (index, slot)
        assert not tile[row, column, *place].any()
        tile[row, column, *place] = own[number]


def tiles_of(layer: LayerMap, sent, x: list[np.ndarray]) -> dict[str, np.ndarray]:
    """The cache of a region, from a token's fields, each `[tokens, count]`."""
    slots = layer.held_slots
    found = {}
    for field, own in zip(fields_of(layer, sent), x, strict=True):
        deep = int(field.takes[:, 2].max()) + 1
        if field.tile in ("k", "v"):
            deep = layer.dims
        shape = (slots, deep) if field.tile == "v" else (deep, slots)
        whole = (layer.rows, layer.cols, *shape)
        tile = found.setdefault(field.tile, np.zeros(whole, np.int64))
        filled(layer, field, own, tile)
    return found


@LAW
@given(REGIONS, st.integers(1, 40))
def test_every_number_is_where_the_layout_has_it(layer: LayerMap, tokens: int) -> None:
    """Keys and values, or a latent in every group, of any number of tokens."""
    if layer.form.latent is not None:
        latent = numbered(tokens, SMALL_MLA.rank)
        turned = numbered(tokens, SMALL_MLA.turned, first=10_000)
        whole = layout.cache_tiles(turned[None], latent[None], layer)
        own = [latent, turned]
    else:
        k = numbered(tokens, layer.kv_heads, layer.head_dim)
        v = numbered(*k.shape, first=100_000)
        whole = layout.cache_tiles(k[None], v[None], layer)
        own = [k.reshape(tokens, -1), v.reshape(tokens, -1)]
    for name, tile in tiles_of(layer, WIDE, own).items():
        np.testing.assert_array_equal(tile, whole[name][0])


@pytest.mark.parametrize("parts", [1, 2, 4])
@pytest.mark.parametrize("held", ["fp8", "int8", "mxfp8"])
def test_codes_and_scales_are_where_the_layout_has_them(held: str, parts: int) -> None:
    """A scale on every column of its head's group, or a power of two for each run of its block."""
    layer = of_heads(parts=parts, head_dim=64, rotary_dim=32, cache=held)
    tokens, form = 7, of_activations(FORMATS[held])
    rng = np.random.default_rng(0)
    numbers = rng.standard_normal((2, 1, tokens, layer.kv_heads, layer.head_dim))
    k, v = (CodedTokens.of(each, form) for each in numbers.astype(np.float32))
    whole = layout.coded_cache_tiles(k, v, layer, form)

    def bits(x) -> np.ndarray:
        array = np.ascontiguousarray(x)
        return array.view(f"u{array.dtype.itemsize}").astype(np.int64)

    own = [bits(x).reshape(tokens, -1) for x in (k.codes, v.codes, k.scale, v.scale)]
    for name, tile in tiles_of(layer, form, own).items():
        assert tile.any()
        np.testing.assert_array_equal(tile, bits(whole[name][0]))


def test_a_latents_scales_are_on_every_column() -> None:
    layer, form = of_latents(cache="fp8"), of_activations(FORMATS["fp8"])
    *_, scales = fields_of(layer, form)
    assert (scales.tile, scales.count, scales.nbytes) == ("k_scale", 2, 8)
    assert sorted(map(tuple, scales.takes.tolist())) == [
        (which, column, which) for which in range(2) for column in range(layer.cols)
    ]


@LAW
@given(REGIONS, st.sampled_from(["bfloat16", "float32", "fp8", "int8"]))
def test_a_tokens_bytes_are_those_of_its_fields(layer: LayerMap, held: str) -> None:
    """Each byte counts at one column, though several may take it."""
    form = as_format(FORMATS[held])
    assert column_bytes(layer, form).sum() == token_bytes(layer, form)
    for field in fields_of(layer, form):
        assert set(field.takes[:, 0].tolist()) == set(range(field.count))


@pytest.mark.parametrize("held", ["bfloat16", "fp8", "mxfp8"])
def test_bytes_are_the_models_closed_form(held: str) -> None:
    """Llama 3.1 8B: key and value of 8 heads of 128; in FP8 with a scale of 4 bytes for each."""
    config = published("llama-3.1-8b").config
    layer = of_heads(
        kv_heads=config.num_key_value_heads, head_dim=config.head_dim, parts=8
    )
    whole = cache_bytes_a_token(config, precision(f"cache={held}"))
    each = token_bytes(layer, as_format(FORMATS[held]))
    assert config.num_hidden_layers * each == whole
    assert held != "bfloat16" or each == 4096
    assert held != "fp8" or each == 2112


def test_a_dtype_is_a_format_of_numbers_alone() -> None:
    assert as_format(jnp.float32) == FORMATS["float32"]
    assert as_format(FORMATS["fp8_block"]).block == (128, 1)
