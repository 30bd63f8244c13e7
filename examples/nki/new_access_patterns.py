"""What access patterns alone can do, as kernels for `nki`."""

import nki
import nki.isa as nisa
import nki.language as nl
import numpy as np

CHANNELS = 128


@nki.jit
def max_pool(x):
    """The largest of each 2 by 2 window of HBM `x [128, height, width]`.

    A pattern reads the tile as `[128, height / 2, width / 2, 2, 2]`; the last two are reduced.
    """
    channels, height, width = x.shape
    shape = channels, height // 2, width // 2
    out = nl.ndarray(shape, dtype=x.dtype, buffer=nl.shared_hbm)
    tile = nl.ndarray((channels, height * width), dtype=x.dtype, buffer=nl.sbuf)
    nisa.dma_copy(dst=tile, src=x.reshape((channels, height * width)))
    windows = tile.ap(
        [
            [height * width, channels],
            [2 * width, height // 2],
            [2, width // 2],
            [width, 2],
            [1, 2],
        ]
    )
    largest = nl.ndarray(shape, dtype=x.dtype, buffer=nl.sbuf)
    nisa.tensor_reduce(dst=largest, op=nl.maximum, data=windows, axis=[3, 4])
    nisa.dma_copy(dst=out, src=largest)
    return out


@nki.jit
def mirrored_in_pairs(x):
    """`out[r, 2 i] = x[r, 2 i + 1]` and the other way round, of HBM `x [128, columns]`.

    Both halves of the exchange are patterns of stride 2, one of them of the DMA's source.
    """
    rows, columns = x.shape
    out = nl.ndarray((rows, columns), dtype=x.dtype, buffer=nl.shared_hbm)
    pairs = [[columns, rows], [2, columns // 2]]
    tile = nl.ndarray((rows, columns), dtype=x.dtype, buffer=nl.sbuf)
    half = nl.ndarray((rows, columns // 2), dtype=x.dtype, buffer=nl.sbuf)
    nisa.dma_copy(dst=half, src=x.ap(pairs, offset=1))
    nisa.tensor_copy(dst=tile.ap(pairs, offset=0), src=half)
    nisa.dma_copy(dst=tile.ap(pairs, offset=1), src=x.ap(pairs, offset=0))
    nisa.dma_copy(dst=out, src=tile)
    return out


def inputs():
    random = np.random.default_rng(29)
    return (random.standard_normal((128, 16, 24), np.float32),)


def reference(x):
    channels, height, width = x.shape
    windows = x.reshape(channels, height // 2, 2, width // 2, 2)
    return np.max(windows, axis=(2, 4))


def flat_inputs():
    return (inputs()[0].reshape(128, -1),)


def pairs_reference(x):
    return x.reshape(len(x), -1, 2)[:, :, ::-1].reshape(x.shape)
