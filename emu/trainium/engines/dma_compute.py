"""DMA in general: copies from any memory to any, transposes, and sums on the way."""

import dataclasses
import math

import jax.numpy as jnp

from emu import numerics
from emu.datasheet import Device
from emu.errors import LimitExceeded
from emu.instruction import Cost, Operand, instruction
from emu.trainium.datasheets.limits import DMA_PACKET_BYTES
from emu.trainium.engines.cost import needs
from emu.trainium.engines.dma import Descriptors, dma_cost, pieces, rows_cost
from emu.trainium.engines.memory import f32
from emu.trainium.spaces import Hbm, Sbuf

SOURCE = ("hbm", "sbuf")


def _check_bytes(name: str, x: Operand) -> None:
    if x.dtype.itemsize not in (2, 4):
        raise LimitExceeded(
            f"{name}: elements of {x.dtype.itemsize} bytes, must be 2 or 4"
        )


def _hbm_bytes(src: Operand) -> int:
    return src.nbytes if src.space == "hbm" else 0


def _moved(dst: Operand, *sources: Operand) -> dict[str, int]:
    """Traffic: every source read, the destination written."""
    moved = {f"{dst.space}_write": dst.nbytes}
    for source in sources:
        key = f"{source.space}_read"
        moved[key] = moved.get(key, 0) + source.nbytes
    return moved


