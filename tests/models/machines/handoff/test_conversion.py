"""Order and format at either end: pieces counted one by one, and times from each machine's laws."""

from fractions import Fraction as F

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emu.trainium import TRN3
from emu.wse import WSE3
from kernels.formats.formats import FORMATS, of_activations
from kernels.wse.decode.coded_cache import append_cycles
from kernels.wse.decode.mapping import LayerMap
from models.machines.handoff.conversion import (
    coding_s,
    gather_s,
    keeping_s,
    picking_s,
    pieces,
)
from models.machines.handoff.fields import fields_of
from tests.models.machines.handoff.maps import WIDE, of_heads, of_latents

FP8 = of_activations(FORMATS["fp8"])


def counted(layer: LayerMap, sent, tokens: int, is_coded: bool) -> int:
    """Pieces that are contiguous in a chip's HBM and in a PE's block, element by element."""
    total = 0
    for field in fields_of(layer, sent):
        # In HBM a token's elements lie together, or a feature's of a tile's tokens.
        by_token = field.tile == "v" or (is_coded and field.is_number)
        first_column = {}
        for number, column, index in field.takes.tolist():
            first_column.setdefault(number, (column, index))
        blocks: dict[tuple[int, int], list[tuple[int, int, int]]] = {}
        for number, (column, index) in first_column.items():
            for token in range(tokens):
                slot, row = divmod(token, layer.rows)
                block = blocks.setdefault((row, column), [])
                source = token * field.count + number
                if not by_token:
                    source = number * 128 + token
                is_value = field.tile == "v"
                first, second = (slot, index) if is_value else (index, slot)
                block.append((first, second, source))
        for block in blocks.values():
            sources = np.array([source for *_, source in sorted(block)])
            total += 1 + int((np.diff(sources) != 1).sum())
    return total


@settings(max_examples=40, derandomize=True, deadline=None)
@given(st.sampled_from([1, 2, 4]), st.integers(2, 5), st.integers(1, 9), st.booleans())
def test_pieces_of_keys_and_values(parts, rows, tokens, is_coded) -> None:
    """Runs that meet by chance at a block's seams are the only ones that the closed form parts."""
    layer = of_heads(parts=parts, rows=rows, head_dim=16, kv_heads=2)
    sent = FP8 if is_coded else WIDE
    told = pieces(layer, sent, tokens, is_coded)
    assert counted(layer, sent, tokens, is_coded) <= told
    if tokens <= rows and parts > 1:
        assert counted(layer, sent, tokens, is_coded) == told


def test_pieces_of_latents_are_single_numbers() -> None:
    layer = of_latents()
    assert pieces(layer, WIDE, 5, False) == 5 * 20 == counted(layer, WIDE, 5, False)


def test_gathering_is_the_dma_engines_law() -> None:
    """A thousand pieces of 16 bytes on 16 engines: 1 ns and 16 / 33 each, then a copy's own."""
    chip = TRN3.at()
    each_s = 1e-9 + 16 / 33e9
    own_s = 1000 * each_s / 16 + 1e-9 + 0.14e-6
    assert float(gather_s(chip, 1000, 16_000, 1)) == pytest.approx(own_s, rel=1e-3)
    # Eight cores have as many engines each.
    assert gather_s(chip, 80_000, 1_280_000, 8) == gather_s(chip, 10_000, 160_000, 1)


def test_pes_make_codes_of_what_comes_wide() -> None:
    """As of a new token, one after another; of what comes in codes nothing is left to do."""
    device, layer = WSE3.at(), of_heads(cache="fp8")
    each = append_cycles(2 * layer.dims, FP8, device)
    assert keeping_s(layer, device, WIDE, 10) == pytest.approx(
        10 * each / device.clock_hz, rel=1e-2
    )
    assert keeping_s(layer, device, FP8, 10) == 0
    assert keeping_s(of_heads(), device, WIDE, 10) == 0


def test_a_pe_picks_its_own() -> None:
    device, layer = WSE3.at(), of_heads()
    few, many = (picking_s(layer, device, n) for n in (12 * 16, 12 * 1616))
    assert many - few == F(1600 // 16, device.clock_hz)


def test_chips_code_by_their_engines() -> None:
    """A tile of 128 tokens, one head of 128: at least a pass of a fast engine, at most some."""
    one = coding_s(TRN3, "nominal", 1, 128, FP8, "bfloat16")
    two = coding_s(TRN3, "nominal", 2, 128, FP8, "bfloat16")
    assert 128 / 2 / 1.2e9 < one < two < 10e-6
    with pytest.raises(ValueError, match="fp8 or int8, got mxfp8"):
        coding_s(TRN3, "nominal", 1, 128, of_activations(FORMATS["mxfp8"]), "bfloat16")
