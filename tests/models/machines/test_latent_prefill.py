"""Prefill of whole models whose attention is to latents, and what it leaves for decode."""

import dataclasses
from typing import Any

import jax
import numpy as np
import pytest

from emu.trainium.datasheets import TRN3, with_cores
from models.config import ModelConfig
from models.errors import ModelError
from models.layer_form import Latent
from models.machines.prefill import Prefill
from models.machines.useful_flops import useful_flops
from models.precision import precision
from tests.helpers import same_clock
from tests.models.machines.test_prefill import LLAMA, near, prompt_of, structs_of
from tests.models.machines.test_prefill_forms import oracle_of, weights_of

LATENT = Latent(query_rank=24, rank=20, plain=12, turned=8, value_dim=10)
# DeepSeek-V3's attention before an MLP, at a scale of its own. `num_key_value_heads` says nothing
# here, as in GGUF files, which have 1.
LATENTS = dataclasses.replace(
    LLAMA,
    name="latents",
    model_type="deepseek_v3",
    vocab_size=96,
    num_hidden_layers=1,
    num_key_value_heads=4,
    head_dim=LATENT.turned,
    latent=LATENT,
    attention_scale=0.3,
)
AT_ONCE = dataclasses.replace(
    LATENTS, name="at once", latent=dataclasses.replace(LATENT, query_rank=None)
)
# Of 300 features: three parts of 100.
LARGE = dataclasses.replace(
    LATENTS, name="large", latent=dataclasses.replace(LATENT, rank=300)
)


def agrees(config: ModelConfig, tokens: int, **options: Any) -> None:
    """Logits are the oracle's, and so are keys and values that are made of the cache.

    5e-5 of the largest: float32 sums in another order give some 1e-6.
    """
    latent, weights = config.latent, weights_of(config)
    assert latent is not None
    prompt = prompt_of(config, tokens)
    prefill = Prefill(config, weights, tokens=tokens, dtype="float32", **options)
    result = prefill.run(prompt)
    logits, keys, values = oracle_of(config, weights, prompt)
    near(result.logits, logits, 5e-5)
    assert result.token == logits.argmax()
    assert isinstance(result.v, np.ndarray)
    assert result.v.shape == (config.num_hidden_layers, tokens, latent.rank)
    near(result.k, keys[:, :, 0, latent.plain :], 5e-5)
    made = np.einsum("ltr,lrn->ltn", result.v, weights["layers"]["wkv_up"])
    by_head = made.reshape(*made.shape[:2], config.num_attention_heads, -1)
    near(by_head[..., : latent.plain], keys[..., : latent.plain], 5e-5)
    near(by_head[..., latent.plain :], values, 5e-5)


@pytest.mark.parametrize(
    "config, tokens, chips, cores, placement",
    [
        # 150 tokens are two tiles of 75 in one key tile; the last of three cores has padding for
        # heads.
        (LATENTS, 150, 1, 3, "contiguous"),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in (
                (LATENTS, 300, 2, 3, "contiguous"),
                (AT_ONCE, 37, 3, 2, "contiguous"),
                (LARGE, 37, 2, 2, "zigzag"),
                (LATENTS, 300, 2, 1, "tile-cyclic"),
            )
        ),
    ],
    ids=lambda value: getattr(value, "name", str(value)),
)
def test_latents_agree_with_the_oracle(
    config: ModelConfig, tokens: int, chips: int, cores: int, placement: str
) -> None:
    agrees(config, tokens, chips=chips, cores=cores, placement=placement)


@pytest.mark.parametrize("cores", [1, 3])
def test_structs_pack_as_arrays_do(cores: int) -> None:
    options: Any = dict(tokens=37, chips=2, cores=cores, dtype="bfloat16")
    given = Prefill(LATENTS, weights_of(LATENTS), **options).abstract()
    shapes = Prefill(LATENTS, structs_of(LATENTS), **options).abstract()
    assert jax.tree.map(str, shapes[:3]) == jax.tree.map(str, given[:3])


def test_codes_that_latents_have_no_products_of_are_refused() -> None:
    """Values of 10 features are no quads of an output projection in MX."""
    odd = dataclasses.replace(LATENT, rank=18, value_dim=12)
    for latent, words, told in (
        (LATENT, "fp8", "has latents, whose products are in MX.*take mxfp8"),
        (LATENT, "mxfp8", "heads of whole groups of 32 features"),
        (odd, "mxfp8", "latents of a multiple of 4 features"),
    ):
        config, plan = dataclasses.replace(LATENTS, latent=latent), precision(words)
        with pytest.raises(ModelError, match=told):
            Prefill(config, structs_of(config), tokens=18, chips=1, dtype=plan)


def test_flops_of_latents_are_the_closed_form() -> None:
    """Chip 1 attends to both chips' tokens, and makes keys and values of both chips' latents."""
    prefill = Prefill(LATENTS, structs_of(LATENTS), tokens=18, chips=2, dtype="float32")
    clock = prefill.read(TRN3.at()).clock
    hidden, heads = 72, 4
    down = hidden * (24 + 20 + 8) + 24 * heads * (12 + 8)
    up = 20 * heads * (12 + 10)
    rest = heads * 10 * hidden + 3 * hidden * 200
    sources = 1 + 2
    attended = sources * 2 * heads * 9 * 9 * (12 + 8 + 10)
    logits = 2 * hidden * 96
    expected = 2 * 18 * (down + rest) + sources * 2 * 9 * up + attended + logits
    assert clock.tally.by("flops")["trn.nc_matmul"] == expected
    # What the model asks for: each token's keys and values once, and no pair that is masked.
    pairs = heads * 18 * 19 // 2
    useful = 2 * 18 * (down + up + rest) + 2 * pairs * (12 + 8 + 10) + logits
    assert useful_flops(LATENTS, 18) == prefill.useful_flops == useful
    # A latent and a turned key cross the link, whatever heads there are.
    assert clock.tally.by("other")["link_bytes"] == 9 * (20 + 8) * 4


def test_cores_divide_the_way_down_and_gather_it() -> None:
    options: Any = dict(tokens=37, chips=2, cores=3, dtype="float32")
    prefill = Prefill(LATENTS, structs_of(LATENTS), **options)
    device = with_cores(TRN3, 3).at()
    reading, stepped = prefill.read(device), prefill.read(device, jump=False)
    same_clock(reading.clock, stepped.clock)
    counts = reading.clock.tally.by("count")
    assert counts["trn.all_gather"] == 2 * 3
    assert counts["trn.all_reduce"] == 2 * 2 * 3
    # Each core has the latents, as the one KV head of multi-query attention: 19 and a slot of
    # padding.
    sent = reading.clock.tally.by("other")["link_bytes"]
    assert sent == 3 * prefill.tiling.tokens * (20 + 8) * 4
