"""Wrong kernels of the older generation: refused in NKI's terms, with file and line."""

import numpy as np
import pytest

from emu.errors import EmulationError
from tests.emu.trainium.nki.old_kernels import nisa, nl, recorded

X = np.zeros((128, 512), np.float32)


def tile():
    return nl.ndarray((128, 512), nl.float32)


def banks():
    return nl.ndarray((128, 512), nl.float32, buffer=nl.psum)


REFUSED = {
    "partitions": (
        lambda x: nl.ndarray((256, 512), nl.float32),
        "partition dimension is 256, at most 128",
    ),
    "psum": (
        lambda x: nl.ndarray((128, 8192), nl.float32, buffer=nl.psum),
        "32768 bytes a partition, at most 16384",
    ),
    "par_dim": (
        lambda x: nl.ndarray((nl.par_dim(2), nl.par_dim(128), 4), nl.float32),
        "2 par_dim, must have one",
    ),
    "buffer": (
        lambda x: nl.ndarray((128, 4), nl.float32, buffer="dram"),
        "buffer is 'dram', must be nl.sbuf",
    ),
    "moving": (
        lambda x: nisa.nc_matmul(tile()[:, 0:128], nl.ndarray((128, 1024), nl.float32)),
        "moving free size is 1024, at most 512",
    ),
    "stationary": (
        lambda x: nisa.nc_matmul(tile(), tile()),
        "stationary free size is 512, at most 128",
    ),
    "contraction": (
        lambda x: nisa.nc_matmul(tile()[0:64, 0:128], tile()),
        "stationary has 64 partitions and moving 128",
    ),
    "integers": (
        lambda x: nisa.nc_matmul(nl.ndarray((128, 128), nl.int32), tile()),
        "stationary is int32, must be a float",
    ),
    "hbm": (lambda x: nl.exp(x), "data is in HBM, must be in SBUF or PSUM: load it"),
    "load": (lambda x: nl.load(tile()), "src is in SBUF, must be in HBM"),
    "load_rows": (
        lambda x: nl.load(nl.ndarray((256, 4), nl.float32, buffer=nl.hbm)),
        r"src is \[256, 4\], at most 128 partitions",
    ),
    "store": (lambda x: nl.store(tile(), tile()), "dst is in SBUF, must be in HBM"),
    "column": (
        lambda x: nisa.tensor_scalar(tile(), nl.add, tile()),
        r"operand0 is \[128, 512\], must be one value a partition",
    ),
    "shapes": (
        lambda x: nl.add(tile(), tile()[:, 0:256]),
        r"tiles are \[128, 512\] and \[128, 256\]",
    ),
    "rows": (
        lambda x: nl.add(tile(), tile()[0:64]),
        "tiles have 128 and 64 partitions",
    ),
    "axis": (lambda x: nl.sum(tile(), axis=0), "axis is 0, must be free axes, 1 to 1"),
    "operator": (
        lambda x: nisa.tensor_scalar(tile(), nl.exp, 1.0),
        "op0 is exp, must be one of",
    ),
    "engine": (
        lambda x: nisa.tensor_copy(banks(), engine=nisa.gpsimd_engine),
        "engine is gpsimd, must be vector or scalar",
    ),
    "function": (
        lambda x: nl.gather_flattened(tile(), tile()),
        "nki.language.gather_flattened: this function is not supported",
    ),
    "argument": (
        lambda x: nl.load(x, transposed=True),
        "nki.language.load: got an unexpected keyword argument 'transposed'",
    ),
    "register": (
        lambda x: nisa.activation(
            nl.exp, tile(), reduce_op=nl.add, reduce_cmd=nisa.reduce_cmd.reduce
        ),
        "reduce_cmd is reduce, must be reset or reset_reduce first",
    ),
    "bounds": (lambda x: nl.load(x[:, nl.ds(512, 4)]), "out of bounds"),
    "transpose": (
        lambda x: nisa.nc_transpose(tile(), engine=nisa.vector_engine),
        r"at most \[32, 32\] on the Vector Engine",
    ),
    "loop_index": (
        lambda x: nl.loop_reduce(tile(), np.add, loop_indices=["i"]),
        "loop_indices has 'i', must be indices of loops",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_wrong_kernel_is_refused(case):
    kernel, message = REFUSED[case]
    with pytest.raises(EmulationError, match=message) as error:
        recorded(kernel, X)
    assert "test_old_refused.py" in str(error.value)
