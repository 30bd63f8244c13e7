"""Faults of tiles: sizes, dtypes, rings, banks, memories, and the DMA that fills them."""

# What is given here is of the wrong type on purpose.
# pyright: reportArgumentType=false, reportCallIssue=false, reportAttributeAccessIssue=false

import jax.numpy as jnp
import numpy as np

from emu.trainium import (
    array as stationary,
)
from emu.trainium import (
    dma_accumulate,
    dma_copy,
    dma_gather,
    dma_load,
    dma_load_tiles,
    dma_store,
    dma_transpose,
    hbm,
    isa,
    psum,
    sbuf,
)
from tests.faults.fault import (
    BF16,
    COLUMN,
    I32,
    TILE,
    U8,
    Fault,
    Faults,
    array,
    computes,
    load,
    reads,
)


def makes(tile):
    """A kernel that fills a tile with its argument."""
    return reads(lambda x: dma_store(dma_load(tile(), x)), TILE)


def sums(tile, **options):
    """A kernel that puts a matmul's sums into a tile."""

    def kernel(x, w):
        total = isa.nc_matmul(tile(), load(w), load(x), 0)
        return dma_store(isa.tensor_copy(sbuf(*total.shape), total))

    return reads(kernel, TILE, array(128, 128), **options)


def nine_banks(x, w):
    totals = [isa.nc_matmul(psum(128, 512), load(w), load(x), 0) for _ in range(9)]
    return [dma_store(isa.tensor_copy(sbuf(128, 512), t)) for t in totals]


def one_bank(x, w):
    tiles = [psum(128, 512, bank=0) for _ in range(2)]
    totals = [isa.nc_matmul(tile, load(w), load(x), 0) for tile in tiles]
    return [dma_store(isa.tensor_copy(sbuf(128, 512), t)) for t in totals]


