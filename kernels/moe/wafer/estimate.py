"""A rough count of a mixture's cycles on a region, to choose regions by."""

import math

import jax.numpy as jnp

from emu.datasheet import Device
from emu.wse.pe.laws import map_cycles, move_cycles, precision
from kernels.formats.formats import Format
from kernels.moe.wafer.placed import ExpertMap
from kernels.wse.decode.coded import matrix_cycles
from kernels.wse.decode.estimate import all_reduce_cycles


def expert_cycles(layout: ExpertMap, device: Device) -> float:
    """Sums, multiply-adds and scalar code of one token."""
    region, routing = layout.region, layout.routing
    high, wide = layout.block
    own, turned = layout.own, layout.turned
    active, width = layout.active, layout.width
    sums = [
        (region.rows, own),  # logits
        (high, own),  # scores
        (wide, turned),  # those of rows
        (wide, turned),  # ranks
        (high, 2 * routing.chosen),  # the list
        (region.rows, 2 * active * width),  # gate and up
        (layout.band, active * width),  # hidden vectors
        (region.cols, region.depth),  # the output
    ]
    if routing.score == "softmax":
        sums.append((wide, 1))
    if routing.selection_bias:
        sums.append((wide, turned))
    if routing.groups > 1:
        sums += [(wide, turned), (high, layout.groups), (wide, layout.groups)]
    total = float(sum(all_reduce_cycles(device, p, n) for p, n in sums if p > 1))

    kind = precision("float32", region.dtype)
    total += float(map_cycles(device, region.depth, own, kind))
    if region.held is None:
        total += active * float(map_cycles(device, region.depth, 2 * width, kind))
        total += active * float(map_cycles(device, width, region.depth, kind))
    else:
        total += coded_cycles(layout, region.held, device)

    compare = device.loop_cycles + 2 * device.scalar_cycles + device.branch_cycles
    function = device.loop_cycles + device.exp_cycles + device.divide_cycles
    pairs = own * turned
    if routing.groups > 1:
        pairs += pairs // routing.groups + layout.group_share * routing.groups
    total += compare * (pairs + 2 * turned)
    activations = layout.pieces_a_row * layout.share
    return total + function * (layout.score_share + activations)


def coded_cycles(layout: ExpertMap, held: Format, device: Device) -> float:
    """Of copying the chosen experts' codes and scales, and of the products with them."""
    dtype, active = layout.region.dtype, layout.active
    total = 0.0
    for name, tile in layout.matrices.items():
        dtypes = tile.dtypes(name, held)
        for part, shape in tile.shapes(name, held).items():
            nbytes = jnp.dtype(dtypes[part]).itemsize * math.prod(shape)
            total += active * float(move_cycles(device, nbytes))
    if layout.deals_scales:
        # Looked up where they would be copied, and summed over a block's columns.
        _, wide = layout.block
        elements = active * layout.matrices["experts_down"].columns
        total += all_reduce_cycles(device, wide, elements) if wide > 1 else 0
    gate_up, down = layout.matrices.values()
    total += matrix_cycles(gate_up.beside(active), held, dtype, device)
    return total + matrix_cycles(down.below(active), held, dtype, device)


__all__ = ["expert_cycles"]
