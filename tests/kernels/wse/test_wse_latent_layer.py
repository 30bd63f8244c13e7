"""A decode layer with latent attention: values, FLOPs, bytes and cycles."""

import dataclasses

import numpy as np
import pytest

from emu.wse import WSE3
from kernels.wse.decode.form import DecodeForm
from kernels.wse.decode.latent_map import LatentForm
from kernels.wse.decode.mapping import LayerMap
from tests.kernels.wse.latent_reference import (
    LatentReference,
    gated,
    random_latent,
    random_mlp,
)
from tests.kernels.wse.layer_reference import run_layer

WAFER = WSE3.at()
HIDDEN, FFN, HEADS, CONTEXT = 22, 26, 6, 9
FORM = LatentForm(query_rank=10, rank=12, plain=6, turned=8, value_dim=5)


def latent_layer(
    rows: int, groups: int, parts: int, dtype: str = "float32", **form: object
) -> LayerMap:
    return LayerMap(
        hidden=HIDDEN,
        ffn=FFN,
        heads=HEADS,
        kv_heads=groups,
        head_dim=FORM.cached,
        eps=1e-5,
        qk_norm=False,
        context=CONTEXT,
        rows=rows,
        parts=parts,
        dtype=dtype,
        form=dataclasses.replace(DecodeForm(latent=FORM), **form),
    )


def tokens(count: int) -> np.ndarray:
    return np.random.default_rng(7).standard_normal((count, HIDDEN))


# Rows that have several heads or part of one, a padded head, columns with parts of the features.
REGIONS = [(4, 2, 2), (3, 6, 1), (40, 1, 4), (5, 4, 2), (1, 1, 1)]


@pytest.mark.parametrize("region", REGIONS)
def test_values(region: tuple[int, int, int]) -> None:
    """To float32 rounding of sums of a few dozen products, the cache growing from nothing."""
    layer = latent_layer(*region)
    weights = random_latent(FORM, HIDDEN, HEADS, 3) | random_mlp(HIDDEN, FFN, 4)
    reference = LatentReference(layer, weights, gated(weights))
    x = tokens(6)
    expected = np.stack([reference.step(token) for token in x])
    np.testing.assert_allclose(
        run_layer(layer, weights, x), expected, rtol=2e-5, atol=2e-5
    )
