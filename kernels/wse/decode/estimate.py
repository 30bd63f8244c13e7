"""A rough count of a layer's cycles, to choose its region by; the clock itself is `Program.read`.

It adds what dominates decode: the all-reduces' stages and words, the multiply-adds' callbacks, the
scalar loops, and a fixed set-up per instruction.
"""

from typing import Any

from emu.datasheet import Device
from emu.wse.pe.laws import call_cycles, map_cycles, precision
from emu.wse.timeline.wires import wires
from emu.wse.wavelets import words
from kernels.wse.decode.mapping import (
    HeadMap,
    LayerMap,
    line_groups,
    meet_in_the_middle,
)


def all_reduce_cycles(device: Device, pes: int, elements: int) -> int:
    """Sum of float32 `elements` over `pes`, on all of them."""
    groups = line_groups(pes)
    w = int(words(elements, "float32"))
    fabric = wires(device)
    if not meet_in_the_middle(pes, w):
        back = w + fabric.gap_cycles + int(fabric.latency(pes - 1))
        return reduce_cycles(device, pes, elements) + back
    size = -(-pes // groups)
    levels = [(size // 2, 1)] + [(groups // 2, size)] * (groups > 1)
    # At every level the root adds two streams, then it sends to two sides.
    operations = 2 * len(levels) + 2
    hops = sum(stages * fabric.latency(h) for stages, h in levels) + fabric.latency(
        pes // 2
    )
    return call_cycles(device) + operations * (w + fabric.gap_cycles) + int(hops)


def reduce_cycles(device: Device, pes: int, elements: int) -> int:
    """Sum of float32 `elements` over `pes` into the first one."""
    groups = line_groups(pes)
    w = int(words(elements, "float32"))
    fabric = wires(device)
    size = -(-pes // groups)
    hops = (size - 1) * fabric.latency(1) + (groups - 1) * fabric.latency(size)
    operations = 1 + (groups > 1)
    return call_cycles(device) + operations * (w + fabric.gap_cycles) + int(hops)


def layer_cycles(m: LayerMap, device: Device) -> float:
    """Estimated cycles of one layer with a full cache."""
    r, live = m.queries, -(-m.context // m.rows)
    kind = precision("float32", m.dtype)
    row = [1, (r + 2) * m.dims, r, r * (m.dims + 1), 1, 2 * m.width, m.width]
    col = [m.depth, m.depth]
    group = [r * live, r * live] + ([r + 1] if m.qk_norm else [])
    sums = sum(all_reduce_cycles(device, m.rows, n) for n in row)
    sums += sum(all_reduce_cycles(device, m.cols, n) for n in col)
    sums += sum(all_reduce_cycles(device, m.parts, n) for n in group)
    maps: list[tuple[int, int]] = [
        (m.depth, (r + 2) * m.dims),
        (r * m.dims, live),
        (r * live, m.dims),
        (r * m.dims, m.depth),
        (m.depth, 2 * m.width),
        (m.width, m.depth),
    ]
    loads = sum(float(map_cycles(device, a, b, kind)) for a, b in maps)
    scalar = device.exp_cycles + device.loop_cycles + 2 * device.scalar_cycles
    loops = r * m.slot_share * scalar + m.width_share * (scalar + device.divide_cycles)
    return sums + loads + loops + 2 * r * live * device.fold_cycles


def head_cycles(m: HeadMap, device: Device) -> float:
    """Estimated cycles of embedding, final norm, output head and arg-max."""
    row = all_reduce_cycles(device, m.rows, 1)
    row += reduce_cycles(device, m.rows, m.tokens)
    col = all_reduce_cycles(device, m.cols, m.depth)
    compare = 2 * device.scalar_cycles + device.branch_cycles
    fabric = wires(device)
    col += m.cols * (fabric.latency(1) + 2 + fabric.gap_cycles + compare)
    each = device.loop_cycles + device.scalar_cycles + device.branch_cycles
    kind = precision("float32", m.dtype)
    gemv: Any = map_cycles(device, m.depth, m.tokens, kind)
    return row + col + float(gemv) + m.tokens * each


__all__ = ["all_reduce_cycles", "head_cycles", "layer_cycles", "reduce_cycles"]
