"""A cache in codes through prefill, hand-off and decode: the codes, their bytes, and who makes
them."""

import dataclasses

import jax
import numpy as np
import pytest

from emu.trainium.datasheets import TRN3, with_cores
from emu.wse.datasheets.datasheet import WSE3
from kernels.formats.coding import coded
from kernels.formats.formats import FORMATS
from kernels.wse.decode.layout import CodedTokens
from models.configurations import published
from models.errors import ModelError
from models.held_bytes import cache_bytes_a_token
from models.machines.decode import Decoder
from models.machines.disaggregated import Disaggregated
from models.machines.precisions import of_prefill, prefilled_as
from models.machines.prefill import Prefill
from models.precision import precision
from tests.models.machines.test_prefill import LLAMA, prompt_of, structs_of, weights_of

CONFIG = dataclasses.replace(LLAMA, hidden_size=64, head_dim=16, vocab_size=256)
TOKENS = 12


def prefill(words, cores=1, weights=None, tokens=TOKENS):
    weights = structs_of(CONFIG) if weights is None else weights
    return Prefill(
        CONFIG, weights, tokens=tokens, chips=1, cores=cores, dtype=precision(words)
    )


@pytest.mark.parametrize("name, cores", [("fp8", 1), ("int8", 3)])
def test_codes_are_the_formats_own_to_the_bit(name, cores):
    """Each token's key and value of a head; logits are as without, as a prompt sees numbers."""
    weights, prompt = weights_of(CONFIG), prompt_of(CONFIG, TOKENS)
    wide = prefill("bfloat16", cores, weights).run(prompt)
    found = prefill(f"cache={name}", cores, weights).run(prompt)
    np.testing.assert_array_equal(found.logits, wide.logits)
    for own, numbers in ((found.k, wide.k), (found.v, wide.v)):
        assert isinstance(own, CodedTokens) and isinstance(numbers, np.ndarray)
        expected = coded(numbers.astype(np.float32)[..., None], FORMATS[name])
        elements, scales = (np.asarray(x, np.float32)[..., 0] for x in expected)
        np.testing.assert_array_equal(np.asarray(own.codes, np.float32), elements)
        np.testing.assert_array_equal(own.scale, scales)


@pytest.mark.parametrize("name", ["fp8", "int8"])
def test_clock_and_bytes(name):
    """Codes and scales are stored besides; a layer is done once they are."""
    device = with_cores(TRN3, 2).at()
    readings = [
        prefill(words, 2, tokens=40).read(device)
        for words in ("bfloat16", f"cache={name}")
    ]
    wide, found = (each.clock.tally.by("bytes") for each in readings)
    p = prefill(f"cache={name}", 2, tokens=40)
    s = p.tiling
    assert found["hbm_read"] == wide["hbm_read"]
    # Of keys and of values, on both cores, in every layer.
    each = 2 * 2 * CONFIG.num_hidden_layers * s.tokens * s.kv_heads
    assert found["hbm_write"] - wide["hbm_write"] == each * (s.head_dim + 4)
    again = p.read(device, jump=False)
    assert again.clock.end_ticks == readings[1].clock.end_ticks
    assert again.layer_done_s == readings[1].layer_done_s
    for before, after in zip(*(each.layer_done_s for each in readings), strict=True):
        assert after > before


def test_decode_takes_codes_as_they_are():
    """The same tiles on every PE as of the numbers that prefill brings into codes."""
    weights, prompt = weights_of(CONFIG), prompt_of(CONFIG, TOKENS)
    plan = precision("cache=fp8")
    decoder = Decoder(CONFIG, weights, context=16, dtype=plan, device=WSE3.at())
    wide = prefill("bfloat16", 1, weights).run(prompt)
    own = prefill("cache=fp8", 1, weights).run(prompt)
    jax.tree.map(
        np.testing.assert_array_equal,
        decoder.cache_from(own.k, own.v),
        decoder.cache_from(wide.k, wide.v),
    )


def test_handed_over_are_codes_and_scales():
    plan = precision("cache=fp8")
    both = Disaggregated(
        CONFIG, weights_of(CONFIG), tokens=TOKENS, new_tokens=2, chips=1, dtype=plan
    )
    assert both.prefill_precision == plan
    reading = both.prefill.read(both.chip.at())
    sent = both.handoff(reading, "nominal", "layer").nbytes
    assert sent == TOKENS * cache_bytes_a_token(CONFIG, plan)


def test_what_has_no_kernels_is_brought_into_codes_as_it_arrives():
    plan = precision("weights=mxfp4,cache=fp8")
    found = prefilled_as(plan, CONFIG, 1)
    assert (found.weights.name, found.cache.name) == ("bfloat16", "fp8")
    found = prefilled_as(precision("weights=int8,cache=mxfp8"), CONFIG, 1)
    assert (found.weights.name, found.cache.name) == ("int8", "bfloat16")
    with pytest.raises(
        ModelError, match="attends to latents, which are cached in a wide"
    ):
        of_prefill(precision("cache=fp8"), published("deepseek-v3").config, 8)
