"""What the kernels would leave out is refused by name."""

import dataclasses

import numpy as np
import pytest

from models.catalogue import TINY
from models.errors import ModelError
from models.machines.decode import Decoder
from models.machines.layer_weights import check_forms, check_layer_weights
from models.machines.prefill import Prefill
from models.plain.weights import random_weights


def test_a_norm_over_all_heads_is_refused_by_name() -> None:
    """In prefill it needs sums over the cores that share them; decode computes it."""
    wide = dataclasses.replace(TINY, query_key_norm="width")
    with pytest.raises(ModelError, match="prefill: .* norms of kind 'width'"):
        check_forms(wide, "prefill")
    check_forms(wide, "decode")


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
