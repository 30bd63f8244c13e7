"""Decode layers of other forms than the plainest, and both ends of a model, against NumPy."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from emu import Known, Program
from emu.errors import LimitExceeded
from emu.wse import WSE3
from kernels.wse.decode.activation import KINDS, Activation, activated
from kernels.wse.decode.form import DecodeForm
from kernels.wse.decode.head import (
    embed_program,
    head_arguments,
    head_program,
)
from kernels.wse.decode.layer import layer_arguments, layer_program
from kernels.wse.decode.layout import feature_order, head_norm, head_table
from kernels.wse.decode.mapping import HeadMap, LayerMap
from tests.kernels.moe.wafer_reference import activate
from tests.kernels.wse.layer_reference import LayerReference, random_layer, run_layer
from tests.kernels.wse.reference import rms_norm

WAFER = WSE3.at()
EVERYTHING = DecodeForm(
    activation=Activation("gelu_tanh"),
    qkv_bias=True,
    out_bias=True,
    output_norms=True,
    rotary_dim=8,
    score_scale=0.2,
    residual_scale=0.7,
)


def small(form: DecodeForm, qk_norm: bool = False, dtype: str = "float32") -> LayerMap:
    return LayerMap(22, 26, 4, 2, 12, 1e-5, qk_norm, 9, 5, 2, dtype, form=form)


def test_every_option_at_once() -> None:
    layer = small(EVERYTHING, qk_norm=True)
    weights = random_layer(layer, 0)
    w = {name: np.asarray(x[0], np.float64) for name, x in weights.items()}

    def mlp(h: np.ndarray) -> np.ndarray:
        return activate("gelu_tanh", 0, h @ w["w_gate"], h @ w["w_up"]) @ w["w_down"]

    reference = LayerReference(layer, weights, mlp)
    tokens = np.random.default_rng(1).standard_normal((7, 22))
    expected = np.stack([reference.step(x) for x in tokens])
    got = run_layer(layer, weights, tokens)
    np.testing.assert_allclose(got, expected, rtol=2e-5, atol=2e-5)


def test_features_of_a_partly_turned_head() -> None:
    """The module's example: 4 of 8 features turn, in pairs (0, 2) and (1, 3)."""
    layer = LayerMap(8, 8, 1, 1, 8, 1e-5, False, 8, 2, 2, form=DecodeForm(rotary_dim=4))
    assert feature_order(layer).tolist() == [[0, 2, 4, 5], [1, 3, 6, 7]]


@pytest.mark.parametrize(
    ("form", "more"),
    [
        # A vector operation on what a column holds of queries, key and value: 3 loads, an issue.
        (DecodeForm(qkv_bias=True), 3 * 4 + 6 + 4 * 6),
        # The same of the residual stream's 5 elements.
        (DecodeForm(out_bias=True), 3 * 4 + 6 + 5),
    ],
)
def test_clock_of_an_option(form: DecodeForm, more: int) -> None:
    def cycles(form: DecodeForm) -> int:
        layer = small(form)
        return layer_program(layer).read(WAFER, *layer_arguments(layer, 3, 0)).end_ticks

    assert cycles(form) == cycles(DecodeForm()) + more


def test_bytes_of_further_weights() -> None:
    plain, full = small(DecodeForm(), True), small(EVERYTHING, True)
    further = (
        4 * 6 + 3 * plain.depth
    )  # biases of heads; of the output, and its two norms
    assert full.weight_bytes() - plain.weight_bytes() == 4 * further


@pytest.mark.parametrize("kind", KINDS)
def test_activations(kind: str) -> None:
    """Within float32 rounding; each element's scalar function is paid for."""
    gate, up = np.random.default_rng(2).standard_normal((2, 2, 6)).astype(np.float32)
    activation = Activation(kind, limit=0.9)
    program = Program(
        lambda g, u: activated(activation, g, u), {"row": 1}, ((), ()), ("row",)
    )
    got = np.asarray(program.run(gate, up))[0]
    wide = gate.astype(np.float64), up.astype(np.float64)
    expected = activate(kind, 0.9, *wide)
    np.testing.assert_allclose(got, expected, rtol=3e-6, atol=1e-6)
    each = WAFER.exp_cycles + WAFER.divide_cycles + WAFER.loop_cycles
    assert program.read(WAFER, gate, up).end_ticks > 12 * each


def test_soft_cap_and_scaled_embedding() -> None:
    head = HeadMap(22, 37, 1e-5, 4, 3, embedding_scale=4.5, logit_soft_cap=2.0)
    rng = np.random.default_rng(3)
    table = rng.standard_normal((22, 37)).astype(np.float32)
    tiles = jnp.asarray(head_table(table, head))
    token = embed_program(head).run(tiles, jnp.asarray([17], jnp.int32))
    embedded = np.asarray(token)[:, 0].reshape(-1)[:22]
    np.testing.assert_array_equal(embedded, np.float32(4.5) * table[:, 17])

    x, norm = rng.standard_normal(22), rng.uniform(0.5, 1.5, 22)
    residual = jnp.asarray(head_norm(x.astype(np.float32), head))
    weight = jnp.asarray(head_norm(norm.astype(np.float32), head))
    logits, best = head_program(head).run(residual, weight, tiles, Known(np.int32(0)))
    found = np.asarray(logits)[0].reshape(-1)[:37]
    sums = rms_norm(x, norm, 1e-5) @ table.astype(np.float64)
    np.testing.assert_allclose(found, 2 * np.tanh(sums / 2), rtol=1e-5, atol=1e-5)
    assert np.asarray(best)[0, 0, 0] == sums.argmax()


def test_a_cap_costs_a_row_its_share() -> None:
    """640 tokens on 4 columns of 16 rows: ten scalar loops a row, and two sums more."""

    def cycles(**cap: Any) -> int:
        head = HeadMap(32, 640, 1e-5, 16, 4, **cap)
        return head_program(head).read(WAFER, *head_arguments(head, 0)).end_ticks

    more = cycles(logit_soft_cap=30.0) - cycles()
    tanh = WAFER.exp_cycles + WAFER.divide_cycles + WAFER.loop_cycles
    assert 10 * tanh < more < 160 * tanh


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(LimitExceeded, match="rotary_dim 16 must be at most head_dim"):
        small(DecodeForm(rotary_dim=16))
    with pytest.raises(LimitExceeded, match="must be even"):
        DecodeForm(rotary_dim=3)
    with pytest.raises(LimitExceeded, match="must be one of silu"):
        Activation("relu")
    with pytest.raises(LimitExceeded, match="logit_soft_cap is -1"):
        HeadMap(8, 8, 1e-5, 1, 1, logit_soft_cap=-1.0)
