"""What a DMA costs: descriptors on engines that all queues share, between trigger and wake-up."""

import dataclasses
import math

from emu.datasheet import Device
from emu.errors import LimitExceeded
from emu.instruction import Cost, Operand
from emu.trainium.datasheets.sheet import DMA_QUEUES


@dataclasses.dataclass(frozen=True, kw_only=True)
class Descriptors:
    """What one DMA instruction moves: contiguous pieces of equal size.

    Attributes:
      number: how many.
      nbytes: of each.
      partitions: of SBUF that they touch.
      hbm_bytes: read from and written to HBM by all of them.
      share: part of the rate of a plain copy that they reach.
    """

    number: int
    nbytes: float
    partitions: int
    hbm_bytes: int
    share: float = 1.0


def dma_cost(device: Device, name: str, queue: str, what: Descriptors) -> Cost:
    """The cost of one DMA instruction.

    An engine takes `t = dma_descriptor_s + bytes / rate` for each descriptor, one
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

    Example: a load of 128 partitions x 2 KiB on Trainium2, one core running. A descriptor takes
    1 ns + 2048 B / 23 B/ns = 90 ns, and each of the 16 engines serves 8 of the 128. The queue is
    busy 128 · 90 / 16 + 1 + 140 = 861 ns; the data is there after 900 (trigger) + 8 · 90 + 1 + 300
    (wake-up) = 1,921 ns. With 8 partitions only one engine works: busy 8 · 90 / 16 + 1 + 140 / 16
    = 55 ns, the same 1,921 ns until the data is there, and 15 engines left to other queues.

    Source: SDK, DMA overview and bandwidth guide; `t` is fitted.

    Args:
      device: the machine.
      name: instruction, for errors.
      queue: one of `DMA_QUEUES`.
      what: it moves.

    Raises:
      LimitExceeded: no such queue.
    """
    if queue not in DMA_QUEUES:
        raise LimitExceeded(
            f"{name}: queue is {queue!r}, must be one of {', '.join(DMA_QUEUES)}"
        )
    rate = what.share * device.dma_engine_bytes_per_s
    each_s = device.dma_descriptor_s + what.nbytes / rate
    # Partitions 0 to 7 are the first engine's, 8 to 15 the second's, and so on.
    reached = math.ceil(what.partitions / device.dma_partitions_per_engine)
    used = min(device.dma_engines, reached)
    # All cores that run are taken to load at the same time, so each has an even part.
    hbm_s = what.hbm_bytes * device.cores_running / device.hbm_bytes_per_s
    # In terms of all engines, because what a queue is busy it takes from every other queue: 140 ns
    # on one engine of 16 are 8.75 ns of the whole.
    copy_s = device.dma_copy_s * used / device.dma_engines
    all_s = what.number * each_s / device.dma_engines
    busy_s = max(all_s + device.dma_descriptor_s + copy_s, hbm_s)
    # 17 descriptors on 16 engines take as long as 32: the data is whole when the last engine is
    # done. The queue's own time, `all_s`, counts 17/16, as others fill the 15 idle engines.
    longest_s = math.ceil(what.number / used) * each_s
    data_s = max(longest_s + device.dma_descriptor_s, hbm_s)
    busy = device.ticks(busy_s)
    return Cost(
        engine=queue,
        # Ticks: a DMA queue's clock is the tick, and seconds are rounded to it once.
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
    *,
    other: Operand | None = None,
) -> Cost:
    """`dma_cost` of the SBUF tile `rows`: a descriptor for each contiguous piece.

    Args:
      device: the machine.
      name: instruction, for errors.
      queue: one of `DMA_QUEUES`.
      rows: the tile, or part of one.
      hbm_bytes: read from and written to HBM.
      share: part of the rate of a plain copy that is reached.
      other: what `rows` is copied from or to, element by element, where it may be in pieces;
        without it, or where nothing is known of it, each row is one piece.
    """
    number = pieces(rows, other)
    what = Descriptors(
        number=number,
        nbytes=rows.nbytes / number,
        partitions=rows.shape[0],
        hbm_bytes=hbm_bytes,
        share=share,
    )
    return dma_cost(device, name, queue, what)


def pieces(rows: Operand, other: Operand | None = None) -> int:
    """Into how many pieces a copy falls that are contiguous on both sides.

    Example: in `[128, 4, 64]`, part of a tile `[128, 8, 512]`, rows of 64 elements are apart: 512
    pieces. Out of HBM where 32 lie together they are 1,024, and where 96 do, there is a cut at each
    multiple of 64 and of 96: of 192 elements 3 + 2 less the one at 192, 4 pieces.
    """
    each = rows.free if rows.run is None else rows.run
    cuts = rows.size / each
    there = None if other is None else other.run
    if there is not None:
        cuts += rows.size / there - rows.size / math.lcm(each, there)
    return math.ceil(cuts)
