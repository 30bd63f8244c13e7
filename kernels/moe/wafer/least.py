"""The least region of a wafer that holds a mixture: which PEs suffice for all its experts."""

import itertools
import math
from collections.abc import Iterator

import jax.numpy as jnp

from emu.datasheet import Device
from emu.errors import OutOfMemory
from emu.wse.placement.regions import DoesNotFit
from kernels.formats.formats import Format
from kernels.moe.wafer.mlp import ExpertMlp
from kernels.moe.wafer.program import expert_arguments, expert_program
from kernels.wse.decode import sizes
from kernels.wse.decode.mapping import share_of
from kernels.wse.decode.region import Region

# Heights and widths of which blocks and bands of PEs can be made: a prime has no divisors.
MULTIPLES = (1, 8, 32)
# A few more PEs may be far quicker, of a height or width with more divisors.
MORE_PES = 1.05


def least_region(
    mlp: ExpertMlp,
    hidden: int,
    eps: float,
    dtype: str,
    device: Device,
    held: Format | None = None,
) -> Region:
    """The region for a mixture with the fewest PEs, or with 5 % more if that is estimated quicker.

    Args:
      mlp: the mixture.
      hidden: width of the residual stream.
      eps: of the norm before it.
      dtype: of weights that are not in codes, and of inputs.
      device: the wafer.
      held: what the experts' matrices are in; None: in `dtype`.

    Raises:
      DoesNotFit: no rectangle of the wafer holds all experts.
    """
    sizes.check_wafer(device)
    sizes.within("hidden", hidden, 1, sizes.MOST)
    sizes.check_dtype(dtype)
    fitting = _fitting(mlp, hidden, eps, dtype, device, held)
    for least in fitting:
        if not _fits(mlp, least, device):
            continue
        most = MORE_PES * _pes(least)
        rest = itertools.takewhile(lambda region: _pes(region) <= most, fitting)
        quickest = sorted([least, *rest], key=lambda x: mlp.cycles(x, device))
        return next(region for region in quickest if _fits(mlp, region, device))
    had = device.grid_width * device.grid_height * _room(device)
    tiles = mlp.routing.experts + mlp.shared
    weights = math.ceil(3 * tiles * hidden * mlp.ffn * _bytes_a_number(dtype, held))
    raise DoesNotFit(
        f"{device.name}: {tiles} experts of {hidden} x {mlp.ffn} take {weights:,} bytes, and no "
        f"rectangle of its PEs holds them, which have {had:,} beside their code; use a smaller "
        "dtype, or codes of 8 or 4 bits"
    )


def _fitting(
    mlp: ExpertMlp,
    hidden: int,
    eps: float,
    dtype: str,
    device: Device,
    held: Format | None,
) -> Iterator[Region]:
    """Regions that may fit by the bytes of their weights, those of the fewest PEs first."""
    tiles = mlp.routing.experts + mlp.shared
    room = _room(device)
    heights = _lengths(hidden, int(device.grid_height))
    widths = _lengths(mlp.ffn, int(device.grid_width))
    found = []
    for rows, cols in itertools.product(heights, widths):
        of_expert = 3 * share_of(hidden, rows) * share_of(mlp.ffn, cols)
        if tiles * of_expert * _bytes_a_number(dtype, held) < room:
            found.append((rows * cols, rows, cols))
    for _, rows, cols in sorted(found):
        region = Region(hidden, rows, cols, eps, dtype, held)
        if mlp.weight_bytes(region) + mlp.buffer_bytes(region) < room:
            yield region


def _lengths(elements: int, most: int) -> list[int]:
    """Numbers of PEs among which to deal elements: the fewest for each share, and round ones."""
    shares = {share_of(elements, pes) for pes in range(1, most + 1)}
    lengths = set()
    for share in shares:
        fewest = share_of(elements, share)
        for multiple in MULTIPLES:
            pes = share_of(fewest, multiple) * multiple
            # More PEs than that have a smaller share, and are that one's.
            if pes <= most and share_of(elements, pes) == share:
                lengths.add(pes)
    return sorted(lengths)


def _fits(mlp: ExpertMlp, region: Region, device: Device) -> bool:
    """Whether the very program's bytes leave room for the code."""
    program = expert_program(mlp, region)
    try:
        peak = program.memory(device, *expert_arguments(mlp, region))["sram"]
    except OutOfMemory:
        return False
    return peak <= _room(device)


def _room(device: Device) -> int:
    return int(device.sram_bytes - device.code_bytes)


def _bytes_a_number(dtype: str, held: Format | None) -> float:
    """Of an expert's matrix, without its scales."""
    return jnp.dtype(dtype).itemsize if held is None else held.element_bits / 8


def _pes(region: Region) -> int:
    return region.rows * region.cols


__all__ = ["least_region"]
