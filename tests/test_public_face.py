"""What `trn_wse` gives a newcomer, and what a clock says when it is printed."""

import jax
import jax.numpy as jnp

import trn_wse as tw

NAMES = {
    *("ContextAttention", "EmulationError", "FabricProgram", "Known", "Program"),
    *("Reading", "TRN1", "TRN2", "TRN3", "WSE2", "WSE3", "dma_load", "dma_store"),
    *("drawn", "instruction", "isa", "masks", "on_system", "psum", "sbuf", "stepper"),
}


def test_the_names():
    assert set(tw.__all__) == NAMES
    assert all(hasattr(tw, name) for name in NAMES)
    assert tw.__version__


def product(x):
    tile = tw.dma_load(tw.sbuf(128, 128, dtype=x.dtype), x)
    sums = tw.isa.nc_matmul(tw.psum(128, 128), tile, tile, 0)
    return tw.dma_store(tw.isa.tensor_copy(tw.sbuf(128, 128), sums))


def test_a_printed_clock_is_five_lines():
    x = jax.ShapeDtypeStruct((128, 128), jnp.bfloat16)
    clock = tw.Program(product, {"core": 1}, ((),)).read(tw.TRN2.at(), x)
    time, busy, flops, moved, instructions = str(clock).splitlines()
    assert time.startswith("Trainium2 (nominal), 1 NeuronCore: ")
    assert f"{clock.end_ticks:,} ticks" in time
    assert "tensor" in busy and "%" in busy
    # 128 x 128 x 128 multiply-adds; float32 out, bfloat16 in.
    assert flops == f"FLOPs: trn.nc_matmul {2 * 128**3:,}"
    assert f"hbm_read {128 * 128 * 2:,}" in moved
    assert f"hbm_write {128 * 128 * 4:,}" in moved
    assert instructions.startswith(f"instructions: {clock.issued} on all cores")
