"""A NeuronCore's reading as the quantities AWS's profiler takes its bounds from."""

import math
from collections.abc import Iterable

import jax

from emu.annotations import PyTree
from emu.clock.reading import Event, Reading
from emu.report.attribution import (
    Peak,
    Spent,
    active_ticks,
    last_core,
    spent_by,
    spent_together,
    together,
)
from emu.report.bounds import DMA, Quantities
from emu.trainium.datasheets.sheet import DMA_QUEUES

COMPUTE = ("tensor", "vector", "scalar", "gpsimd")


def quantities(
    reading: Reading, arguments: PyTree, useful_flops: int | None = None
) -> Quantities:
    """The quantities of the core that ends last; FLOPs and bytes are means over the mesh.

    Args:
      reading: with the events of that core.
      arguments: of one core, arrays or abstract; only their sizes are read.
      useful_flops: of the operation itself, a multiply-add counting 2 whatever its data type; None
        takes the instructions'.
    """
    device = reading.device
    tally = reading.tally
    moved = tally.by("bytes")
    other = tally.by("other")
    active_s: dict[str, float] = {}
    for engine, spent in account(reading).items():
        active_s[engine] = active_ticks(spent) / device.tick_hz
    hbm_bytes = (moved.get("hbm_read", 0) + moved.get("hbm_write", 0)) / reading.cores
    hardware = other.get("adjusted_flops", 0) / reading.cores
    transposes = other.get("transpose_flops", 0) / reading.cores
    issued = 0
    for name, flops in tally.by("flops").items():
        # The other engines' operations are no part of what AWS counts; transposes issue none.
        if name.startswith("trn.nc_matmul"):
            issued += flops
    model_flops = None
    if useful_flops is not None and issued:
        # As adjusted as the hardware's: a kernel in fp32 that needs half of what it issues needs
        # half of its adjusted FLOPs.
        useful_share = useful_flops / issued
        model_flops = (hardware - transposes) * useful_share
    return Quantities(
        total_time_s=reading.seconds,
        dma_active_time_s=active_s.get(DMA, 0.0),
        dma_transfer_bytes=hbm_bytes,
        necessary_bytes=_nbytes(arguments) + _nbytes(reading.outputs),
        te_active_time_s=active_s.get("tensor", 0.0),
        hardware_flops=hardware,
        transpose_flops=transposes,
        model_flops=model_flops,
        hbm_bytes=hbm_bytes,
        engine_active_time_s={
            engine: active_s[engine] for engine in COMPUTE if engine in active_s
        },
        peak_flops_per_s=device.bf16_flops_per_s,
        peak_dma_bytes_per_s=device.dma_engines * device.dma_engine_peak_bytes_per_s,
        peak_hbm_bytes_per_s=device.hbm_bytes_per_s / device.hbm_stacks,
    )


def account(reading: Reading) -> Spent:
    """What every engine's time went to on the core that ends last, and that of all DMA queues.

    The DMA engines are active while they serve any queue; what they wait for in between is what
    the next queue to go on waited for.

    Args:
      reading: with the events of that core.
    """
    spent = spent_by(reading, last_core(reading))
    if any(queue in spent for queue in DMA_QUEUES):
        # Queues share the same engines, so their times must not be added: two that are busy at once
        # are one time in which data moves.
        spent[DMA] = spent_together(reading.events, DMA_QUEUES, reading.end_ticks)
    return spent


def dma_events(events: Iterable[Event]) -> list[Event]:
    """When any DMA queue was busy, as events of the engine `dma`."""
    return together(events, DMA_QUEUES, DMA)


def peaks(quantities: Quantities, tick_hz: int) -> dict[str, Peak]:
    """What the Tensor Engine's FLOPs and the DMA engines' bytes take at their peaks."""

    def ticks(amount: float, per_s: float) -> int:
        # Rounded down: work at its peak must never take longer than the work itself.
        return math.floor(amount / per_s * tick_hz)

    flops_per_s = quantities.peak_flops_per_s
    bytes_per_s = quantities.peak_dma_bytes_per_s
    return {
        "tensor": Peak(
            ticks(quantities.useful_flops, flops_per_s),
            ticks(quantities.hardware_flops, flops_per_s),
        ),
        DMA: Peak(
            ticks(quantities.necessary_bytes, bytes_per_s),
            ticks(quantities.dma_transfer_bytes, bytes_per_s),
        ),
    }


def _nbytes(tree: PyTree) -> int:
    leaves = jax.tree.leaves(tree)
    return sum(math.prod(x.shape) * x.dtype.itemsize for x in leaves)
