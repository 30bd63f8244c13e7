"""Two cores of a logical NeuronCore share rows' sums, as kernels for `nki`, launched by `[2]`."""

import nki
import nki.isa as nisa
import nki.language as nl
import numpy as np

ROWS = 128


def half_and_sums(x):
    """This core's half of the columns of HBM `x [128, columns]`, and the sums of its rows."""
    core = nl.program_id(0)
    half = x.shape[1] // nl.num_programs(0)
    tile = nl.ndarray((ROWS, half), dtype=x.dtype, buffer=nl.sbuf)
    sums = nl.ndarray((ROWS, 1), dtype=nl.float32, buffer=nl.sbuf)
    nisa.dma_copy(dst=tile, src=x[:, nl.ds(core * half, half)])
    nisa.tensor_reduce(dst=sums, op=nl.add, data=tile, axis=1)
    return tile, sums


def store_shares(out, tile, sums, others):
    """Divides this core's half by both cores' sums."""
    half = tile.shape[1]
    start = nl.program_id(0) * half
    total = nl.ndarray((ROWS, 1), dtype=nl.float32, buffer=nl.sbuf)
    nisa.tensor_tensor(dst=total, data1=sums, data2=others, op=nl.add)
    nisa.reciprocal(dst=total, data=total)
    nisa.tensor_scalar(dst=tile, data=tile, op0=nl.multiply, operand0=total)
    nisa.dma_copy(dst=out[:, nl.ds(start, half)], src=tile)


@nki.jit
def shares(x):
    """`x / Σ x` of each row of HBM `x [128, columns]`; the cores send each other their sums."""
    out = nl.ndarray(x.shape, dtype=x.dtype, buffer=nl.shared_hbm)
    tile, sums = half_and_sums(x)
    others = nl.ndarray((ROWS, 1), dtype=nl.float32, buffer=nl.sbuf)
    other = 1 - nl.program_id(0)
    nisa.sendrecv(
        src=sums,
        dst=others,
        send_to_rank=other,
        recv_from_rank=other,
        pipe_id=0,
    )
    store_shares(out, tile, sums, others)
    return out


@nki.jit
def shares_through_hbm(x):
    """The same by a buffer that both cores see, and a barrier before it is read."""
    core = nl.program_id(0)
    out = nl.ndarray(x.shape, dtype=x.dtype, buffer=nl.shared_hbm)
    both = nl.ndarray((2, ROWS, 1), dtype=nl.float32, buffer=nl.shared_hbm)
    tile, sums = half_and_sums(x)
    nisa.dma_copy(dst=both[core], src=sums)
    nisa.core_barrier(data=both, cores=(0, 1))
    others = nl.ndarray((ROWS, 1), dtype=nl.float32, buffer=nl.sbuf)
    nisa.dma_copy(dst=others, src=both[1 - core])
    store_shares(out, tile, sums, others)
    return out


def inputs():
    random = np.random.default_rng(30)
    x = random.uniform(0.5, 1.5, (128, 512)).astype(np.float32)
    return (x,)


def reference(x):
    return x / np.sum(np.float64(x), axis=1, keepdims=True)
