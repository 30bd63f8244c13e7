"""Every collective, by the list of folders: instruction, formula and program say the same."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
import pytest

from emu import Program
from emu.datasheet import Device
from emu.wse import WSE2, WSE3
from emu.wse.collectives import COLLECTIVES, Collective
from emu.wse.collectives.collective import AXES, Use
from emu.wse.collectives.programs import Code, code, everywhere
from emu.wse.fabric import ops, stepper
from emu.wse.fabric.program import FabricProgram
from emu.wse.fabric.result import Run
from emu.wse.pe.laws import call_cycles

STEPPED = [name for name, made in COLLECTIVES.items() if made.program is not None]
EVERY = pytest.mark.parametrize("name", STEPPED)
SHEETS = pytest.mark.parametrize("sheet", [WSE2, WSE3], ids=lambda s: s.name)
COUNTS = pytest.mark.parametrize(
    "count",
    [pytest.param(12, id="few"), pytest.param(120, id="many", marks=pytest.mark.slow)],
)
PES = (2, 3, 4, 5, 7, 8, 12, 16, 23, 48, 64)
SKEWS = (0, 20, 300)


def drawn(made: Collective, rng: np.random.Generator, pes: int) -> Use:
    assert made.draw is not None
    return made.draw(rng, pes)


def starts_of(
    made: Collective, use: Use, rng: np.random.Generator, skew: int
) -> np.ndarray:
    """When each PE starts, cycle 1 or later, up to a skew apart where the formula allows it."""
    most = skew if made.starts_apart else 0
    return 1 + rng.integers(0, most + 1, use.shape)


def receivers(use: Use) -> np.ndarray:
    return np.ones(use.shape, bool) if use.receivers is None else use.receivers


def stacked(uses: Sequence[Use], starts: Sequence[np.ndarray], device: Device) -> Run:
    """Steps all uses on one fabric, one below the other."""
    height = sum(use.shape[0] for use in uses)
    program = FabricProgram(max(use.shape[1] for use in uses), height)
    x = program.buffer("x", max(use.elements for use in uses))
    y = program.buffer("y", max(use.result[1] for use in uses))
    total = code(program, [])
    top = 0
    for use, start in zip(uses, starts, strict=True):
        rows, columns = use.shape
        within = np.s_[top : top + rows, :columns]
        total += waits(program, within, start)
        total += use.program(
            program,
            within,
            ops.Buffer("x", use.elements, x.dtype, x.address),
            ops.Buffer("y", use.result[1], y.dtype, y.address),
        )
        top += rows
    total.declare(program, "main", start=True)
    return stepper.run(program, device, path="cycles")


def waits(program: FabricProgram, within: Any, cycles: np.ndarray) -> Code:
    """Code of as many cycles on each PE of a rectangle."""
    start = np.zeros(program.shape, int)
    start[within] = cycles
    alike = [(start == n, [ops.Code(int(n))]) for n in np.unique(cycles)]
    return code(program, alike)


@EVERY
@COUNTS
@SHEETS
def test_the_formula_is_the_stepper(name: str, sheet: Any, count: int) -> None:
    """For any skew of the PEs' starts, if the collective says that its formula holds for it."""
    made = COLLECTIVES[name]
    rng = np.random.default_rng(count)
    device = sheet.at()
    uses = [drawn(made, rng, int(rng.choice(PES))) for _ in range(count)]
    starts = [
        starts_of(made, use, rng, SKEWS[n % len(SKEWS)]) for n, use in enumerate(uses)
    ]
    run = stacked(uses, starts, device)
    top = 0
    for use, start in zip(uses, starts, strict=True):
        rows, columns = use.shape
        expected = use.arrival(device, start)
        late = (run.ends[top : top + rows, :columns] - expected)[receivers(use)]
        allowed = use.late_cycles(device) if len(np.unique(start)) > 1 else 0
        assert 0 <= late.min() and late.max() <= allowed, (use.of, start.tolist())
        top += rows


@EVERY
@SHEETS
@pytest.mark.parametrize(
    "pes",
    [
        pytest.param(2, marks=pytest.mark.slow),
        5,
        pytest.param(12, marks=pytest.mark.slow),
    ],
)
def test_the_instruction_is_the_program(name: str, sheet: Any, pes: int) -> None:
    """Bit by bit, and to the cycle, the call's address, register load and branches included."""
    made = COLLECTIVES[name]
    rng = np.random.default_rng(1)
    device = sheet.at()
    use = drawn(made, rng, pes)
    rows, columns = use.shape
    tiles = rng.standard_normal((rows, columns, use.elements)).astype(np.float32)
    order = np.arange(columns) if use.order is None else use.order
    timeline = Program(use.instruction, dict(zip(AXES, use.shape)), (AXES,))
    run = alone(use, tiles, order, device)
    buffer, elements = use.result
    got = run.values[buffer][:, order, :elements]
    expected = np.asarray(timeline.run(tiles)).reshape(rows, columns, elements)
    has_result = receivers(use)[:, order]
    np.testing.assert_array_equal(got[has_result], expected[has_result], use.of)
    if use.same_clock:
        shapes = jax.ShapeDtypeStruct(tiles.shape, tiles.dtype)
        assert timeline.read(device, shapes).end_ticks == run.cycles, use.of


def alone(use: Use, tiles: np.ndarray, order: np.ndarray, device: Device) -> Run:
    """One use with data, from the call on."""
    rows, columns = use.shape
    program = FabricProgram(columns, rows)
    x = program.buffer("x", use.elements)
    y = program.buffer("y", use.result[1])
    begins = everywhere(program, ops.Code(call_cycles(device)))
    laid = use.program(program, np.s_[:, :], x, y)
    (begins + laid).declare(program, "main", start=True)
    on_line = np.empty_like(tiles)
    on_line[:, order] = tiles
    return stepper.run(program, device, {"x": on_line}, path="cycles")


def test_the_list_is_the_folders() -> None:
    assert set(STEPPED) >= {
        *("gather", "multicast", "multicast_2d", "reduce"),
        *("ring_all_reduce", "scatter", "shift"),
    }
    # These go to a neighbour, the next region or the next wafer; their formulas are held against a
    # simulation of every word, or worked out by hand, in their own tests.
    assert set(COLLECTIVES) - set(STEPPED) == {"chain_argmax", "cross", "walk"}
    for made in COLLECTIVES.values():
        assert (made.program is None) == (made.draw is None)