def _copy_cost(
    device: Device, dst: Operand, src: Operand, *, queue: str = "load_queue"
) -> Cost:
    name = "trn.dma_copy"
    # On the way it takes the wider of two dtypes.
    itemsize = max(dst.dtype.itemsize, src.dtype.itemsize)
    rows, other = (dst, src) if dst.space == "sbuf" else (src, dst)
    if rows.space == "sbuf":
        number = pieces(rows, other)
        partitions = rows.shape[0]
    else:
        longest = max(1, DMA_PACKET_BYTES // itemsize)
        number = max(
            math.ceil(dst.size / min(longest, x.run or x.size)) for x in (dst, src)
        )
        # No partition binds a piece to an engine, so they are dealt to all of them.
        partitions = number * device.dma_partitions_per_engine
    what = Descriptors(
        number=number,
        nbytes=dst.size * itemsize / number,
        partitions=partitions,
        hbm_bytes=_hbm_bytes(src) + _hbm_bytes(dst),
    )
    return dataclasses.replace(
        dma_cost(device, name, queue, what), moved_bytes=_moved(dst, src)
    )


@instruction("trn.dma_copy", cost=_copy_cost, reads=(SOURCE,), writes=(SOURCE,))
def dma_copy(
    dst: Hbm | Sbuf, src: Hbm | Sbuf, *, queue: str = "load_queue"
) -> Hbm | Sbuf:
    """`dst = src` from HBM or SBUF to either, on DMA queue `queue`.

    A descriptor is what is contiguous on both sides, such as a partition's row of a tile in SBUF;
    within HBM it has at most 64 KiB. Another dtype is cast to on the way, through float32.

    Args:
      dst: in HBM or SBUF.
      src: in HBM or SBUF, of the same shape.
      queue: one of the DMA queues.
    """
    if src.dtype == dst.dtype:
        return src
    return numerics.cast(f32(src), dst.dtype)


# NKI's permutations, of tiles of two, three and four dimensions.
_TURNS = ((1, 0), (2, 1, 0), (3, 1, 2, 0))


def _transpose_cost(
    device: Device,
    dst: Operand,
    src: Operand,
    *,
    axes: tuple[int, ...] = (1, 0),
    queue: str = "load_queue",
) -> Cost:
    name = "trn.dma_transpose"
    needs(name, device)
    _check_bytes(name, src)
    if axes not in _TURNS:
        raise LimitExceeded(
            f"{name}: axes are {list(axes)}, must be one of {list(map(list, _TURNS))}"
        )
    within = src.space == "sbuf"
    share = device.dma_sbuf_transpose_share if within else device.dma_transpose_share
    return rows_cost(device, name, queue, dst, _hbm_bytes(src), share)


@instruction("trn.dma_transpose", cost=_transpose_cost, reads=(SOURCE,), writes="sbuf")
def dma_transpose(
    dst: Sbuf,
    src: Hbm | Sbuf,
    *,
    axes: tuple[int, ...] = (1, 0),
    queue: str = "load_queue",
) -> Sbuf:
    """`dst[n, ..., p] = src[p, ..., n]` on the way into SBUF, elements of 2 or 4 bytes.

    Up to 90 % of a copy's rate from HBM, 50 % within SBUF, on NeuronCore-v3 and later (SDK,
    Trainium2 architecture guide): reached where `n` is a multiple of 128 and `p` of 16.

    Args:
      dst: SBUF `[n, p]`, or `[n, ..., p]`.
      src: HBM or SBUF `[p, n]`; of more dimensions the first and the last change places.
      axes: which dimension of `src` each one of `dst` is: (1, 0), (2, 1, 0) or (3, 1, 2, 0).
      queue: one of the DMA queues.
    """
    return jnp.transpose(src, axes)


def _accumulate_cost(
    device: Device, dst: Operand, src: Operand, *, queue: str = "load_queue"
) -> Cost:
    name = "trn.dma_accumulate"
    _check_bytes(name, src)
    if src.dtype != dst.dtype:
        raise LimitExceeded(
            f"{name}: source is {src.dtype}, must be the destination's {dst.dtype}"
        )
    # 128 partitions of 2 KiB on Trainium2, at half the rate: the queue is busy 1,574 ns, where a
    # copy's is 861.
    return _summed(device, name, queue, dst, (dst, src))


def _summed(
    device: Device, name: str, queue: str, dst: Operand, sources: tuple[Operand, ...]
) -> Cost:
    """The cost of a sum: for each source after the first a copy at `dma_accumulate_share`.

    A sum into SBUF takes the second read and the addition in which a copy's rate halves before
    NeuronCore-v4; each further source takes as much again.
    """
    operands = (dst, *sources)
    rows = next((x for x in operands if x.space == "sbuf"), None)
    others = [x for x in operands if x is not rows]
    if rows is None:
        longest = max(1, DMA_PACKET_BYTES // dst.dtype.itemsize)
        number = math.ceil(
            dst.size / min(longest, *(x.run or x.size for x in operands))
        )
        partitions = number * device.dma_partitions_per_engine
    else:
        number = max(pieces(rows, other) for other in others)
        partitions = rows.shape[0]
    times = len(sources) - 1
    itemsize = max(x.dtype.itemsize for x in operands)
    what = Descriptors(
        number=times * number,
        nbytes=dst.size * itemsize / number,
        partitions=partitions,
        hbm_bytes=_hbm_bytes(dst) + sum(map(_hbm_bytes, sources)),
        share=device.dma_accumulate_share,
    )
    return dataclasses.replace(
        dma_cost(device, name, queue, what), moved_bytes=_moved(dst, *sources)
    )


@instruction(
    "trn.dma_accumulate",
    cost=_accumulate_cost,
    reads=(SOURCE,),
    writes=(SOURCE,),
    reads_destination=True,
    adds=True,
)
def dma_accumulate(
    dst: Hbm | Sbuf, src: Hbm | Sbuf, *, queue: str = "load_queue"
) -> Hbm | Sbuf:
    """`dst += src` on the way, in float32, rounded to `dst`'s dtype.

    At a copy's rate on NeuronCore-v4, half of it before (SDK, Trainium3 architecture guide).

    Args:
      dst: HBM or SBUF `[p, ...]`, of 2 or 4 bytes an element.
      src: HBM or SBUF, of the same shape and dtype.
      queue: one of the DMA queues.
    """
    return numerics.cast(f32(dst) + f32(src), dst.dtype)


# --- sums of several sources ---


def _sum2_cost(
    device: Device, dst: Operand, a: Operand, b: Operand, *, queue: str = "load_queue"
) -> Cost:
    return _summed(device, "trn.dma_sum2", queue, dst, (a, b))


@instruction("trn.dma_sum2", cost=_sum2_cost, reads=(SOURCE, SOURCE), writes=(SOURCE,))
def dma_sum2(
    dst: Hbm | Sbuf, a: Hbm | Sbuf, b: Hbm | Sbuf, *, queue: str = "load_queue"
) -> Hbm | Sbuf:
    """`dst = a + b` on the way, in float32, rounded to `dst`'s dtype (NKI: `dma_compute`).

    Args:
      dst: HBM or SBUF.
      a: HBM or SBUF, of the same shape, of any dtype.
      b: likewise.
      queue: one of the DMA queues.
    """
    return numerics.cast(f32(a) + f32(b), dst.dtype)


def _sum3_cost(
    device: Device,
    dst: Operand,
    a: Operand,
    b: Operand,
    c: Operand,
    *,
    queue: str = "load_queue",
) -> Cost:
    return _summed(device, "trn.dma_sum3", queue, dst, (a, b, c))


@instruction(
    "trn.dma_sum3",
    cost=_sum3_cost,
    reads=(SOURCE, SOURCE, SOURCE),
    writes=(SOURCE,),
)
def dma_sum3(
    dst: Hbm | Sbuf,
    a: Hbm | Sbuf,
    b: Hbm | Sbuf,
    c: Hbm | Sbuf,
    *,
    queue: str = "load_queue",
) -> Hbm | Sbuf:
    """`dst = a + b + c`, from left to right; see `dma_sum2`."""
    first = numerics.rounded(f32(a) + f32(b))
    return numerics.cast(first + f32(c), dst.dtype)
