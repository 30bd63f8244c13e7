"""Weights in codes that no product takes, made wide in SBUF behind their load.

Codes of a byte are copied to the wide dtype, in which they are themselves. Codes of 4 bits have
scales of 32 contracted rows each, which are a quadrant of partitions: a scale is loaded to the
first of them and shuffled to the others, and each number is its code times that, rounded once.
"""

from typing import NamedTuple

from emu.annotations import DType
from emu.trainium.datasheets.limits import QUADRANT
from emu.trainium.datasheets.sheet import LOAD_QUEUES
from emu.trainium.engines.memory import dma_load, sbuf
from emu.trainium.isa import (
    nc_stream_shuffle,
    tensor_copy,
    tensor_immediate,
    tensor_tensor,
)
from emu.trainium.spaces import Hbm, Sbuf

# Codes of 4 bits are stored without a sign, so much more than they stand for.
NIBBLE_ZERO = 8


class Nibbles(NamedTuple):
    """A matrix in integers of 4 bits, in HBM, with a scale for each 32 contracted rows of a column.

    Attributes:
      codes: `uint8[blocks, chunks, k, depth, columns / 2]`: a byte's low half is of the first half
        of the columns, its high half of the second; each is `NIBBLE_ZERO` more than its integer.
      scale: float32 `[blocks, chunks, k / 32, depth, columns]`.
    """

    codes: Hbm
    scale: Hbm


def widened(codes: Sbuf, dtype: DType, buffers: int) -> Sbuf:
    """A chunk of codes of a byte, SBUF `[k, depth, columns]`, in a wide dtype.

    Half each by the Scalar and by the GpSimd Engine: the Vector Engine takes products out of PSUM.
    """
    _, depth, _ = codes.shape
    out = sbuf(*codes.shape, dtype=dtype, buffers=buffers)
    middle = depth // 2
    for engine, begin, end in (("scalar", 0, middle), ("gpsimd", middle, depth)):
        if begin < end:
            own = codes[:, begin:end]
            out = tensor_copy.at[:, begin:end](out, own, engine=engine)
    return out


def widened_nibbles(chunk: Nibbles, dtype: DType, queue: str, buffers: int) -> Sbuf:
    """A chunk of integers of 4 bits in HBM, loaded and made wide.

    Args:
      chunk: codes `[k, depth, columns / 2]` and scales `[k / 32, depth, columns]`.
      dtype: of the result.
      queue: by which codes are loaded; scales are by another.
      buffers: depth of every ring of tiles.

    Returns:
      SBUF `[k, depth, columns]`.
    """
    partitions, depth, half = chunk.codes.shape
    shape = partitions, depth, 2 * half
    codes = sbuf(*chunk.codes.shape, dtype=chunk.codes.dtype, buffers=buffers)
    codes = dma_load(codes, chunk.codes, queue=queue)
    apart = sbuf(*shape, dtype=codes.dtype, buffers=buffers)
    apart = tensor_immediate.at[..., :half](apart, codes, op="bitwise_and", value=15)
    apart = tensor_immediate.at[..., half:](apart, codes, op="right_shift", value=4)
    integers = sbuf(*shape, dtype=dtype, buffers=buffers)
    integers = tensor_immediate(
        integers, apart, op="add", value=-NIBBLE_ZERO, engine="scalar"
    )
    (other,) = set(LOAD_QUEUES) - {queue}
    first = sbuf(*shape, buffers=buffers)
    for group in range(partitions // QUADRANT):
        row = group * QUADRANT
        own = chunk.scale[group : group + 1]
        first = dma_load.at[row : row + 1](first, own, queue=other)
    scale = sbuf(*shape, buffers=buffers)
    scale = nc_stream_shuffle(scale, first, mask=(0,) * QUADRANT)
    out = sbuf(*shape, dtype=dtype, buffers=buffers)
    return tensor_tensor(out, integers, scale, op="multiply", engine="gpsimd")


__all__ = ["NIBBLE_ZERO", "Nibbles", "widened", "widened_nibbles"]
