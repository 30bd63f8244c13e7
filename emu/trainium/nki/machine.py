"""What a kernel asks of the machine and of its launch: generation, tile sizes, program ids."""

import enum

from emu.trainium.datasheets import neuroncore_version
from emu.trainium.nki.functions.checks import refuse
from emu.trainium.nki.record import current


class Generation(enum.IntEnum):
    """`nki.isa.nc_version`: versions of the NeuronCore."""

    gen1 = 1
    gen2 = 2
    gen3 = 3
    gen4 = 4


def get_nc_version() -> Generation:
    """The NeuronCore that the kernel is recorded for."""
    return Generation(neuroncore_version(current().device))


class TileSize:
    """`nki.language.tile_size`: the largest tiles of the engines."""

    pmax = 128
    psum_fmax = 512
    gemm_stationary_fmax = 128
    gemm_moving_fmax = 512
    bn_stats_fmax = 512
    psum_min_align = 4
    sbuf_min_align = 1


class Float32:
    """`nki.language.fp32`: its range."""

    min = -3.4028234663852886e38
    max = 3.4028234663852886e38


class Cores(int):
    """`nl.nc(2)`: a dimension of the launch that lies along cores."""


class Spread:
    """`nl.spmd_dim(n, nl.nc(2))`: a dimension of the launch, dealt to cores in turn."""

    def __init__(self, size: int, cores: Cores):
        self.size = size * int(cores)
        self.cores = int(cores)


def program_id(axis: int = 0) -> int:
    """Which program of the launch this is, along an axis."""
    program = current().program
    if not program and axis == 0:
        return 0
    if not 0 <= axis < len(program):
        refuse(
            "nki.language.program_id",
            f"axis is {axis}, the launch grid has {len(program)} dimensions",
        )
    return program[axis]


def num_programs(axes: int | tuple[int, ...] | None = None) -> int:
    """How many programs the launch has, along some axes or in all."""
    grid = current().grid
    if axes is None:
        chosen = range(len(grid))
    else:
        chosen = [axes] if isinstance(axes, int) else axes
    count = 1
    for axis in chosen:
        count *= grid[axis] if axis < len(grid) else 1
    return count


def program_ndim() -> int:
    """Dimensions of the launch's grid."""
    return len(current().grid)
