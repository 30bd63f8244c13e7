"""Mixtures in MX: values of the formats' own numbers in float64, bytes and FLOPs."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from emu.errors import LimitExceeded
from emu.trainium import TRN3, with_cores
from kernels.formats.coding import as_held
from kernels.formats.formats import FORMATS, of_activations
from kernels.moe.mesh.form import MixtureOfExperts
from kernels.moe.mesh.program import MoeMesh
from kernels.moe.routing import Routing
from kernels.trainium.gemm.mx_pack import MxFormats
from kernels.trainium.layer.gate import CLAMPED
from tests.kernels.moe.mixture_counts import hbm_bytes, matmul_flops
from tests.kernels.moe.moe_oracle import dense, draw, plain, wide

MXFP8 = MxFormats(FORMATS["mxfp8"], of_activations(FORMATS["mxfp8"]))
MXFP4 = MxFormats(FORMATS["mxfp4"], of_activations(FORMATS["mxfp8"]))
# 160 features are 40 partitions of a tile, of 64; 96 of an expert are 24, of 32.
GPT_OSS = MixtureOfExperts(
    Routing(4, 2), 160, 96, CLAMPED, router_bias=True, biases=True
)
DEEPSEEK = MixtureOfExperts(
    Routing(4, 2, "sigmoid", selection_bias=True, groups=2, chosen_groups=1),
    160,
    100,
    shared=64,
)
LLAMA4 = MixtureOfExperts(
    Routing(4, 1, "sigmoid", normalised=False, on_input=True), 160, 96, shared=64
)
# Largest error of the largest value. Sums are float32's, so what is left are roundings to bfloat16,
# 2**-9 each: of an expert's output and of the mixture, and where they differ before a product from
# float64's by the last place of a float32, the next element of MX here and there.
WITHIN = 2**-7


def mesh(what, chips, cores, tokens, **mx):
    tiles = {"tile_rows": 8, "tiles_at_once": 2}
    return MoeMesh(what, chips, cores, tokens, jnp.bfloat16, **tiles, **mx)


def narrow(x):
    return np.asarray(x, np.float32).astype(jnp.bfloat16)


def weights_of(what, on):
    """Matrices as they are, of what is in codes float32, else bfloat16; and as they are held."""

    def given(matrix, mx):
        return narrow(matrix) if mx is None else matrix

    def stands_for(matrix, mx):
        return wide(narrow(matrix)) if mx is None else as_held(matrix, mx.weights)

    made = plain(what)

    def mapped(of_matrix):
        def mlp(own, mx):
            names = "gate", "up", "down"
            matrices = {name: of_matrix(getattr(own, name), mx) for name in names}
            return dataclasses.replace(own, **matrices)

        shared = made.shared and mlp(made.shared, on.others_mx)
        return dataclasses.replace(
            made,
            router=of_matrix(made.router, None),
            experts=mlp(made.experts, on.mx),
            shared=shared,
        )

    return mapped(given), mapped(stands_for)


def taken(mx):
    """What products have of activations, which stand in bfloat16 before."""
    if mx is None:
        return lambda x: wide(narrow(x))
    return lambda x: wide(as_held(wide(narrow(x)).T, mx.activations)).T


def share(found, expected):
    return np.abs(found - expected).max() / np.abs(expected).max()


def agrees(on):
    given, held = weights_of(on.mixture, on)
    x = narrow(draw(1, on.chips, on.tokens, on.mixture.hidden))
    ran = on.run(x, given)
    flat = x.reshape(-1, on.mixture.hidden)
    expected = dense(flat, held, on.mixture, taken=(taken(on.mx), taken(on.others_mx)))
    found = wide(ran.rows).reshape(expected.shape)
    assert share(found, expected) < WITHIN
    # What the formats do is more than what is allowed here.
    assert share(dense(flat, given, on.mixture), expected) > 2 * WITHIN
    return ran


def test_experts_alone_in_mxfp4():
    """As gpt-oss's, with biases of every projection; the router stays wide."""
    agrees(mesh(GPT_OSS, 1, 2, 16, mx=MXFP4))


def test_all_in_mxfp8_over_chips():
    """A shared MLP of 32 features a core."""
    agrees(mesh(DEEPSEEK, 2, 2, 8, mx=MXFP8, others_mx=MXFP8))


@pytest.mark.slow
@pytest.mark.parametrize(
    "what, chips, cores, mx",
    [
        (LLAMA4, 2, 1, {"mx": MXFP8, "others_mx": MXFP8}),
        (LLAMA4, 1, 2, {"others_mx": MXFP8}),
        (DEEPSEEK, 1, 1, {"mx": MXFP4, "others_mx": MXFP8}),
        (GPT_OSS, 2, 2, {"mx": MXFP8}),
    ],
)
def test_other_mixtures(what, chips, cores, mx):
    agrees(mesh(what, chips, cores, 24, **mx))


@pytest.mark.parametrize(
    "what, mx",
    [
        (GPT_OSS, {"mx": MXFP4}),
        (DEEPSEEK, {"mx": MXFP8, "others_mx": MXFP8}),
        (DEEPSEEK, {"mx": MXFP4, "others_mx": MXFP8}),
    ],
)
def test_bytes_and_flops(what, mx):
    """Weights are read as elements and scales; rows of tokens stay in bfloat16."""
    on, chip = mesh(what, 2, 2, 24, **mx), with_cores(TRN3, 2).at()
    counts = np.array([[20, 4, 11, 13], [24, 0, 9, 15]])
    clock = on.read(chip, counts)
    moved, flops = clock.tally.by("bytes"), clock.tally.by("flops")
    assert (moved["hbm_read"], moved["hbm_write"]) == hbm_bytes(on, counts, chip)
    products = flops["trn.nc_matmul"] + flops["trn.nc_matmul_mx"]
    assert products == matmul_flops(on, counts)
    form = on.form(counts)
    rows = sum(-(-own // 8) * 8 for own in counts.sum(0))
    of_shared = on.tokens * np.prod(form.shared_tiles) * 4 if form.others_mx else 0
    per_feature = 2 * 3 * form.hidden_padded
    assert flops["trn.nc_matmul_mx"] == per_feature * (
        rows * np.prod(form.ffn_tiles) + of_shared
    )


def test_what_would_split_a_group_or_a_pair_is_refused():
    with pytest.raises(LimitExceeded, match="tile_rows is 1, must be even"):
        MoeMesh(GPT_OSS, 1, 1, 16, jnp.bfloat16, tile_rows=1, mx=MXFP4).form(
            np.array([[8] * 4])
        )
    shared = dataclasses.replace(DEEPSEEK, shared=48)
    with pytest.raises(LimitExceeded, match="whole groups of 32"):
        mesh(shared, 1, 2, 16, others_mx=MXFP8).form(np.array([[8] * 4]))
