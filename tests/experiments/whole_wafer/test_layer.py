"""One decode layer on its region, stepped: the region, the sample, and a whole small one."""

import numpy as np
import pytest

from emu.wse import WSE3
from experiments.shared.errors import UsageError
from experiments.whole_wafer import layer as whole_layer

TINY = "tiny"


def test_a_region_of_ones_own() -> None:
    layer = whole_layer.layer_of(TINY, 32, WSE3.at(), (5, 6))
    assert (layer.rows, layer.cols, layer.parts) == (5, 6, 3)
    planned = whole_layer.layer_of(TINY, 32, WSE3.at(), None)
    assert planned.hidden == layer.hidden and planned.cols % planned.kv_heads == 0


@pytest.mark.parametrize("cols", [3, 10])
def test_columns_that_no_head_can_be_dealt_over(cols: int) -> None:
    with pytest.raises(
        UsageError, match=f"--pes has {cols} columns, tiny takes 2 times"
    ):
        whole_layer.layer_of(TINY, 32, WSE3.at(), (5, cols))


def test_corners_are_in_the_sample() -> None:
    layer = whole_layer.layer_of(TINY, 32, WSE3.at(), (40, 6))
    rows, cols = whole_layer.sampled(layer)
    pairs = set(zip(rows.tolist(), cols.tolist(), strict=True))
    assert {(0, 0), (0, 5), (39, 0), (39, 5)} <= pairs
    assert whole_layer.SAMPLE <= len(pairs) == len(rows)


def test_arguments_are_of_the_layer() -> None:
    layer = whole_layer.layer_of(TINY, 32, WSE3.at(), (5, 6))
    residual, weights, cache, *_ = whole_layer.arguments(layer)
    assert residual.shape == (5, layer.depth)
    assert set(weights) == set(layer.weight_shapes())
    assert all(x.dtype == "bfloat16" for x in cache.values())
    assert 0 < float(np.abs(np.asarray(weights["qkv"], np.float32)).max()) < 1


@pytest.mark.slow
def test_a_small_layer_three_ways() -> None:
    result = whole_layer.measure(TINY, 32, WSE3.at(), (3, 2))
    assert result.agrees and result.checked == result.equal == result.pes
    assert 0 <= result.difference <= 0.001
    assert sum(result.shares().values()) == pytest.approx(1)
    assert result.shares()["instructions within the PE"] > 0.5
