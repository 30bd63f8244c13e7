"""Decode of whole models with weights in codes: the oracle's logits on the same numbers."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from emu import Quantity
from emu.wse import WSE3, WaferSheet
from kernels.formats.coding import as_held
from kernels.formats.formats import FORMATS
from kernels.variants import sliding_window
from kernels.wse.decode import candidates
from models.attention_pattern import Attention, pattern_of
from models.config import ModelConfig
from models.errors import ModelError
from models.loading.load import load
from models.machines.decode import Decoder, LayerCache
from models.plain.held import held_weights
from models.plain.kv_cache import empty_cache
from models.plain.oracle import cache_as_held, jitted_extend
from models.plain.weights import Weights, random_weights
from models.precision import Taken, precision
from tests.models.conftest import DATA
from tests.models.machines.test_prefill import LLAMA

MODEL = dataclasses.replace(
    LLAMA, hidden_size=64, intermediate_size=96, num_hidden_layers=2, vocab_size=64
)
WEIGHTS = random_weights(MODEL, 0)
PROMPT, CONTEXT = 3, 6
CODED = [name for name, held in FORMATS.items() if held.is_coded]


def quantity(rows: int) -> Quantity:
    return Quantity(rows, "published", "a lower wafer, for the test")


# A wafer of few rows, so that blocks of 32 have several numbers in a PE.
LOW = dataclasses.replace(WSE3, grid_height=quantity(4))


@pytest.mark.parametrize(
    "name",
    [x if x == "mxfp8" else pytest.param(x, marks=pytest.mark.slow) for x in CODED],
)
def test_logits_are_the_oracles_on_the_same_numbers(name: str) -> None:
    check_logits(name, LOW)


def test_logits_where_rows_end_with_blocks(monkeypatch) -> None:
    """64 features on 14 rows, 5 each: tables of embedding and head are cut as layers are."""
    monkeypatch.setattr(candidates, "ROW_CHOICES", 1)
    sheet = dataclasses.replace(WSE3, grid_height=quantity(14))
    plan = check_logits("mxfp8", sheet).plan
    assert [kind.map.cut for kind in plan.kinds] == [32] == [plan.head.cut]


def check_logits(name: str, sheet: WaferSheet) -> Decoder:
    """Of a few tokens on a wafer, against the oracle's."""
    plan = precision(f"weights={name},cache=float32")
    decoder = Decoder(MODEL, WEIGHTS, CONTEXT, plan, sheet.at())
    ids = np.random.default_rng(3).integers(0, MODEL.vocab_size, (1, CONTEXT))
    held = held_weights(MODEL, WEIGHTS, plan)
    given = jax.tree.map(jnp.asarray, held)
    tokens = jnp.asarray(ids, jnp.int32)
    logits, _ = jitted_extend(MODEL, given, tokens, empty_cache(MODEL, 1, CONTEXT))
    cache = decoder.empty_cache()
    for pos in range(CONTEXT):
        _, got, cache = decoder.step(ids[0, pos], pos, cache)
        # Float32 sums in another order; logits are of about 3. The format moves them by 100 times
        # as much at the least.
        np.testing.assert_allclose(got, np.asarray(logits)[0, pos], rtol=0, atol=1e-4)
    assert decoder.precision == plan
    return decoder


def test_only_products_of_layers_are_in_codes() -> None:
    plan = precision("fp8")
    held = held_weights(MODEL, WEIGHTS, plan)
    for name in ("embed", "norm"):
        assert held[name] is WEIGHTS[name]
    for name, given in WEIGHTS["layers"].items():
        found = held["layers"][name]
        if name.endswith("norm"):
            assert found is given
            continue
        for layer, of_layer in enumerate(given):
            wanted = as_held(of_layer, plan.weights)
            np.testing.assert_array_equal(found[layer], wanted)
    assert held_weights(MODEL, WEIGHTS, precision("bfloat16")) is WEIGHTS


def numbers_of(cache: LayerCache) -> list[np.ndarray]:
    """Keys and values that codes stand for, `[rows, cols, dims, slots]`."""
    found = []
    for name in ("k", "v"):
        codes = np.asarray(cache[name]).astype(np.float32)
        if name == "v":
            codes = np.swapaxes(codes, -1, -2)
        (of_name,) = (x for x in cache if x.startswith(f"{name}_"))
        scales = np.asarray(cache[of_name]).astype(np.float32)
        alike = codes.shape[-2] // scales.shape[-2]
        found.append(codes * np.repeat(scales, alike, axis=-2))
    return found


SLOW_CACHES = [pytest.param(x, marks=pytest.mark.slow) for x in ("int8", "mxfp8")]


