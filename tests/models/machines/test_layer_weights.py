"""What the kernels would leave out is refused by name."""

import dataclasses

import numpy as np
import pytest

from models.catalogue import TINY
from models.errors import ModelError
from models.layer_form import Latent
from models.machines.decode import Decoder
from models.machines.layer_weights import check_forms, check_layer_weights
from models.machines.prefill import Prefill
from models.plain.weights import random_weights


def test_latents_that_do_not_divide_are_refused_by_name() -> None:
    """As heads: 131 features are no two equal parts; a key's are in two parts as they are."""
    latent = Latent(None, rank=131, plain=8, turned=8, value_dim=8)
    for sizes, told in (
        ({}, "latents of features that are no"),
        ({"rank": 128, "plain": 130}, "keys of more than 128 features"),
        ({"rank": 128, "value_dim": 131}, "heads of features that are no"),
    ):
        odd = dataclasses.replace(
            TINY,
            model_type="deepseek_v3",
            query_key_norm=None,
            head_dim=8,
            latent=dataclasses.replace(latent, **sizes),
        )
        check_forms(odd, "decode")
        with pytest.raises(ModelError, match=f"prefill: .* {told}"):
            check_forms(odd, "prefill")


def test_heads_that_do_not_divide_are_refused_by_name() -> None:
    """A contraction takes 128 features: 256 are two parts, of 262 three are no equal ones."""
    check_forms(dataclasses.replace(TINY, head_dim=256), "prefill")
    odd = dataclasses.replace(TINY, head_dim=262)
    check_forms(odd, "decode")
    with pytest.raises(ModelError, match="prefill: .* heads of features that are no"):
        check_forms(odd, "prefill")


def test_a_bias_is_not_left_out_in_silence() -> None:
    weights = random_weights(TINY, 0)
    check_layer_weights(weights["layers"], TINY, "a machine")
    weights["layers"]["bq"] = np.zeros((TINY.num_hidden_layers, 96), np.float32)
    with pytest.raises(ModelError, match=r"prefill: .* got \['bq'\]"):
        Prefill(TINY, weights, tokens=1, chips=1, dtype="float32")
    with pytest.raises(ModelError, match=r"decode: .* got \['bq'\]"):
        Decoder(TINY, weights, context=8)
