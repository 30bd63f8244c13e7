"""Reading a timeline: what each engine did and waited for, and what a deeper ring is worth."""

# %% kernel
import functools

import jax
import jax.numpy as jnp
from jax import lax

from emu import Program, banded, drawn
from emu.report.attribution import spent_by, split
from emu.report.critical_path import by_line, critical_path
from emu.report.explain import explain
from emu.report.trials import Trials
from emu.trainium import TRN2, dma_load, dma_store, isa, psum, sbuf


def gate(x, w, *, buffers):
    """silu(x·w) of HBM `x [128, 128]` and `w [blocks, 128, 512]`; rings `buffers` tiles deep."""
    x_tile = dma_load(sbuf(128, 128, dtype=x.dtype), x)

    def block(_, w_block):
        w_tile = dma_load(sbuf(128, 512, dtype=w.dtype, buffers=buffers), w_block)
        sums = isa.nc_matmul(psum(128, 512, buffers=buffers), x_tile, w_tile, 0)
        out = sbuf(128, 512, dtype=x.dtype, buffers=buffers)
        return None, dma_store(isa.activation(out, sums, op="silu"))

    return lax.scan(block, None, w)[1]


x = jax.ShapeDtypeStruct((128, 128), jnp.bfloat16)
w = jax.ShapeDtypeStruct((12, 128, 512), jnp.bfloat16)


def program(buffers):
    return Program(functools.partial(gate, buffers=buffers), {"core": 1}, ((), ()))


def read(buffers, band="nominal"):
    return program(buffers).read(TRN2.at(band), x, w, trace_core=(0,))


# %% one
one = read(buffers=1)
print(drawn(one))

# %% depths
for buffers in (1, 2, 3, 4):
    times = banded(lambda band: read(buffers, band).seconds * 1e6)
    shown = " / ".join(f"{times[band]:.2f}" for band in ("low", "nominal", "high"))
    print(f"buffers={buffers}: {shown} us")

# %% two
two = read(buffers=2)
print(drawn(two))

# %% split
ticks_a_us = two.device.tick_hz / 1e6
for engine in ("load_queue", "tensor", "scalar"):
    print(engine)
    for part in split(spent_by(two, (0,)), engine).parts:
        us = part.ticks / ticks_a_us
        share = part.ticks / two.end_ticks
        print(f"  {part.kind:16}{part.what:21}{us:6.2f} us {share:6.1%}")

# %% path
for line in by_line(critical_path(two.events, two.end_ticks))[:4]:
    print(line)

# %% why
trials = Trials(program(buffers=2), two.device, (x, w), two.end_ticks, two.events)
where = split(spent_by(two, (0,)))
for reason in explain(where, two.device.tick_hz, two.events, trials=trials):
    print(reason.sentence)
