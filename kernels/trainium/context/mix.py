"""Outputs of several score maps over the same values, mixed into one output a head.

Differential attention is `softmax(q1 k1) v - lambda softmax(q2 k2) v`. Each map is a head of its
own until it is finished; then outputs of one head, which stand `group` heads apart, are loaded side
by side and summed with a factor each. Of 2 maps of 4 heads over 2 value heads a core has

    head        0 1    2 3    4 5    6 7
    KV head     0      1      2      3
    map         0      1      0      1
    output      0 1    0 1    2 3    2 3
"""

from collections.abc import Sequence

from emu.annotations import KnownInt
from emu.tracing.loop import loop
from emu.trainium.datasheets.sheet import LOAD_QUEUES
from emu.trainium.engines.memory import dma_load, dma_load_tiles, dma_store, hbm, sbuf
from emu.trainium.isa import scalar_tensor_tensor, tensor_scalar, tensor_tensor
from emu.trainium.spaces import Hbm, Sbuf
from kernels.trainium.context.sizes import ContextTiling
from kernels.trainium.context.state import STORES
from kernels.trainium.tiles import divide, index, part


def mix(
    out: Hbm, factors: Hbm, tiling: ContextTiling, counts_as_is: Sequence[bool]
) -> Hbm:
    """Sums the outputs of all maps of a head.

    Args:
      out: HBM `[heads, tiles, rows, value_dim]`.
      factors: HBM float32 `[heads / maps, rows, maps]`, of each map of each head, on every row.
      tiling: sizes of one core.
      counts_as_is: of every map, whether its factor is 1; then nothing is multiplied.

    Returns:
      HBM `[heads / maps, tiles, rows, value_dim]`, in the dtype of `out`.

    Pseudocode:
      for head: load factors; for block of query tiles:
        for map: load its output; sum = output * factor + sum
        store
    """
    heads = tiling.heads // tiling.maps
    together = tiling.block_tiles
    mixed = hbm(
        heads * tiling.tiles, tiling.rows, tiling.value_dim, dtype=tiling.output
    )

    def mix_head(mixed: Hbm, head: KnownInt) -> Hbm:
        own_factors = sbuf(tiling.rows, tiling.maps, buffers=tiling.buffers)
        own_factors = dma_load(own_factors, index(factors, head), queue=LOAD_QUEUES[0])
        value_head, within = divide(head, tiling.group)

        def mix_block(mixed: Hbm, block: KnownInt) -> Hbm:
            first = block * together
            total: Sbuf | None = None
            for place, as_is in enumerate(counts_as_is):
                source = (value_head * tiling.maps + place) * tiling.group + within
                of_map = part(index(out, source), first, together, 0)
                loaded = _tile(tiling)
                queue = LOAD_QUEUES[place % 2]
                loaded = dma_load_tiles(loaded, of_map, queue=queue)
                factor = own_factors[:, place : place + 1]
                total = _added(total, loaded, None if as_is else factor, tiling)
            assert total is not None
            for lane in range(together):
                target = head * tiling.tiles + first + lane
                own = total[:, lane]
                mixed = dma_store.at[target](mixed, own, queue=STORES[lane % 2])
            return mixed

        return loop(mix_block, mixed, tiling.blocks)

    mixed = loop(mix_head, mixed, heads)
    return mixed.reshape(heads, tiling.tiles, tiling.rows, tiling.value_dim)


def _added(
    total: Sbuf | None, output: Sbuf, factor: Sbuf | None, tiling: ContextTiling
) -> Sbuf:
    """`total + factor * output`; without a factor it is 1, and without a total 0."""
    if factor is None:
        if total is None:
            return output
        return tensor_tensor(_tile(tiling), output, total, op="add")
    tile = _tile(tiling)
    if total is None:
        return tensor_scalar(tile, output, factor, op="multiply")
    return scalar_tensor_tensor(tile, output, factor, total, op0="multiply", op1="add")


def _tile(tiling: ContextTiling) -> Sbuf:
    """SBUF for a block's query tiles of one head."""
    return sbuf(
        tiling.rows,
        tiling.block_tiles,
        tiling.value_dim,
        dtype=tiling.output,
        buffers=tiling.buffers,
    )


__all__ = ["mix"]
