"""A depthwise convolution along rows, as a kernel for `neuronxcc.nki`."""

import neuronxcc.nki as nki
import neuronxcc.nki.isa as nisa
import neuronxcc.nki.language as nl
import numpy as np

CHANNELS = 128


@nki.jit
def depthwise_conv1d(x, weight):
    """`out[c, t] = Σ_k weight[c, k] · x[c, t + k]` of HBM `x [channels, length]`.

    One multiply-add over the whole tile for each tap, at a start that moves by one element.
    """
    channels, length = x.shape
    taps = weight.shape[1]
    steps = length - taps + 1
    out = nl.ndarray((channels, steps), dtype=x.dtype, buffer=nl.shared_hbm)
    i_c = nl.arange(CHANNELS)[:, None]
    i_x = nl.arange(length)[None, :]
    i_k = nl.arange(taps)[None, :]
    i_t = nl.arange(steps)[None, :]
    for c in nl.affine_range(channels // CHANNELS):
        tile = nl.load(x[c * CHANNELS + i_c, i_x])
        weights = nl.load(weight[c * CHANNELS + i_c, i_k])
        total = nl.zeros((nl.par_dim(CHANNELS), steps), nl.float32, buffer=nl.sbuf)
        for k in nl.static_range(taps):
            total[i_c, i_t] = nisa.scalar_tensor_tensor(
                data=tile[i_c, i_t + k],
                op0=np.multiply,
                operand0=weights[i_c, k],
                op1=np.add,
                operand1=total[i_c, i_t],
            )
        nl.store(out[c * CHANNELS + i_c, i_t], value=total)
    return out


def inputs():
    random = np.random.default_rng(7)
    x = random.standard_normal((256, 259), np.float32)
    return x, random.standard_normal((256, 4), np.float32)


def reference(x, weight):
    windows = np.lib.stride_tricks.sliding_window_view(np.float64(x), 4, axis=1)
    return np.einsum("ctk,ck->ct", windows, weight)
