"""The wafer: datasheets, what a PE can do, and how its fabric moves data."""

from emu.wse.datasheet import WSE2, WSE3, WSE3_SILICON, WaferSheet, at_clock, on_silicon
from emu.wse.fabric import chain_reduce, multicast
from emu.wse.isa import copy, copy_into, fill, rope, sram_tile, vector, vector_scale
from emu.wse.maps import fmac_map, score_map, value_map
from emu.wse.scalar import (
    argmax,
    exp,
    fold,
    lookup,
    reciprocal,
    rsqrt_mean,
    silu,
    square_sum,
)
from emu.wse.steps import chain_argmax, shift, walk

__all__ = [
    "WSE2", "WSE3", "WSE3_SILICON", "WaferSheet", "argmax", "at_clock", "chain_argmax",
    "chain_reduce", "copy", "copy_into", "exp", "fill", "fmac_map", "fold", "lookup", "multicast",
    "on_silicon", "reciprocal", "rope", "rsqrt_mean", "score_map", "shift", "silu", "square_sum",
    "sram_tile", "value_map", "vector", "vector_scale", "walk",
]  # fmt: skip
