"""MeshGEMM: its rings, its product, its cycles by a second simulation and by hand."""

from typing import Any

import numpy as np
import pytest

from emu.errors import LimitExceeded
from emu.wse.collectives.programs import ring_places, ring_streams
from emu.wse.datasheets.datasheet import WSE3
from emu.wse.fabric import stepper
from emu.wse.fabric.encoding.encode import encode
from kernels.wse.programs import mesh_gemm as mesh
from kernels.wse.programs import mesh_tiles
from kernels.wse.programs.mesh_gemm import Sizes
from tests.emu.wse.fabric.wavelets import simulate

DEVICE = WSE3.at()


@pytest.mark.parametrize("p", range(2, 12))
def test_ring_hops_and_colors(p: int) -> None:
    """At most two hops to the next, and three different colors at every router."""
    ring, colors_of = ring_places(p), ring_streams(p, "r").color
    assert sorted(ring) == list(range(p))
    at: dict[int, list[str]] = {i: [] for i in range(p)}
    for here, there in zip(ring, ring[1:] + ring[:1], strict=True):
        assert abs(here - there) <= 2
        for place in {
            here,
            (here + there) // 2 if abs(here - there) == 2 else here,
            there,
        }:
            at[place].append(colors_of[here])
    assert all(len(set(colors)) == len(colors) <= 3 for colors in at.values())


def marked(p: int, mt: int, kt: int, nt: int) -> Any:
    return pytest.param(
        Sizes(p, mt, kt, nt), marks=[pytest.mark.slow] if p != 3 else []
    )


@pytest.mark.parametrize(
    "sizes",
    [marked(2, 2, 3, 2), marked(3, 2, 2, 3), marked(4, 1, 2, 2), marked(5, 3, 1, 2)],
)
def test_product_and_cycles(sizes: Sizes) -> None:
    """Against float64, and against the plain simulation."""
    p, rng = sizes.p, np.random.default_rng(sizes.p)
    x = rng.standard_normal((p * sizes.mt, p * sizes.kt)).astype(np.float16)
    w = rng.standard_normal((p * sizes.kt, p * sizes.nt)).astype(np.float16)
    data = {"X0": mesh_tiles.place_x(x, p), "W0": mesh_tiles.place_w(w, p)}
    run = stepper.run(mesh.mesh_gemm(DEVICE, sizes), DEVICE, data)
    got = mesh_tiles.read_c(run.values["C"].astype(np.float64), sizes.mt)
    wide_x, wide_w = x.astype(np.float64), w.astype(np.float64)
    # Each of p * kt sums is rounded by at most half a unit in the last of 11 places.
    bound = p * sizes.kt * 2.0**-11 * (abs(wide_x) @ abs(wide_w))
    assert (abs(got - wide_x @ wide_w) <= bound).all()
    plain = simulate(encode(mesh.mesh_gemm(DEVICE, sizes), DEVICE))
    for name, cycles in run.stamps.items():
        assert [plain.stamps[name, n] for n in range(p * p)] == cycles.ravel().tolist()


def test_a_second_product_costs_its_callbacks() -> None:
    """kt hardware loops of nt callbacks of 6 + 2 cycles, three loads each, and two addresses."""
    once, twice = (
        stepper.run(mesh.mesh_gemm(DEVICE, Sizes(2, 4, 3, 5, n, False)), DEVICE).stamps
        for n in (1, 2)
    )
    more = (twice[mesh.END] - twice[mesh.START]) - (once[mesh.END] - once[mesh.START])
    assert (more == 2 * (3 * (5 * (6 + 2) + 3) + 2 * 3)).all()


def test_one_pe_has_nobody_to_shift_to() -> None:
    with pytest.raises(LimitExceeded, match="p is 1"):
        mesh.mesh_gemm(DEVICE, Sizes(1, 2, 2, 2))
