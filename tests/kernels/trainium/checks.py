"""What every kernel of one NeuronCore owes on Trainium2 and Trainium3: values, counts, bounds."""

import math

import jax

from emu.trainium.datasheets.trn2 import TRN2
from emu.trainium.datasheets.trn3 import TRN3
from tests.helpers import same_clock
from tests.kernels.trainium.reference import assert_near, single

DEVICES = {sheet.name: sheet.at() for sheet in (TRN2, TRN3)}


def structs(*args):
    return tuple(jax.ShapeDtypeStruct(x.shape, x.dtype) for x in args)


def nbytes(*arrays):
    return sum(math.prod(x.shape) * x.dtype.itemsize for x in arrays)


def checked(kernel, args, expected, *, within, matmul_flops, read_bytes, written_bytes):
    """Values within `within` of the largest; FLOPs and HBM bytes exactly; time over its bounds.

    Args:
      kernel: function of the arrays, on one core.
      args: arrays.
      expected: float64 array or tuple of them.
      within: largest error over the largest expected value.
      matmul_flops: closed form of what `nc_matmul` issues.
      read_bytes, written_bytes: closed forms of HBM traffic.

    Returns:
      The clock on each device.
    """
    program = single(kernel, len(args))
    actual = jax.tree.map(lambda x: x[0], program.run(*args))
    jax.tree.map(lambda a, e: assert_near(a, e, within), actual, expected)
    clocks = {}
    for name, device in DEVICES.items():
        clock = clocks[name] = program.read(device, *args)
        same_clock(clock, program.read(device, *structs(*args), jump=False))
        assert clock.tally.by("flops").get("trn.nc_matmul", 0) == matmul_flops
        moved = clock.tally.by("bytes")
        assert (moved["hbm_read"], moved["hbm_write"]) == (read_bytes, written_bytes)
        over_bounds(clock, device, matmul_flops, read_bytes + written_bytes)
        # It raises where it does not fit.
        assert program.memory(device, *args)["sbuf"] > 0
    return clocks


def over_bounds(clock, device, matmul_flops, hbm_bytes):
    """No engine works longer than the kernel takes, and no roof of the datasheet is broken."""
    assert clock.end_ticks > max(clock.most_busy_ticks.values())
    dma_bytes_per_s = device.dma_engines * device.dma_engine_peak_bytes_per_s
    assert clock.seconds > hbm_bytes / dma_bytes_per_s
    assert clock.seconds > matmul_flops / device.bf16_flops_per_s


def ticks(kernel, args, device, **options):
    """The clock of a kernel for abstract arguments."""
    return single(kernel, len(args)).read(device, *args, **options).end_ticks
