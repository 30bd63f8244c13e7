"""A linear recurrence along rows, as a kernel for `neuronxcc.nki`."""

import neuronxcc.nki as nki
import neuronxcc.nki.isa as nisa
import neuronxcc.nki.language as nl
import numpy as np

ROWS = 128
COLUMNS = 256


@nki.jit
def linear_scan(decay, x):
    """`h[t] = decay[t] · h[t - 1] + x[t]` from 0, along the columns of HBM `[rows, columns]`.

    A tile of columns begins with the last state of the one before it.
    """
    rows, columns = x.shape
    out = nl.ndarray((rows, columns), dtype=x.dtype, buffer=nl.shared_hbm)
    i_p = nl.arange(ROWS)[:, None]
    i_f = nl.arange(COLUMNS)[None, :]
    i_one = nl.arange(1)[None, :]
    for r in nl.affine_range(rows // ROWS):
        state = nl.zeros((nl.par_dim(ROWS), 1), dtype=nl.float32, buffer=nl.sbuf)
        for c in nl.sequential_range(columns // COLUMNS):
            decay_tile = nl.load(decay[r * ROWS + i_p, c * COLUMNS + i_f])
            x_tile = nl.load(x[r * ROWS + i_p, c * COLUMNS + i_f])
            states = nisa.tensor_tensor_scan(
                decay_tile, x_tile, initial=state, op0=np.multiply, op1=np.add
            )
            nl.store(out[r * ROWS + i_p, c * COLUMNS + i_f], value=states)
            state[i_p, i_one] = nisa.tensor_copy(states[i_p, COLUMNS - 1 + i_one])
    return out


def inputs():
    random = np.random.default_rng(8)
    decay = random.uniform(0.5, 1, (128, 768)).astype(np.float32)
    return decay, random.standard_normal((128, 768), np.float32)


def reference(decay, x):
    states = np.zeros(x.shape)
    state = np.zeros(len(x))
    for t in range(x.shape[1]):
        state = states[:, t] = decay[:, t] * state + x[:, t]
    return states
