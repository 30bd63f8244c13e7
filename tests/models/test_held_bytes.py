"""Bytes of weights and caches under plans, against closed forms."""

import math

import pytest

from kernels.formats.formats import FORMATS
from models.catalogue import LLAMA_3_1_8B, SMOLLM2_135M
from models.held_bytes import cache_bytes_a_token, weight_bytes
from models.loading.load import load
from models.precision import precision
from tests.models.conftest import DATA


@pytest.mark.parametrize("config", [SMOLLM2_135M, LLAMA_3_1_8B], ids=lambda c: c.name)
def test_wide_weights_are_the_parameters(config) -> None:
    assert weight_bytes(config, precision("bfloat16")) == 2 * config.parameters
    assert weight_bytes(config, precision("float32")) == 4 * config.parameters
    # Of the cache alone in codes, weights are wide.
    assert weight_bytes(config, precision("cache=fp8")) == 2 * config.parameters


@pytest.mark.parametrize(
    ("name", "block_bytes"), [("mxfp8", 33), ("mxfp4", 17), ("int4", 20)]
)
def test_blocks_of_layers_matrices(name: str, block_bytes: int) -> None:
    """Llama 3.1 8B's dimensions are multiples of 32: every 32 weights are a block."""
    config = LLAMA_3_1_8B
    hidden, ffn = config.hidden_size, config.intermediate_size
    widths = 2 * config.query_width + 2 * config.key_value_width + 3 * ffn
    coded = config.num_hidden_layers * hidden * widths
    others = 2 * (config.parameters - coded)
    found = weight_bytes(config, precision(name))
    assert found == others + coded // 32 * block_bytes
    # A table counts bytes by the weight.
    assert FORMATS[name].bytes_a_number == block_bytes / 32


def test_experts_are_in_codes_and_routers_are_not() -> None:
    config = load(DATA / "qwen3_moe").config
    experts = config.experts
    assert experts is not None
    hidden = config.hidden_size
    attention = hidden * (2 * config.query_width + 2 * config.key_value_width)
    columns = config.query_width + 2 * config.key_value_width + hidden
    # Two layers of three have experts; the one between has an MLP.
    coded = 3 * attention
    of_columns = 3 * columns
    for count, width in ((2 * experts.count, experts.width), (1, 48)):
        coded += count * 3 * hidden * width
        of_columns += count * (2 * width + hidden)
    # A scale of four bytes for each column of each matrix.
    found = weight_bytes(config, precision("int8"))
    assert found == 2 * (config.parameters - coded) + coded + 4 * of_columns


def test_experts_alone_are_in_codes() -> None:
    """A routed expert's matrices; the MLP of the layer between and all else are wide."""
    config = load(DATA / "qwen3_moe").config
    experts = config.experts
    assert experts is not None
    matrix = FORMATS["mxfp4"]
    hidden, width = config.hidden_size, experts.width
    both = 2 * matrix.held_bytes(hidden, width) + matrix.held_bytes(width, hidden)
    of_layer = experts.count * 3 * hidden * width
    found = weight_bytes(config, precision("experts=mxfp4"))
    wide = 2 * (config.parameters - 2 * of_layer)
    assert found == wide + 2 * experts.count * both


def test_caches() -> None:
    config = LLAMA_3_1_8B
    heads = config.num_hidden_layers * 2 * config.num_key_value_heads
    assert cache_bytes_a_token(config, precision("bfloat16")) == heads * 256
    # 128 features have one scale of a float32, or four powers of two.
    assert cache_bytes_a_token(config, precision("cache=fp8")) == heads * 132
    assert cache_bytes_a_token(config, precision("cache=mxfp8")) == heads * 132
    latent = load(DATA / "deepseek_v3").config
    assert latent.latent is not None
    of_token = latent.latent.rank + latent.latent.turned
    wide = cache_bytes_a_token(latent, precision("float32"))
    assert wide == latent.num_hidden_layers * 4 * of_token


def test_a_format_without_blocks_of_its_own_has_no_bytes_by_the_number() -> None:
    assert FORMATS["fp8_block"].bytes_a_number == 1 + 4 / 128**2
    assert FORMATS["bfloat16"].bytes_a_number == 2
    assert math.isclose(FORMATS["int4"].bytes_a_number, 0.5 + 4 / 32)
    with pytest.raises(ValueError, match="fp8: has no blocks"):
        _ = FORMATS["fp8"].bytes_a_number
