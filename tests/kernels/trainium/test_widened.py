"""Weights in integers that are made wide in SBUF: values, what does it, and bytes of HBM."""

import functools

import jax
import numpy as np
import pytest

from emu import ds
from emu.trainium.engines.memory import dma_store, sbuf
from kernels.formats.coding import as_held
from kernels.formats.formats import FORMATS
from kernels.trainium.gemm.scaled import product, put
from kernels.trainium.gemm.scaled_pack import in_columns, pack_nibbles, pack_scaled
from kernels.trainium.layer.gate import CLAMPED, GATES
from kernels.trainium.layer.mlp import UpWeights, gated
from tests.kernels.trainium import reference as ref
from tests.kernels.trainium.reference import check, draw, load, single, wide

ROWS, TILES = 10, 3


def packed(name, w, rows, columns):
    held = FORMATS[name]
    if name == "int4":
        return pack_nibbles(w, held, rows, columns)
    return pack_scaled(in_columns(w, held), rows, columns, double=False)


def multiplied(x, w, columns, blocks):
    """`x · w` of SBUF `[k, tiles, tokens]`, its sums stored as they leave PSUM."""

    def emit(out, block, sums):
        for number, own in enumerate(sums):
            out = put(out, (slice(None), number, ds(block * columns, columns)), own)
        return out

    out = sbuf(ROWS, TILES, blocks * columns)
    return dma_store(product(load(x), w, out, emit, rows=ROWS))


@pytest.mark.parametrize("name", ["int8", "int4", "fp8", "fp8_tensor"])
def test_product(name):
    """Of 200 rows there are three tiles of 96; numbers are the format's, sums float32.

    All that is read of HBM: activations, codes, and scales: of 4 bits for each 32 rows of a column,
    else a row of columns' for each partition.
    """
    tokens, k, n, size, columns = ROWS * TILES, 200, 96, 96, 48
    x, w = draw(0, tokens, k), draw(1, k, n) * np.exp2(np.arange(n) % 7)
    expected = wide(x) @ wide(as_held(w, FORMATS[name]))
    laid = expected.reshape(TILES, ROWS, n).swapaxes(0, 1)
    held = packed(name, w, size, columns)
    padded = np.pad(x.T, [(0, 3 * size - k), (0, 0)])
    moving = np.ascontiguousarray(padded.reshape(3, size, tokens).swapaxes(0, 1))
    kernel = functools.partial(multiplied, columns=columns, blocks=n // columns)
    flops = n // columns * 3 * TILES * 2 * size * ROWS * columns
    clock = check(single(kernel, 2), (moving, held), laid[None], matmul_flops=flops)
    elements = 3 * size * n
    scales = elements // 32 if name == "int4" else ROWS * n
    codes = elements // 2 if name == "int4" else elements
    assert clock.tally.by("bytes")["hbm_read"] == moving.nbytes + codes + 4 * scales
    # Each code is made wide once, whatever number of token tiles it serves.
    other = clock.tally.by("flops")
    if name == "int4":
        # A mask, a shift, 8 less; and times its scale.
        assert other["trn.tensor_immediate"] == 2 * elements
        assert other["trn.tensor_tensor"] == elements


def test_packed_weights_take_the_formats_bytes():
    w = draw(0, 256, 96)
    for name in ("int8", "int4"):
        leaves = jax.tree.leaves(packed(name, w, 128, 48))
        found = sum(leaf.nbytes for leaf in leaves)
        assert found == FORMATS[name].held_bytes(256, 96)


@pytest.mark.parametrize("gate", [GATES["silu"], CLAMPED])
def test_scales_of_gated_features(gate):
    """Features are on partitions, and their scales a value of each."""
    tokens, hidden, ffn, size = 12, 192, 200, 100
    h, w_gate, w_up = (
        draw(0, tokens, hidden),
        draw(1, hidden, ffn),
        draw(2, hidden, ffn),
    )
    x = np.ascontiguousarray(h.T.reshape(2, 96, tokens).swapaxes(0, 1))

    def kernel(x, w_gate, w_up):
        weights = UpWeights(w_gate, w_up)
        return ref.stored(gated(load(x), weights, gate, dtype=np.float32))

    args = x, packed("int8", w_gate, 96, size), packed("int8", w_up, 96, size)
    of_gate, of_up = (
        wide(h) @ wide(as_held(w, FORMATS["int8"])) for w in (w_gate, w_up)
    )
    if gate.limit is None:
        expected = ref.silu(of_gate) * of_up
    else:
        low = np.minimum(of_gate, gate.limit)
        factor = low / (1 + np.exp(-1.702 * low))
        expected = factor * (np.clip(of_up, -gate.limit, gate.limit) + 1)
    laid = expected.T.reshape(2, size, tokens).swapaxes(0, 1)
    check(single(kernel, 3), args, laid[None], within=4e-6)
