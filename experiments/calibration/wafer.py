"""The wafer's calibration cases: WaferLLM's kernels (arXiv 2502.04563), read by the clock."""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from emu import Program
from emu.datasheet import Device
from experiments.calibration.trainium import Metrics, Unsupported
from kernels.wse.programs.waferllm import (
    Layer,
    Mesh,
    gemv_arguments,
    gemv_program,
    layer_arguments,
    layer_program,
)

# Sides of the mesh of which `grid: "best"` takes the fastest; the paper does not name its own.
GRIDS = (240, 256, 300, 360, 420, 480, 512, 540, 600, 660, 720)
# The published kernel's groups on each side it was timed on.
GROUPS = {360: 18, 420: 20, 480: 20, 540: 20, 600: 24, 660: 22, 720: 24}
NEAR = (
    3  # group counts further than this factor from the square root have far more stages
)


def gemv(device: Device, *, n: int, dtype: str, grid: Any) -> Metrics:
    """`[1, n] @ [n, n]` with its all-reduce: the fastest mesh, or that of side `grid`."""
    if grid != "best" and not (type(grid) is int and grid > 0):
        raise Unsupported(
            f"gemv: grid is {grid!r}, must be a whole number above 0 or 'best'"
        )
    sides = GRIDS if grid == "best" else (grid,)
    found = [
        cycles
        for pes in sides
        for groups in _divisors(pes)
        if (cycles := _gemv_cycles(device, n, Mesh(pes, groups, dtype))) is not None
    ]
    if not found:
        raise Unsupported(
            f"gemv: {n} x {n} in {dtype} fits no mesh of {', '.join(map(str, sides))}"
        )
    return {"cycles": min(found)}


def _gemv_cycles(device: Device, n: int, mesh: Mesh) -> int | None:
    """Cycles on one mesh; None where a PE's tile does not fit."""
    # Said by arithmetic, because tracing a program that cannot fit takes as long as one that can.
    tile_bytes = mesh.share(n) ** 2 * mesh.itemsize
    if tile_bytes + device.code_bytes > device.sram_bytes:
        return None
    return _cycles(device, gemv_program(mesh), gemv_arguments(mesh, n))


def _divisors(pes: int) -> Iterator[int]:
    """Group counts that divide a line, near its square root."""
    # A line is summed within groups and then over them, in about pes / groups + groups steps, which
    # is least at the root. Of 360 PEs, root 19, these are 8, 9, 10, 12, 15, 18, 20, 24, 30, 36, 40
    # and 45 groups.
    root = math.sqrt(pes)
    near = range(max(1, math.ceil(root / NEAR)), math.floor(root * NEAR) + 1)
    return (g for g in near if pes % g == 0)


def decode_layer(
    device: Device,
    *,
    d_model: int,
    heads: int,
    kv_heads: int,
    d_ff: int,
    context: int,
    grid: int,
    dtype: str,
    model: str = "",
) -> Metrics:
    """One layer for one token; the timed kernel has one head as wide as the model."""
    groups = GROUPS.get(grid) or min(
        _divisors(grid),
        key=lambda groups_tried: abs(groups_tried * groups_tried - grid),
        default=1,
    )
    mesh = Mesh(grid, groups, dtype)
    layer = Layer(mesh, d_model, d_ff, context, activated=mesh.share(d_model))
    return {"cycles": _cycles(device, layer_program(layer), layer_arguments(layer))}


def _cycles(device: Device, program: Program, arguments: tuple[Any, ...]) -> int:
    """The clock of a program, once it is known to fit beside its code."""
    used = program.memory(device, *arguments)["sram"] + device.code_bytes
    if used > device.sram_bytes:
        raise Unsupported(
            f"{used} bytes of a PE's {device.sram_bytes}; take a larger grid"
        )
    return program.read(device, *arguments).end_ticks


CASES: Mapping[str, Callable[..., Metrics]] = {
    f.__name__: f for f in (gemv, decode_layer)
}
