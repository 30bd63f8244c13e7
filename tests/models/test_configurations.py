"""Published models: their sizes against transformers' own models, and against what authors say."""

import dataclasses
import json
import pathlib

import pytest

from models.catalogue import CATALOGUE
from models.configurations import Published, published, published_models
from models.errors import ModelError
from models.outlines import COUNTED

MODELS = published_models()
EACH = pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
COUNTS = json.loads(
    (pathlib.Path(__file__).parent / "data" / "parameter_counts.json").read_text()
)["parameters"]
# What authors publish counts what is no part of the text model, or has few digits: the errors that
# they leave, of transformers' own models too. Kimi-K2 "1.04T", DeepSeek-V4-Pro "1.6T", Llama 4
# Scout 109B with its vision encoder.
FURTHER_THAN_A_HUNDREDTH = {
    "kimi-k2": 0.014,
    "kimi-k2.5": 0.014,
    "deepseek-v4-pro": 0.017,
    "llama-4-scout": 0.012,
}


@EACH
def test_parameters_are_those_of_transformers_models(model: Published) -> None:
    """But for biases that only select experts: transformers holds them as buffers."""
    if model.name not in COUNTS:
        # No activation "situ" in transformers 5.24; held to the published figure below.
        assert model.model_type == "kimi_linear"
        return
    assert model.outline.parameters - selection_biases(model) == COUNTS[model.name]


def selection_biases(model: Published) -> int:
    """How many there are; those of DeepSeek-V4 are not among what is counted."""
    values = model.values
    if model.outline.config is not None:
        experts = model.outline.config.experts
        if experts is None or not experts.selection_bias:
            return 0
        layers = len(model.outline.config.layers_with["selection_bias"])
        return layers * experts.count
    if model.model_type in ("deepseek_v32", "glm_moe_dsa"):
        layers = values["num_hidden_layers"] - values["first_k_dense_replace"]
        return layers * values["n_routed_experts"]
    return 0


@EACH
def test_parameters_are_what_authors_publish(model: Published) -> None:
    allowed = FURTHER_THAN_A_HUNDREDTH.get(model.name, 0.01)
    error = model.outline.parameters / model.published_parameters - 1
    assert abs(error) <= allowed


def test_every_model_is_computed_or_counted() -> None:
    counted = {m.model_type for m in MODELS.values() if m.outline.config is None}
    assert counted == set(COUNTED)


def test_a_cache_grows_by_latents_heads_and_not_by_windows() -> None:
    # DeepSeek-V3: 61 layers of 512 + 64. gpt-oss-20b: 12 of 24 layers, 2 x 8 heads of 64; the
    # others hold 128 tokens at most.
    assert published("deepseek-v3").outline.cache_growing == 61 * 576
    oss = published("gpt-oss-20b").outline
    assert oss.cache_growing == 12 * 2 * 8 * 64
    assert oss.cache_most == 12 * 2 * 8 * 64 * 128


@pytest.mark.parametrize("name", sorted(CATALOGUE.keys() & MODELS.keys()))
def test_the_catalogue_agrees(name: str) -> None:
    stated = dataclasses.replace(published(name).config, source=CATALOGUE[name].source)
    assert stated == CATALOGUE[name]


def test_an_unknown_model_is_refused_with_those_known() -> None:
    with pytest.raises(ModelError, match="known are .*'kimi-k2'"):
        published("kimi-k9")
