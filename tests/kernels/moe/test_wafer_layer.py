"""A decode layer with a mixture of experts: values, bytes, and a plan of a whole model."""

import dataclasses

import numpy as np
import pytest

from emu.errors import EmulationError
from emu.wse import WSE3
from kernels.formats.coding import as_held
from kernels.formats.formats import FORMATS
from kernels.moe.routing import Routing
from kernels.moe.wafer import ExpertMlp
from kernels.moe.wafer.layout import MATRICES as OF_EXPERTS
from kernels.wse.decode import layout
from kernels.wse.decode.activation import Activation
from kernels.wse.decode.demand import LayerKind
from kernels.wse.decode.form import DecodeForm
from kernels.wse.decode.held import Held
from kernels.wse.decode.layer import layer_arguments, layer_program
from kernels.wse.decode.mapping import LayerMap
from kernels.wse.decode.plan import plan_wafer
from kernels.wse.decode.token import TokenClock
from tests.kernels.moe.wafer_reference import mixture, random_experts
from tests.kernels.wse.layer_reference import LayerReference, random_layer, run_layer
from tests.kernels.wse.reference import Sizes

WAFER = WSE3.at()
MIXTURE = ExpertMlp(
    Routing(9, 3),
    10,
    activation=Activation("clamped_swiglu", 0.8),
    router_bias=True,
    bias=True,
)
GPT_OSS = DecodeForm(mlp=MIXTURE, qkv_bias=True, out_bias=True)


def small(form: DecodeForm) -> LayerMap:
    return LayerMap(22, 26, 4, 2, 8, 1e-5, False, 9, 4, 2, form=form)


def test_layer_with_experts() -> None:
    layer = small(GPT_OSS)
    weights = random_experts(MIXTURE, 22, 5) | random_layer(layer, 6)
    reference = LayerReference(layer, weights, lambda h: mixture(MIXTURE, weights, h))
    tokens = np.random.default_rng(7).standard_normal((5, 22))
    expected = np.stack([reference.step(x) for x in tokens])
    got = run_layer(layer, weights, tokens)
    np.testing.assert_allclose(got, expected, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize(
    ("held", "cut"),
    [("mxfp8", 32), pytest.param("fp8_block", 128, marks=pytest.mark.slow)],
)
def test_rows_whose_slices_end_with_blocks(held: str, cut: int) -> None:
    """44 features on ten rows, 5 each: a block of 32 takes seven, and the 12 behind it three.

    Norms and biases, router and experts lie where the residual stream does.
    """
    format_ = FORMATS[held]
    layer = LayerMap(
        *(44, 26, 4, 2, 8, 1e-5, False, 9, 10, 2),
        form=GPT_OSS,
        held=Held(format_, format_),
    )
    assert (layer.depth, layer.cut) == (5, cut)
    tiles = layer.matrices | MIXTURE.on(layer.region).matrices
    for name in ("qkv", "experts_gate_up"):
        assert tiles[name].scales(format_)[0] == 1
    weights = random_experts(MIXTURE, 44, 5) | random_layer(layer, 6)
    numbers = dict(weights)
    for name in (*layout.OF_HEADS, *OF_EXPERTS):
        if name in weights:
            numbers[name] = np.asarray(as_held(weights[name], format_))
    reference = LayerReference(layer, numbers, lambda h: mixture(MIXTURE, numbers, h))
    tokens = np.random.default_rng(7).standard_normal((3, 44))
    expected = np.stack([reference.step(x) for x in tokens])
    got = run_layer(layer, weights, tokens)
    # To float32 rounding of some hundred products.
    np.testing.assert_allclose(got, expected, rtol=2e-5, atol=2e-5)


def test_bytes_are_those_of_the_program() -> None:
    """All experts are resident: of nine, six more than a token uses."""
    layer = small(GPT_OSS)
    peak = layer_program(layer).memory(WAFER, *layer_arguments(layer, 0, 0))["sram"]
    region, layout = layer.region, MIXTURE.on(layer.region)
    of_experts = 9 * 3 * region.depth * layout.width
    assert 4 * of_experts < layer.weight_bytes() < peak
    more = dataclasses.replace(MIXTURE, routing=Routing(90, 3))
    larger = small(dataclasses.replace(GPT_OSS, mlp=more))
    added = larger.weight_bytes() - layer.weight_bytes()
    assert added > 4 * 81 * 3 * region.depth * layout.width


def test_shared_experts_apart_from_the_others_are_refused() -> None:
    held = Held(weights=None, experts=FORMATS["mxfp4"])
    assert dataclasses.replace(small(GPT_OSS), held=held).region.held == held.experts
    mlp = dataclasses.replace(MIXTURE, shared=1)
    shared = small(dataclasses.replace(GPT_OSS, mlp=mlp))
    with pytest.raises(
        EmulationError, match="experts are held as mxfp4 and other weig"
    ):
        dataclasses.replace(shared, held=held)


def test_plan_of_a_model_with_experts() -> None:
    """Regions grow until every expert's slice fits beside the code."""
    sizes = Sizes(512, 1, 2, 8, 2, 64, 1000)
    mlp = ExpertMlp(Routing(64, 4), 384)
    form = DecodeForm(mlp=mlp)
    plan = plan_wafer(sizes, 64, "bfloat16", WAFER, [LayerKind(form)])
    (kind,) = plan.kinds
    bytes_of_experts = 2 * 64 * 3 * 512 * 384
    assert kind.bytes["weights"] * kind.map.rows * kind.map.cols >= bytes_of_experts
    assert sum(plan.layer_bytes.values()) <= WAFER.sram_bytes
    step = TokenClock(plan, WAFER).read(3)
    active = 2 * 4 * 3 * 512 * 384
    assert step.flops > 2 * active
