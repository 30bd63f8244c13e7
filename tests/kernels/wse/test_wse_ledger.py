"""The ledger of PEs' bytes, and caches whose rows of PEs stay as full as each other."""

import dataclasses

import numpy as np
import pytest

from emu.wse import WSE3
from kernels.wse.decode import ledger
from kernels.wse.decode.layout import cache_tiles
from kernels.wse.decode.mapping import LayerMap
from kernels.wse.decode.plan import plan_wafer
from tests.kernels.wse.reference import Sizes

SIZES = Sizes(66, 90, 5, 4, 2, 16, 101)


def test_every_byte_has_a_pe() -> None:
    plan = plan_wafer(SIZES, 40, "bfloat16", WSE3.at(), users=3, wafers=2)
    regions, wafers = ledger.entries(plan), ledger.wafers(plan)
    assert [entry.name for entry in regions] == [
        *(f"layer {n}" for n in range(5)),
        "head",
    ]
    assert [use.wafer for use in wafers] == [0, 1]
    assert sum(use.pes for use in wafers) == plan.pes
    assert sum(use.regions for use in wafers) == 6
    for entry, kind in zip(regions, plan.layers, strict=False):
        layer = kind.map
        assert entry.region.pes == layer.rows * layer.cols
        assert entry.pe_bytes["weights"] == layer.weight_bytes()
        assert entry.pe_bytes["cache"] == 3 * layer.cache_bytes()
        assert entry.peak_bytes <= WSE3.sram_bytes.value
    # Of all wafers together, no less than the model and three users' caches.
    held = {"weights": 0, "cache": 0}
    for use in wafers:
        own = [entry for entry in regions if entry.wafer == use.wafer]
        assert use.peak_bytes == max(entry.peak_bytes for entry in own)
        for kind in held:
            held[kind] += use.sram_bytes.get(kind, 0)
    c = SIZES
    heads = (c.num_attention_heads + 2 * c.num_key_value_heads) * c.head_dim
    each = c.hidden_size * (heads + c.num_attention_heads * c.head_dim)
    each += 3 * c.hidden_size * c.intermediate_size
    assert held["weights"] >= 2 * (5 * each + c.vocab_size * c.hidden_size)
    assert held["cache"] >= 2 * 3 * 5 * 40 * 2 * c.num_key_value_heads * c.head_dim


@pytest.mark.parametrize("rows", [1, 5, 6, 7])
def test_rows_are_as_full_as_each_other_after_any_number_of_tokens(rows: int) -> None:
    """A token is put where the fewest are: rows differ by one slot at the most."""
    layer = LayerMap(66, 90, 4, 2, 16, 1e-5, False, 40, rows=rows, parts=4)
    for tokens in range(41):
        k = np.ones((1, tokens, 2, 16), np.float32)
        tile = cache_tiles(k, k, layer)["k"][0]
        # [rows, cols, dims, slots]: a slot is live where its key is not zero.
        live = (np.abs(tile).sum(axis=2) > 0).sum(axis=-1)
        assert (live == live[:, :1]).all() and live[:, 0].sum() == tokens
        assert live.max() - live.min() <= 1
        filled = dataclasses.replace(layer, context=max(1, tokens))
        assert live.max() <= filled.slots