WHOLE = "must be a whole number"
DTYPES = "must be one of float32, bfloat16"
FAULTS: Faults = {
    # --- sizes ---
    "no dimension": Fault(makes(sbuf), r"trn.sbuf: shape is \[\], must be partitions"),
    "one dimension": Fault(
        reads(lambda x: dma_store(load(x)), array(128)),
        r"trn.sbuf: shape is \[128\], must be partitions and one or more free",
        line=False,
    ),
    "0 partitions": Fault(makes(lambda: sbuf(0, 512)), f"dimension 0 is 0, {WHOLE}"),
    "0 columns": Fault(makes(lambda: sbuf(128, 0)), f"dimension 1 is 0, {WHOLE}"),
    "-3 columns": Fault(makes(lambda: sbuf(128, -3)), "dimension 1 is -3"),
    "128.0 partitions": Fault(makes(lambda: sbuf(128.0, 512)), "dimension 0 is 128.0"),
    "True columns": Fault(makes(lambda: sbuf(128, True)), "dimension 1 is True"),
    "'512' columns": Fault(makes(lambda: sbuf(128, "512")), "dimension 1 is '512'"),
    "a shape in one": Fault(
        makes(lambda: sbuf((128, 512))), r"shape is \[\(128, 512\)\], must be"
    ),
    "NaN columns": Fault(makes(lambda: sbuf(128, float("nan"))), "dimension 1 is nan"),
    "a traced size": Fault(
        reads(
            lambda x, n: dma_store(dma_load(sbuf(128, n), x)), TILE, array(dtype=I32)
        ),
        "dimension 1 is .*, must be a whole number",
    ),
    "129 partitions": Fault(
        makes(lambda: sbuf(129, 512)), r"partition dimension is 129, at most 128|result"
    ),
    "129 partitions of PSUM": Fault(
        sums(lambda: psum(129, 512)),
        r"trn.nc_matmul: cannot take .* into float32\[129, 512\]",
    ),
    "129 stationary partitions": Fault(
        computes(lambda w: isa.nc_load_stationary(stationary(129, 128), w), TILE),
        "trn.",
    ),
    "10^9 columns": Fault(
        reads(lambda x: dma_store(load(x)), array(128, 10**9)),
        r"needs 512,000,000,000 bytes of (hbm|sbuf), has",
        line=False,
    ),
    "10^30 columns": Fault(
        makes(lambda: sbuf(128, 10**30)), "dimension 1 is 1000000000"
    ),
    "57,345 columns": Fault(
        reads(lambda x: dma_store(load(x)), array(128, 57345)),
        "needs 29,360,640 bytes of sbuf, has 29,360,128",
        line=False,
    ),
    "10^12 bytes of HBM": Fault(
        reads(lambda x: dma_store(load(x[0])), array(10**7, 128, 512)),
        "bytes of hbm, has 103,079,215,104",
    ),
    "HBM of no size": Fault(
        reads(lambda x: dma_store.at[0](hbm(0, 128, 512), load(x)), TILE),
        "trn.hbm: dimension 0 is 0",
    ),
    # --- dtypes ---
    "an unknown dtype": Fault(
        makes(lambda: sbuf(128, 512, dtype="floaty")), f"dtype is 'floaty', {DTYPES}"
    ),
    "a dtype that is none": Fault(
        makes(lambda: sbuf(128, 512, dtype=object())), "dtype is <object"
    ),
    "no dtype": Fault(makes(lambda: sbuf(128, 512, dtype=None)), "dtype is None"),
    "float64": Fault(
        makes(lambda: sbuf(128, 512, dtype=jnp.float64)), f"dtype is float64, {DTYPES}"
    ),
    "int64": Fault(makes(lambda: sbuf(128, 512, dtype="int64")), "dtype is .*int64"),
    "complex64": Fault(
        makes(lambda: sbuf(128, 512, dtype=np.complex64)), "dtype is complex64"
    ),
    "a dtype of bool": Fault(
        makes(lambda: sbuf(128, 512, dtype=bool)), "dtype is bool"
    ),
    "a dtype of strings": Fault(makes(lambda: sbuf(128, 512, dtype=str)), "dtype is "),
    "float64 in PSUM": Fault(
        sums(lambda: psum(128, 512, dtype="float64")), "trn.psum: dtype is .*float64"
    ),
    "float64 in HBM": Fault(
        reads(
            lambda x: dma_store.at[0](hbm(2, 128, 512, dtype="float64"), load(x)), TILE
        ),
        "trn.hbm: dtype is .*float64",
    ),
    # --- rings and banks ---
    "0 buffers": Fault(
        makes(lambda: sbuf(128, 512, buffers=0)), f"buffers is 0, {WHOLE} of 1 or more"
    ),
    "-1 buffers": Fault(makes(lambda: sbuf(128, 512, buffers=-1)), "buffers is -1"),
    "1.5 buffers": Fault(makes(lambda: sbuf(128, 512, buffers=1.5)), "buffers is 1.5"),
    "True buffers": Fault(
        makes(lambda: sbuf(128, 512, buffers=True)), "buffers is True"
    ),
    "no buffers": Fault(makes(lambda: sbuf(128, 512, buffers=None)), "buffers is None"),
    "10^8 buffers": Fault(
        makes(lambda: sbuf(128, 512, buffers=10**8)),
        "needs 26,214,400,000,000 bytes of sbuf",
    ),
    "10^30 buffers": Fault(
        makes(lambda: sbuf(128, 512, buffers=10**30)), "bytes of sbuf, has 29,360,128"
    ),
    "bank 99": Fault(sums(lambda: psum(128, 512, bank=99)), "bank is 99, .* 0 to 7"),
    "bank -1": Fault(sums(lambda: psum(128, 512, bank=-1)), "bank is -1"),
    "bank 0.0": Fault(sums(lambda: psum(128, 512, bank=0.0)), "bank is 0.0"),
    "bank 'first'": Fault(
        sums(lambda: psum(128, 512, bank="first")), "bank is 'first'"
    ),
    "nine banks": Fault(
        reads(nine_banks, TILE, array(128, 128)), "needs 2,359,296 bytes of psum"
    ),
    "two tiles of a bank each in one": Fault(
        reads(one_bank, TILE, array(128, 128)), "the tiles in bank 0 of psum take"
    ),
    # --- DMA ---
    "a load of another dtype": Fault(
        makes(lambda: sbuf(128, 512, dtype=BF16)),
        r"float32\[128, 512\] but destination 0",
    ),
    "a load of another shape": Fault(
        makes(lambda: sbuf(128, 256)), r"but destination 0 is float32\[128, 256\]"
    ),
    "a load from SBUF": Fault(
        computes(lambda x: dma_load(sbuf(128, 512), x), TILE),
        "trn.dma_load: operand 1 is in sbuf, must be in hbm",
    ),
    "a load into PSUM": Fault(
        reads(lambda x: dma_store(dma_load(psum(128, 512), x)), TILE),
        "trn.dma_load: operand 0 is in psum, must be in sbuf",
    ),
    "a store from PSUM": Fault(
        reads(
            lambda x, w: dma_store(isa.nc_matmul(psum(128, 512), load(w), load(x), 0)),
            TILE,
            array(128, 128),
        ),
        "trn.dma_store: operand 0 is in psum, must be in sbuf",
    ),
    "a store of HBM": Fault(
        reads(lambda x: dma_store(x), TILE), "operand 0 is in hbm, must be in sbuf"
    ),
    "an unknown queue": Fault(
        reads(lambda x: dma_store(load(x), queue="fast"), TILE),
        "queue is 'fast', must be one of load_queue,",
    ),
    "a queue by number": Fault(
        reads(lambda x: dma_store(load(x), queue=1), TILE), "queue is 1, must be"
    ),
    "tiles of two dimensions": Fault(
        reads(lambda x: dma_store(dma_load_tiles(sbuf(512, 128), x)), array(128, 512)),
        "trn.",
    ),
    "a load at 0.5": Fault(
        reads(lambda x: dma_store(dma_load.at[:, 0.5](sbuf(128, 2, 512), x)), TILE),
        "operand 2 .*must be a whole number",
    ),
    "a store of another shape": Fault(
        reads(lambda x: dma_store.at[0](hbm(2, 128, 256), load(x)), TILE),
        "trn.dma_store: .*its part of the destination is",
    ),
    "a gather by floats": Fault(
        reads(
            lambda x, i: dma_store(dma_gather(sbuf(128, 512), x, i)), TILE, array(128)
        ),
        "trn.dma_gather: .*float32",
    ),
    "a gather of two columns": Fault(
        reads(
            lambda x, i: dma_store(dma_gather(sbuf(128, 512), x, i)),
            TILE,
            array(128, 2, dtype=I32),
        ),
        "trn.dma_gather",
    ),
    "a transpose into its own shape": Fault(
        reads(lambda x: dma_store(dma_transpose(sbuf(128, 64), x)), array(128, 64)),
        r"result is float32\[64, 128\] but destination 0",
    ),
    "a transpose of bytes": Fault(
        reads(
            lambda x: dma_store(dma_transpose(sbuf(64, 128, dtype=U8), x)),
            array(128, 64, dtype=U8),
        ),
        "trn.dma_transpose: elements of 1 bytes, must be 2 or 4",
    ),
    "a transpose of Trainium1": Fault(
        reads(
            lambda x: dma_store(dma_transpose(sbuf(64, 128), x)), array(128, 64), trn=1
        ),
        "trn.dma_transpose: device is Trainium1, must be",
    ),
    "a sum of two dtypes": Fault(
        computes(lambda x, y: dma_accumulate(x, y), TILE, array(128, 512, dtype=BF16)),
        "source is bfloat16, must be the destination's float32",
    ),
    "a copy from HBM": Fault(
        reads(lambda x: dma_store(isa.tensor_copy(sbuf(128, 512), x)), TILE),
        "trn.tensor_copy: operand 1 is in hbm",
    ),
    # --- use ---
    "a tile that was overwritten": Fault(
        computes(
            lambda x: (isa.activation(x, x, op="exp"), dma_copy(sbuf(128, 512), x)),
            TILE,
        ),
        "operand 1 was overwritten by trn.activation",
    ),
    "a result that nobody reads": Fault(
        computes(lambda x: (isa.activation(sbuf(128, 512), x, op="exp"), x)[1], TILE),
        "trn.activation: nothing reads its result",
    ),
    "a row of 1 beside 128": Fault(
        computes(
            lambda x, y: isa.tensor_tensor(sbuf(128, 512), x, y, op="add"),
            TILE,
            array(1, 512),
        ),
        "trn.tensor_tensor: .* partitions, must be of as many each",
    ),
    "columns beside a tile": Fault(
        computes(
            lambda x, y: isa.tensor_tensor(sbuf(128, 512), x, y, op="add"), TILE, COLUMN
        ),
        r"trn.tensor_tensor: .*\[128, 1\]",
    ),
}
