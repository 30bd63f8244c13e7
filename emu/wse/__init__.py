"""The wafer: datasheets, what a PE can do, and how its fabric moves data."""

from emu.wse.collectives.chain_argmax.meaning import chain_argmax
from emu.wse.collectives.gather.meaning import gather
from emu.wse.collectives.multicast.meaning import multicast
from emu.wse.collectives.multicast_2d.meaning import multicast_2d
from emu.wse.collectives.reduce.meaning import reduce
from emu.wse.collectives.ring_all_reduce.meaning import ring_all_reduce
from emu.wse.collectives.scatter.meaning import scatter
from emu.wse.collectives.shift.meaning import shift
from emu.wse.collectives.walk.meaning import walk
from emu.wse.datasheets.datasheet import (
    WSE2,
    WSE3,
    WSE3_SILICON,
    WaferSheet,
    at_clock,
    on_silicon,
)
from emu.wse.pe.isa import copy, copy_into, fill, rope, sram_tile, vector, vector_scale
from emu.wse.pe.maps import fmac_map, score_map, value_map
from emu.wse.pe.scalar import (
    argmax,
    exp,
    fold,
    lookup,
    reciprocal,
    rsqrt_mean,
    silu,
    square_sum,
)

__all__ = [
    "WSE2",
    "WSE3",
    "WSE3_SILICON",
    "WaferSheet",
    "argmax",
    "at_clock",
    "chain_argmax",
    "copy",
    "copy_into",
    "exp",
    "fill",
    "fmac_map",
    "fold",
    "gather",
    "lookup",
    "multicast",
    "multicast_2d",
    "on_silicon",
    "reciprocal",
    "reduce",
    "ring_all_reduce",
    "rope",
    "rsqrt_mean",
    "scatter",
    "score_map",
    "shift",
    "silu",
    "square_sum",
    "sram_tile",
    "value_map",
    "vector",
    "vector_scale",
    "walk",
]
