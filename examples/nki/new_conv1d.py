"""A depthwise convolution through overlapping windows, as a kernel for `nki`."""

import nki
import nki.isa as nisa
import nki.language as nl
import numpy as np

CHANNELS = 128


@nki.jit
def depthwise_conv1d(x, weight):
    """`out[c, t] = Σ_k weight[c, k] · x[c, t + k]` of HBM `x [channels, length]`.

    An access pattern reads the tile as `[channels, steps, taps]`, window by window; one of stride
    0 repeats the weights beside it.
    """
    channels, length = x.shape
    taps = weight.shape[1]
    steps = length - taps + 1
    out = nl.ndarray((channels, steps), dtype=x.dtype, buffer=nl.shared_hbm)
    for channel in range(0, channels, CHANNELS):
        part = nl.ds(channel, CHANNELS)
        tile = nl.ndarray((CHANNELS, length), dtype=x.dtype, buffer=nl.sbuf)
        weights = nl.ndarray((CHANNELS, taps), dtype=weight.dtype, buffer=nl.sbuf)
        nisa.dma_copy(dst=tile, src=x[part, :])
        nisa.dma_copy(dst=weights, src=weight[part, :])
        products = nl.ndarray((CHANNELS, steps, taps), nl.float32, buffer=nl.sbuf)
        nisa.tensor_tensor(
            dst=products,
            data1=tile.ap([[length, CHANNELS], [1, steps], [1, taps]]),
            data2=weights.ap([[taps, CHANNELS], [0, steps], [1, taps]]),
            op=nl.multiply,
        )
        sums = nl.ndarray((CHANNELS, steps), dtype=x.dtype, buffer=nl.sbuf)
        nisa.tensor_reduce(dst=sums, op=nl.add, data=products, axis=2)
        nisa.dma_copy(dst=out[part, :], src=sums)
    return out


def inputs():
    random = np.random.default_rng(26)
    x = random.standard_normal((256, 131), np.float32)
    return x, random.standard_normal((256, 4), np.float32)


def reference(x, weight):
    windows = np.lib.stride_tricks.sliding_window_view(np.float64(x), 4, axis=1)
    return np.einsum("ctk,ck->ct", windows, weight)
