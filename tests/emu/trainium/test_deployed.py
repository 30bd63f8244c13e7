"""A printed time says of what it is: machine, cores, how many of a chip's run, and the system."""

import jax
import jax.numpy as jnp
import pytest

from emu import Program, Reading, drawn
from emu.trainium import (
    TRN2,
    TRN2_ULTRASERVER,
    TRN3,
    TRN3_GEN2,
    NeuronCoreSheet,
    dma_load,
    dma_store,
    on_system,
    sbuf,
    with_cores,
)
from emu.wse import WSE3

CASES = [
    (TRN2, {"core": 1}, "Trainium2 (nominal), 1 NeuronCore; 1 of 8 cores a chip run"),
    (
        on_system(with_cores(TRN3, 8), TRN3_GEN2),
        {"chip": 16, "core": 8},
        "Trainium3 (nominal), 16 x 8 NeuronCore; 8 of 8 cores a chip run, in Trn3 Gen2 UltraServer",
    ),
    (
        on_system(TRN2, TRN2_ULTRASERVER),
        {"chip": 4},
        "Trainium2 (nominal), 4 NeuronCore; 1 of 8 cores a chip run, in Trn2 UltraServer",
    ),
]


def read(sheet: NeuronCoreSheet, mesh: dict[str, int]) -> Reading:
    """A copy on every core."""
    program = Program(lambda x: dma_store(dma_load(sbuf(128, 64), x)), mesh, ((),))
    x = jax.ShapeDtypeStruct((128, 64), jnp.float32)
    return program.read(sheet.at(), x, trace_core=(0,) * len(mesh))


@pytest.mark.parametrize(("sheet", "mesh", "told"), CASES)
def test_a_time_says_of_what(
    sheet: NeuronCoreSheet, mesh: dict[str, int], told: str
) -> None:
    clock = read(sheet, mesh)
    assert clock.machine == told
    assert str(clock).startswith(f"{told}: {clock.seconds * 1e6:.2f} us, ")
    *_, scale, of_what = drawn(clock).splitlines()
    assert scale.endswith(f"{clock.seconds * 1e6:.2f} us")
    assert of_what == told


def test_a_wafer_is_all_there_is() -> None:
    assert WSE3.deployed == ""