@pytest.mark.parametrize("name", ["fp8", *SLOW_CACHES])
def test_a_cache_in_codes(name: str) -> None:
    """From a prefilled cache on; a token's own key and value join it in codes too."""
    plan = precision(f"weights=float32,cache={name}")
    decoder = Decoder(MODEL, WEIGHTS, CONTEXT, plan, LOW.at())
    ids = np.random.default_rng(3).integers(0, MODEL.vocab_size, (1, CONTEXT))
    given = jax.tree.map(jnp.asarray, WEIGHTS)
    tokens = jnp.asarray(ids, jnp.int32)
    empty = empty_cache(MODEL, 1, CONTEXT)
    _, cache = jitted_extend(MODEL, given, tokens[:, :PROMPT], empty)
    k, v = (np.asarray(x)[:, 0].swapaxes(1, 2) for x in (cache.k, cache.v))
    held = decoder.cache_from(k[:, :PROMPT], v[:, :PROMPT])
    decoder.compile()
    for empty, whole in zip(decoder.empty_cache()[0].values(), held[0].values()):
        assert (empty.shape, empty.dtype) == (whole.shape, whole.dtype)
    cache = cache_as_held(cache, plan.cache)
    for pos in range(PROMPT, CONTEXT):
        token = tokens[:, pos : pos + 1]
        logits, cache = jitted_extend(
            MODEL, given, token, cache, None, Taken(), plan.cache
        )
        _, got, held = decoder.step(ids[0, pos], pos, held)
        # Float32 sums in another order; a number in the middle between two codes may become either.
        np.testing.assert_allclose(got, np.asarray(logits)[0, 0], rtol=0, atol=1e-3)
    k, v = (np.asarray(x)[:, 0].swapaxes(1, 2) for x in (cache.k, cache.v))
    # What the wafer holds of the first layer is what a prefill would leave: layers behind see sums
    # of another order. Numbers and not codes, as a block whose largest has been rounded up to a
    # power of two has that of twice the size when it is brought into codes again.
    left = numbers_of(decoder.cache_from(k, v)[0])
    for found, wanted in zip(numbers_of(held[0]), left, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-5)
    # Bytes of the codes, and of a scale for each token's key and value; in MXFP8 of a power of two
    # for each run of features, of which first elements of pairs are one, and second ones another.
    (kind,) = decoder.plan.kinds
    layer = kind.map
    of_scales = 2 if name == "mxfp8" else 4
    assert layer.dims // 2 <= 32
    assert kind.bytes["cache"] == 2 * layer.held_slots * (layer.dims + of_scales)


@pytest.mark.parametrize("name", ["mxfp4", "int4"])
def test_other_caches_are_refused_by_name(name: str) -> None:
    with pytest.raises(ModelError, match=f"or one of fp8, int8, mxfp8, got {name}"):
        Decoder(MODEL, WEIGHTS, CONTEXT, f"cache={name}")


def test_a_variant_over_a_cache_in_codes() -> None:
    """A window whose view of the cache begins late, and its scales' with it."""
    plan, window = precision("weights=float32,cache=fp8"), sliding_window(3)
    device = dataclasses.replace(LOW, grid_height=quantity(2)).at()
    decoder = Decoder(MODEL, WEIGHTS, CONTEXT, plan, device, attention=window)
    (kind,) = decoder.plan.kinds
    assert kind.attention is not None and kind.attention.map.slots < kind.map.slots
    same_as_the_oracle(MODEL, WEIGHTS, decoder, 0, CONTEXT, pattern_of(window, 2))
    # A view that begins late needs slots to spare, of codes and of scales.
    layer = kind.map
    assert kind.bytes["cache"] == 2 * layer.held_slots * (layer.dims + 4)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["gpt_oss", "gemma2", "gemma3", "qwen2_biases_window", "llama4"]
)
def test_families_variants_over_a_cache_in_codes(name: str) -> None:
    """Sinks, soft-caps, windows, chunks: the oracle's tokens with its cache in codes too."""
    model = load(DATA / name)
    plan = precision("weights=float32,cache=int8")
    decoder = Decoder(model.config, model.weights, 22, plan)
    assert any(kind.attention is not None for kind in decoder.plan.kinds)
    same_as_the_oracle(model.config, model.weights, decoder, 18, 22)


def same_as_the_oracle(
    config: ModelConfig,
    weights: Weights,
    decoder: Decoder,
    prompt: int,
    context: int,
    attention: Attention = None,
) -> None:
    """Decodes from the oracle's cache of a prompt, or none, with what joins it in codes."""
    held = decoder.precision.cache
    ids = np.random.default_rng(3).integers(0, config.vocab_size, (1, context))
    given, tokens = jax.tree.map(jnp.asarray, weights), jnp.asarray(ids, jnp.int32)
    cache, grown = empty_cache(config, 1, context), decoder.empty_cache()
    if prompt:
        _, cache = jitted_extend(config, given, tokens[:, :prompt], cache, attention)
        k, v = (np.asarray(x)[:, 0].swapaxes(1, 2) for x in (cache.k, cache.v))
        grown = decoder.cache_from(k[:, :prompt], v[:, :prompt])
        cache = cache_as_held(cache, held)
    for pos in range(prompt, context):
        token = tokens[:, pos : pos + 1]
        logits, cache = jitted_extend(
            config, given, token, cache, attention, Taken(), held
        )
        best, got, grown = decoder.step(ids[0, pos], pos, grown)
        wanted = np.asarray(logits)[0, 0]
        # Float32 sums in another order; a number in the middle between two codes may become either.
        np.testing.assert_allclose(got, wanted, rtol=0, atol=2e-3)
        assert best == wanted.argmax()
