"""Programs around one operation: values against NumPy, and cycles worked out by hand."""

from typing import Any

import numpy as np
import pytest

from emu import BANDS
from emu.errors import OutOfMemory
from emu.wse import trees
from emu.wse.datasheets.datasheet import WSE2, WSE3
from emu.wse.fabric import stepper
from emu.wse.fabric.encoding.code_size import code_bytes
from emu.wse.fabric.ops import Code, copy
from emu.wse.fabric.program import FabricProgram
from kernels.wse.programs import microbench
from kernels.wse.programs.line_reduce import END, line_reduce


def data(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("pes", [2, 5, 12])
def test_chain_sums_from_the_far_end(pes: int) -> None:
    """Bit for bit in hop order; `setup + words + 6 * (pes - 1)` cycles on the WSE-2."""
    x, device = data(pes, pes, 7), WSE2.at()
    run = stepper.run(line_reduce(trees.two_phase(pes, pes), 7), device, {"x": x[None]})
    expected = x[-1]
    for own in x[-2::-1]:
        expected = own + expected
    np.testing.assert_array_equal(run.values["x"][0, 0], expected)
    setup = 17 + 2 * 9 + 17  # timestamp, descriptors, operation
    assert run.stamps[END][0, 0] == setup + 7 + 6 * (pes - 1) + 4


@pytest.mark.parametrize(("pes", "group"), [(9, 4), (6, 2)])
def test_two_phases_sum_in_hop_order(pes: int, group: int) -> None:
    x, device = data(pes, pes, 5), WSE2.at()
    run = stepper.run(
        line_reduce(trees.two_phase(pes, group), 5), device, {"x": x[None]}
    )
    leaders = []
    for first in range(0, pes, group):
        members = x[first : first + group]
        total = members[-1]
        for own in members[-2::-1]:
            total = own + total
        leaders.append(total)
    expected = leaders[-1]
    for own in leaders[-2::-1]:
        expected = own + expected
    np.testing.assert_array_equal(run.values["x"][0, 0], expected)


def test_matvec() -> None:
    """One rounding a column: the fused sums of 10 products stay within 10 half units."""
    y, x, a = data(0, 12), data(1, 10), data(2, 10, 12)
    run = stepper.run(
        microbench.matvec(WSE2.at(), 10, 12),
        WSE2.at(),
        {"y": y, "x": x, "A": a.reshape(-1)},
    )
    wide = [v.astype(np.float64) for v in (y, x, a)]
    exact = wide[0] + wide[1] @ wide[2]
    bound = 2 * 10 * 2.0**-24 * (abs(wide[0]) + abs(wide[1]) @ abs(wide[2]))
    assert (abs(run.values["y"][0, 0] - exact) <= bound).all()
    taken = run.stamps["end"] - run.stamps["start"] - 17
    # Entry, loads, operation, callbacks, branch.
    assert taken == 8 + 3 * 9 + 6 + 10 * 12 + 9 + 6


@pytest.mark.parametrize("band", BANDS)
@pytest.mark.parametrize("sheet", [WSE2, WSE3], ids=lambda sheet: sheet.name)
def test_a_matvec_that_is_known_to_fit_a_pe(sheet: Any, band: str) -> None:
    """100 x 100 float32 with both vectors are 40,800 bytes; 4,176 are the runtime's at least."""
    device = sheet.at(band)
    program = microbench.matvec(device, 100, microbench.padded(100))
    stepper.run(program, device)
    # Its six operations; what they do again 20 times is the same code.
    (code,) = np.unique(code_bytes(program, device))
    assert code == 4_176 + 6 * device.operation_bytes
    again = microbench.matvec(device, 100, microbench.padded(100), iters=20)
    assert (code_bytes(again, device) == code).all()


def test_code_is_counted_by_pe() -> None:
    """Different operations of each task; the elements they work on make no difference."""
    device = WSE3.at()
    p = FabricProgram(3)
    x = p.buffer("x", 64)
    halves = [copy(x[:4], 0.0), copy(x[8:12], 1.0), copy(x[::2], 0.0)]
    p.task("a", halves, np.s_[0, 0], start=True)
    p.task("b", [Code(3), Code(3), Code(4)], np.s_[0, :2])
    each = device.operation_bytes
    # A stride of 2 is another descriptor, and 4 cycles are other code than 3.
    expected = 4_176 + each * np.array([[2 + 2, 2, 0]])
    assert (code_bytes(p, device) == expected).all()
    room = 49_152 - 4_176 - 4 * each - 256
    p.buffer("rest", room // 4)
    stepper.run(p, device)
    p.buffer("more", 1)
    with pytest.raises(
        OutOfMemory, match=f"{4_176 + 4 * each} are code, .* 4 bytes sm"
    ):
        stepper.run(p, device)


@pytest.mark.parametrize(
    ("conflict", "n", "cycles"),
    [(False, 100, 6 + 100), (True, 100, 6 + 200), (False, 1, 7)],
)
def test_vector_op(conflict: bool, n: int, cycles: int) -> None:
    device = WSE2.at()
    program = microbench.vector_op(device, "fmac", "float32", n, bank_conflict=conflict)
    run = stepper.run(program, device, {"y": data(0, n), "x": data(1, n)})
    assert run.stamps["end"] - run.stamps["start"] - 17 == cycles
    np.testing.assert_array_equal(run.values["y"][0, 0], data(0, n) + data(1, n))


@pytest.mark.parametrize(("words", "hops"), [(1, 1), (8, 1), (8, 5), (40, 2)])
def test_one_way(words: int, hops: int) -> None:
    """WSE-3: 4 to set up, 1 to push, 2 + 2 ramps, 2 a hop, a cycle a word, a cycle to the task."""
    device = WSE3.at()
    run = stepper.run(microbench.one_way(words, hops), device, {"data": data(0, words)})
    assert run.stamps["end"][0, hops] == 4 + 1 + 2 + 2 * hops + (words - 1) + 2 + 1
    np.testing.assert_array_equal(run.values["data"][0, hops], data(0, words))
