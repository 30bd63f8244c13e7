"""What a DMA costs: descriptors on engines that all queues share, between trigger and wake-up."""

import math

from emu.datasheet import Device
from emu.errors import LimitExceeded
from emu.instruction import Cost, Operand
from emu.trainium.datasheets.sheet import DMA_QUEUES


def dma_cost(
    device: Device,
    name: str,
    queue: str,
    *,
    partitions: int,
    descriptors: int,
    descriptor_bytes: float,
    hbm_bytes: int,
    share: float = 1.0,
) -> Cost:
    """The cost of one DMA instruction: a list of descriptors of equal size.

    An engine takes `t = dma_descriptor_s + descriptor_bytes / rate` for each descriptor, one
    `dma_descriptor_s` for the semaphore that it writes at the end, and `dma_copy_s` between one
    copy and the next. Engines serve 8 partitions each, so a copy of few partitions uses few
    engines, and other queues use the rest of them meanwhile:

    - the queue is busy `descriptors · t / engines`, the semaphore and `dma_copy_s` on the engines
      used, and takes as much from every other queue;
    - it starts its next copy `dma_interval_s` later at the earliest: one stream alone does not fill
      the engines with short descriptors, several do;
    - data arrives after `ceil(descriptors / engines it uses) · t` and the semaphore, between the
      trigger before and the consumer's wake-up after;
    - neither is shorter than its bytes at this core's part of the chip's HBM bandwidth.

    Source: SDK, DMA overview and bandwidth guide; `t` is fitted.

    Args:
      device: the machine.
      name: instruction, for errors.
      queue: one of `DMA_QUEUES`.
      partitions: SBUF partitions that it touches.
      descriptors: contiguous pieces.
      descriptor_bytes: bytes of each.
      hbm_bytes: bytes read from and written to HBM.
      share: part of the rate of a plain copy that it reaches.

    Raises:
      LimitExceeded: no such queue.
    """
    if queue not in DMA_QUEUES:
        raise LimitExceeded(
            f"{name}: queue is {queue!r}, must be one of {', '.join(DMA_QUEUES)}"
        )
    rate = share * device.dma_engine_bytes_per_s
    each_s = device.dma_descriptor_s + descriptor_bytes / rate
    used = min(
        device.dma_engines, math.ceil(partitions / device.dma_partitions_per_engine)
    )
    hbm_s = hbm_bytes * device.cores_running / device.hbm_bytes_per_s
    copy_s = device.dma_copy_s * used / device.dma_engines
    all_s = descriptors * each_s / device.dma_engines
    busy_s = max(all_s + device.dma_descriptor_s + copy_s, hbm_s)
    data_s = max(
        math.ceil(descriptors / used) * each_s + device.dma_descriptor_s, hbm_s
    )
    busy = device.ticks(busy_s)
    return Cost(
        engine=queue,
        busy_cycles=busy,
        interval_cycles=device.ticks(device.dma_interval_s),
        latency_cycles=device.ticks(
            device.dma_trigger_s + data_s + device.dma_wakeup_s
        ),
        taken={other: busy for other in DMA_QUEUES if other != queue},
    )


def rows_cost(
    device: Device,
    name: str,
    queue: str,
    rows: Operand,
    hbm_bytes: int,
    share: float = 1.0,
) -> Cost:
    """`dma_cost` of a descriptor for each partition of the SBUF tile `rows`."""
    p = rows.shape[0]
    return dma_cost(
        device,
        name,
        queue,
        partitions=p,
        descriptors=p,
        descriptor_bytes=rows.nbytes / p,
        hbm_bytes=hbm_bytes,
        share=share,
    )
