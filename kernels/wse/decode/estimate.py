"""A rough count of a layer's cycles, to choose its region by; the clock itself is `Program.read`.

It adds what dominates decode: the all-reduces' stages and words, the multiply-adds' callbacks, the
scalar loops, and a fixed set-up per instruction.
"""

import dataclasses

from emu.datasheet import Device
from emu.wse.pe.laws import (
    SINGLE,
    call_cycles,
    map_cycles,
    move_cycles,
    precision,
    vector_cycles,
)
from emu.wse.pe.packed import SCALES, is_code, widen_cycles
from emu.wse.timeline.wires import wires
from emu.wse.wavelets import words
from kernels.formats.formats import POWER_OF_TWO, Format
from kernels.wse.decode.attention_map import AttentionMap
from kernels.wse.decode.cached import piece_slots
from kernels.wse.decode.coded import matrix_cycles
from kernels.wse.decode.coded_cache import append_cycles
from kernels.wse.decode.mapping import (
    HeadMap,
    LayerMap,
    group_size,
    line_groups,
    meet_in_the_middle,
    share_of,
)


def all_reduce_cycles(device: Device, pes: int, elements: int) -> int:
    """Sum of float32 `elements` over `pes`, on all of them."""
    wavelets = int(words(elements, "float32"))
    fabric = wires(device)
    if not meet_in_the_middle(pes, wavelets):
        back = wavelets + fabric.gap_cycles + int(fabric.latency(pes - 1))
        return reduce_cycles(device, pes, elements) + back
    groups = line_groups(pes)
    size = group_size(pes)
    # Stages of each level, and hops between two PEs that follow each other in it.
    levels = [(size // 2, 1)]
    if groups > 1:
        levels.append((groups // 2, size))
    hops = sum(stages * fabric.latency(apart) for stages, apart in levels)
    hops += fabric.latency(pes // 2)
    # At every level the root adds two streams, then it sends to two sides.
    operations = 2 * len(levels) + 2
    streams = operations * (wavelets + fabric.gap_cycles)
    return call_cycles(device) + streams + int(hops)


def reduce_cycles(device: Device, pes: int, elements: int) -> int:
    """Sum of float32 `elements` over `pes` into the first one."""
    wavelets = int(words(elements, "float32"))
    fabric = wires(device)
    groups = line_groups(pes)
    size = group_size(pes)
    in_groups = (size - 1) * fabric.latency(1)
    over_leaders = (groups - 1) * fabric.latency(size)
    hops = in_groups + over_leaders
    operations = 2 if groups > 1 else 1
    streams = operations * (wavelets + fabric.gap_cycles)
    return call_cycles(device) + streams + int(hops)


def layer_cycles(layer: LayerMap, device: Device) -> float:
    """Estimated cycles of one layer with a full cache."""
    scores = layer.queries * _live(layer)
    sums = _layer_sum_cycles(layer, device)
    loads = _layer_map_cycles(layer, device)
    scalar = device.exp_cycles + device.loop_cycles + 2 * device.scalar_cycles
    loops = layer.queries * layer.slot_share * scalar
    if layer.form.mlp is not None:
        loops += layer.form.mlp.cycles(layer.region, device)
    else:
        loops += layer.width_share * (scalar + device.divide_cycles)
    # The scores are gone through for their maximum, and again for their sum.
    return sums + loads + loops + 2 * scores * device.fold_cycles


def _live(layer: LayerMap) -> int:
    """Slots in use on each PE when the cache is full."""
    return share_of(layer.context, layer.rows)


def _layer_sum_cycles(layer: LayerMap, device: Device) -> int:
    """Of a layer's all-reduces, in the order in which it does them along each line."""
    if layer.form.latent is not None:
        along_rows, along_columns, along_group = layer.latent.sums(_live(layer))
    else:
        along_rows, along_columns, along_group = _sums_of_heads(layer)
    along_rows.append(1)  # mean square before the MLP
    if layer.form.mlp is None:
        along_rows += [2 * layer.width, layer.width]  # gate and up, and their product
        along_columns.append(layer.depth)
    if layer.form.output_norms:
        along_rows += [1, 1]

    def cycles(pes: int, sizes: list[int]) -> int:
        return sum(all_reduce_cycles(device, pes, size) for size in sizes)

    return (
        cycles(layer.rows, along_rows)
        + cycles(layer.cols, along_columns)
        + cycles(layer.parts, along_group)
    )


def _sums_of_heads(layer: LayerMap) -> tuple[list[int], list[int], list[int]]:
    """Elements of the all-reduces of attention: along rows, along columns, in a group."""
    queries = layer.queries
    scores = queries * _live(layer)
    along_rows = [
        1,  # mean square before attention
        (queries + 2) * layer.dims,  # queries, key and value
        queries,  # maximum of the scores
        queries * (layer.dims + 1),  # values, and the sum of the softmax
    ]
    along_group = [scores, scores]  # scores, then their exponentials
    if layer.qk_norm:
        along_group.append(queries + 1)
    if layer.form.unit_qk_norm:
        along_group.append(queries + 1)
    along_columns = [layer.depth]  # the output
    if layer.form.wide_qk_norm:
        along_columns.append(2)
    return along_rows, along_columns, along_group


def _layer_map_cycles(layer: LayerMap, device: Device) -> float:
    """Of a layer's multiply-adds: inputs, each with a callback, and outputs of each."""
    kind = precision("float32", layer.dtype)
    cycles = [
        matrix_cycles(tile, layer.held.weights, layer.dtype, device)
        for tile in layer.matrices.values()
    ]
    maps: list[tuple[int, int]] = []
    if layer.held.cache is not None and layer.form.latent is not None:
        cycles.append(_coded_latents_cycles(layer, layer.held.cache, device))
    elif layer.held.cache is not None:
        cycles.append(_coded_cache_cycles(layer, layer.held.cache, device))
    elif layer.form.latent is not None:
        maps = layer.latent.products(_live(layer))
    else:
        maps = _products_of_heads(layer)
    for inputs, outputs in maps:
        each = map_cycles(device, inputs, outputs, kind)
        cycles.append(float(each))
    return sum(cycles)


def _coded_cache_cycles(layer: LayerMap, held: Format, device: Device) -> float:
    """Of products with a cache in codes, of their scales, and of the new token's codes."""
    live = _live(layer)
    of_layer = AttentionMap.of_layer(layer, most_live=live)
    block = layer.cache_blocks.run if held.scale == POWER_OF_TWO else 0
    layout = dataclasses.replace(of_layer, cache_dtype=held.element, block=block)
    scores = vector_cycles(device, layer.queries * live, SINGLE)
    exchange = all_reduce_cycles(device, layer.parts, 2)
    appended = append_cycles(2 * layer.dims, held, device)
    return _product_cycles(layout, device) + 2 * float(scores) + exchange + appended


def _coded_latents_cycles(layer: LayerMap, held: Format, device: Device) -> float:
    """As `_coded_cache_cycles`: codes are made wide for the scores, and latents' for the values."""
    live, kind = _live(layer), precision("float32", layer.dtype)
    total = 0.0
    for inputs, outputs in layer.latent.products(live):
        total += float(map_cycles(device, inputs, outputs, kind))
    for dims in (layer.dims, layer.value_dims):
        n, pairs = dims * live, dims * (live // 2 + 1)
        total += float(widen_cycles(device, held.element, layer.itemsize, pairs, n))
    # Scores of latents, those of turned keys and their sum; weights.
    scores = 4 * float(vector_cycles(device, layer.queries * live, SINGLE))
    exchange = all_reduce_cycles(device, layer.parts, 2)
    return total + scores + exchange + append_cycles(layer.dims, held, device)


def _products_of_heads(layer: LayerMap) -> list[tuple[int, int]]:
    queries, live = layer.queries, _live(layer)
    return [
        (queries * layer.dims, live),  # scores
        (queries * live, layer.dims),  # values
    ]


def attention_cycles(layout: AttentionMap, device: Device) -> float:
    """Rough cycles of a token without the variant's own arithmetic; the clock is the plan's."""
    live = layout.most_live
    scores = layout.queries * live
    of_group = all_reduce_cycles(device, layout.parts, scores)
    along_rows = [layout.queries, layout.queries * (layout.value_dims + 1)]
    sums = sum(all_reduce_cycles(device, layout.rows, size) for size in along_rows)
    maps = _product_cycles(layout, device)
    each = device.exp_cycles + device.loop_cycles + 2 * device.scalar_cycles
    exponentials = layout.queries * layout.slot_share * each
    # Gone through for the maximum, and again for the sum.
    folds = 2 * scores * device.fold_cycles
    # A line of one PE sums nothing.
    of_group = 2 * of_group if layout.parts > 1 else 0
    sums = sums if layout.rows > 1 else 0
    joined = _join_cycles(layout, device) if layout.ahead else 0
    return float(of_group + sums + maps + exponentials + folds + joined)


def _product_cycles(layout: AttentionMap, device: Device) -> float:
    """Of keys times queries and weights times values; of bytes, of each piece and its widening."""
    live = layout.most_live
    in_bytes = is_code(layout.held_dtype)
    size = piece_slots(layout.slots) if in_bytes else live
    # Of 1,000 slots in pieces of 16 there are two kinds: 62 whole ones and the last, of 8.
    of_piece: dict[int, list[float]] = {}
    total = 0.0
    for first in range(0, live, size):
        count = min(size, live - first)
        if count not in of_piece:
            of_piece[count] = _piece_cycles(layout, device, count, in_bytes)
        for cycles in of_piece[count]:
            total += cycles
    return total


def _piece_cycles(
    layout: AttentionMap, device: Device, count: int, in_bytes: bool
) -> list[float]:
    """Of a piece of some slots: its products, and what makes numbers of its bytes."""
    kind = precision("float32", layout.dtype)
    scores = map_cycles(device, layout.queries * layout.dims, count, kind)
    values = map_cycles(device, layout.queries * count, layout.value_dims, kind)
    found = [float(scores + values)]
    if not in_bytes:
        return found
    of_keys = layout.dims * count, layout.dims * (count // 2 + 1)
    of_values = layout.value_dims * count, layout.value_dims * count // 2 + 1
    for n, pairs in (of_keys, of_values):
        each = widen_cycles(device, layout.held_dtype, layout.itemsize, pairs, n)
        found.append(float(each))
    if layout.block:
        found.append(_power_cycles(layout, device, count))
    return found


def _power_cycles(layout: AttentionMap, device: Device, count: int) -> float:
    """Of the powers of two of a piece's blocks, and of what is multiplied by them."""
    scores = layout.queries * count
    of_weights = precision(layout.dtype, layout.dtype)
    total = 0.0
    for blocks, nbytes, kind in (
        (layout.blocks(layout.dims), 4, SINGLE),
        (layout.blocks(layout.value_dims), layout.itemsize, of_weights),
    ):
        pairs = blocks * (count // 2 + 1)
        each = widen_cycles(device, SCALES, nbytes, pairs, blocks * count)
        total += float(each) + blocks * float(vector_cycles(device, scores, kind))
    # What a further block adds to the scores is added in an operation of its own.
    further = layout.blocks(layout.dims) - 1
    return total + further * float(vector_cycles(device, scores, SINGLE))


def _join_cycles(layout: AttentionMap, device: Device) -> float:
    """Of copying what lies before and behind a gap: keys, values, positions and a mask."""
    slots = layout.slots
    each_bytes = [
        layout.dims * slots * layout.itemsize,
        layout.value_dims * slots * layout.itemsize,
        4 * slots,
        2 * slots,
    ]
    # A part before the gap and one behind it.
    copies = [
        move_cycles(device, nbytes) + move_cycles(device, 0) for nbytes in each_bytes
    ]
    return float(sum(copies))


def head_cycles(head: HeadMap, device: Device) -> float:
    """Estimated cycles of embedding, final norm, output head and arg-max."""
    fabric = wires(device)
    compare = 2 * device.scalar_cycles + device.branch_cycles
    hop_and_compare = fabric.latency(1) + 2 + fabric.gap_cycles + compare
    along_rows = all_reduce_cycles(device, head.rows, 1)
    along_rows += reduce_cycles(device, head.rows, head.tokens)
    along_columns = all_reduce_cycles(device, head.cols, head.depth)
    along_columns += head.cols * hop_and_compare
    kind = precision("float32", head.dtype)
    gemv = float(map_cycles(device, head.depth, head.tokens, kind))
    each_token = device.loop_cycles + device.scalar_cycles + device.branch_cycles
    return along_rows + along_columns + gemv + head.tokens * each_token


__all__ = [
    "all_reduce_cycles",
    "attention_cycles",
    "head_cycles",
    "layer_cycles",
    "reduce_cycles",
]
