"""A gated activation, element by element, as a kernel for `neuronxcc.nki`."""

import neuronxcc.nki as nki
import neuronxcc.nki.language as nl
import numpy as np

ROWS = 128
COLUMNS = 256


@nki.jit
def gated_silu(gate, up):
    """`silu(gate) * up` of HBM `[rows, columns]`, whole tiles of 128 by 256."""
    rows, columns = gate.shape
    out = nl.ndarray((rows, columns), dtype=gate.dtype, buffer=nl.shared_hbm)
    i_p = nl.arange(ROWS)[:, None]
    i_f = nl.arange(COLUMNS)[None, :]
    for r in nl.affine_range(rows // ROWS):
        for c in nl.affine_range(columns // COLUMNS):
            gate_tile = nl.load(gate[r * ROWS + i_p, c * COLUMNS + i_f])
            up_tile = nl.load(up[r * ROWS + i_p, c * COLUMNS + i_f])
            gated = nl.multiply(nl.silu(gate_tile), up_tile)
            nl.store(out[r * ROWS + i_p, c * COLUMNS + i_f], value=gated)
    return out


def inputs():
    random = np.random.default_rng(0)
    gate, up = random.standard_normal((2, 256, 512), np.float32)
    return gate, up


def reference(gate, up):
    gate = np.float64(gate)
    return gate / (1 + np.exp(-gate)) * up
