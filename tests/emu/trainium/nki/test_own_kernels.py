"""Twenty NKI kernels of our own: values, both readings, FLOPs and traffic by closed forms.

FLOPs are the instructions' own: an activation is two an element (scale and function), one that adds
up as well three, an operator one, a product of tiles two for each multiply-add. Bytes are those of
the literal reading, in which every load of the kernel is one.
"""

import dataclasses
import functools
import pathlib

import numpy as np
import pytest

from emu.trainium.nki import load
from emu.trainium.nki.report import COMPILED, LITERAL
from emu.trainium.nki.time import nki_time

FOLDER = pathlib.Path(__file__).parents[4] / "examples" / "nki"
F32, BF16 = 4, 2


@dataclasses.dataclass(frozen=True)
class Own:
    """A kernel with what it must compute and move.

    Attributes:
      flops: of the literal reading.
      read, written: bytes of HBM.
      tolerance: of the largest difference over the largest value.
      devices: for which it is written.
      inputs, reference: names of the file's functions.
      grid: of its launch.
    """

    flops: int
    read: int
    written: int
    tolerance: float = 1e-5
    devices: tuple[str, ...] = ("trn1", "trn2")
    inputs: str = "inputs"
    reference: str = "reference"
    grid: tuple[int, ...] = ()


NEWER = ("trn2", "trn3")
# k, m, n of the ladders: products, tiles of both sides and of the result.
K, M, N = 256, 384, 1024
LHS, RHS, OUT = K * M, K * N, M * N
LADDER = 2 * K * M * N
# Old attention: 2 tiles of 128 rows, each over 2 tiles of 512 keys, d = 64.
Q, S, D = 256, 1024, 64
SCORES = Q * S
OLD_ATTENTION = (
    2 * 2 * SCORES * D  # q·kᵀ and weights·v
    + 4 * SCORES  # maximum, exponential, sum
    + 2 * (Q * D)  # q scaled, the mean
    + 2 * (2 * Q * D)  # each tile of keys: the total's multiply-add
    + 2 * Q * (1 + 1 + 2 + 2)  # and of a column: maximum, sign, factor, multiply-add
    + Q  # reciprocal
)
# New attention: rows of tiles 0 and 1 meet one tile of 256 keys, those of 2 and 3 two.
MET = 6
ROWS, KEYS, LENGTH = 128, 256, 512
NEW_ATTENTION = (
    MET * (2 * 2 * ROWS * KEYS * D)
    + MET * ROWS * KEYS * (2 + 1 + 3)  # scaled copy, maximum, exponential with its sum
    + 4 * ROWS * KEYS  # selected from on the diagonal
    + MET * 2 * ROWS * D
    + MET * ROWS * (1 + 1 + 2 + 2)
    + LENGTH * (1 + D)  # reciprocal, the mean
)
MX_LHS, MX_RHS = 256 * 4 * 128, 256 * 4 * 512
SHARES = 2 * 128 * 512 + 2 * 2 * 128

OWN = {
    "old_elementwise.py:gated_silu": Own(
        256 * 512 * (2 + 1), 2 * 256 * 512 * F32, 256 * 512 * F32
    ),
    "old_reduction.py:row_norms": Own(
        # Square and sum; a tile's sum added, 3 tiles a row; the square root.
        256 * (1536 * 2 + 3 + 2),
        256 * 1536 * F32,
        256 * F32,
    ),
    "old_row_tail.py:layer_norm": Own(
        # Statistics 3, subtract, scale, weight; a row's aggregate of 6 values, 3 each, epsilon and
        # root. A product of ones spreads the weights.
        300 * (384 * (3 + 3) + 18 + 1 + 2) + 2 * 128 * 384,
        (300 + 1) * 384 * F32,
        300 * 384 * F32,
    ),
    "old_matmul_ladder.py:loads_inside": Own(
        LADDER, (2 * LHS + 3 * RHS) * F32, OUT * F32
    ),
    "old_matmul_ladder.py:rows_kept": Own(LADDER, (LHS + 3 * RHS) * F32, OUT * F32),
    "old_matmul_ladder.py:both_kept": Own(LADDER, (LHS + RHS) * F32, OUT * F32),
    "old_softmax.py:softmax": Own(
        256 * (512 * (1 + 2 + 1 + 1) + 1), 256 * 512 * F32, 256 * 512 * F32
    ),
    "old_flash_attention.py:flash_attention": Own(
        OLD_ATTENTION, (Q * D + 2 * 2 * S * D) * F32, Q * D * F32
    ),
    "old_rope.py:rope": Own(
        256 * 64 * 6, (256 * 128 + 2 * 256 * 64) * F32, 256 * 128 * F32
    ),
    "old_conv1d.py:depthwise_conv1d": Own(
        256 * 256 * 4 * 2, 256 * (259 + 4) * F32, 256 * 256 * F32
    ),
    "old_scan.py:linear_scan": Own(128 * 768 * 2, 2 * 128 * 768 * F32, 128 * 768 * F32),
    "old_transposes.py:by_tensor_engine": Own(0, 256 * 384 * F32, 256 * 384 * F32),
    "old_transposes.py:by_dma": Own(0, 256 * 384 * F32, 256 * 384 * F32),
    "new_elementwise.py:hard_swish": Own(
        300 * 700 * (2 + 2 + 1), 300 * 700 * F32, 300 * 700 * F32, devices=NEWER
    ),
    "new_reduction.py:rms_norm": Own(
        # The weights are read once for each of 128 partitions.
        200 * (512 * (3 + 2) + 2),
        (200 + 128) * 512 * F32,
        200 * 512 * F32,
        devices=NEWER,
    ),
    "new_matmul_ladder.py:loads_inside": Own(
        LADDER, (2 * LHS + 3 * RHS) * BF16, OUT * F32, devices=NEWER
    ),
    "new_matmul_ladder.py:rows_kept": Own(
        LADDER, (LHS + 3 * RHS) * BF16, OUT * F32, devices=NEWER
    ),
    "new_matmul_ladder.py:both_kept": Own(
        LADDER, (LHS + RHS) * BF16, OUT * F32, devices=NEWER
    ),
    "new_softmax.py:softmax": Own(
        200 * (512 * (1 + 3 + 1) + 1), 200 * 512 * F32, 200 * 512 * F32, devices=NEWER
    ),
    "new_flash_attention.py:causal_attention": Own(
        NEW_ATTENTION,
        (LENGTH * D + MET * 2 * KEYS * D) * BF16,
        LENGTH * D * F32,
        # Weights are rounded to bfloat16: 2^-9 of each, some of which cancel.
        tolerance=2**-9,
        devices=NEWER,
    ),
    "new_rope.py:rope": Own(
        256 * 64 * 6,
        (256 * 128 + 2 * 256 * 64) * F32,
        256 * 128 * F32,
        devices=NEWER,
    ),
    "new_conv1d.py:depthwise_conv1d": Own(
        256 * 128 * 4 * 2, 256 * (131 + 4) * F32, 256 * 128 * F32, devices=NEWER
    ),
    "new_matmul_mx.py:matmul_mx": Own(
        # Two an element that is quantised, the left-hand side once for each of 2 columns of tiles.
        2 * 4 * 256 * 128 * 512 + 2 * (2 * MX_LHS + MX_RHS),
        (2 * MX_LHS + MX_RHS) * BF16,
        128 * 512 * F32,
        tolerance=0,
        devices=("trn3",),
    ),
    "new_transposes.py:by_tensor_engine": Own(
        0, 256 * 384 * BF16, 256 * 384 * BF16, tolerance=0, devices=NEWER
    ),
    "new_transposes.py:by_dma": Own(
        0, 256 * 384 * BF16, 256 * 384 * BF16, tolerance=0, devices=NEWER
    ),
    "new_access_patterns.py:max_pool": Own(
        128 * 16 * 24,
        128 * 16 * 24 * F32,
        128 * 8 * 12 * F32,
        tolerance=0,
        devices=NEWER,
    ),
    "new_access_patterns.py:mirrored_in_pairs": Own(
        0,
        128 * 384 * F32,
        128 * 384 * F32,
        tolerance=0,
        devices=NEWER,
        inputs="flat_inputs",
        reference="pairs_reference",
    ),
    "new_exchange.py:shares": Own(
        SHARES, 128 * 512 * F32, 128 * 512 * F32, devices=NEWER, grid=(2,)
    ),
    "new_exchange.py:shares_through_hbm": Own(
        SHARES,
        (128 * 512 + 2 * 128) * F32,
        (128 * 512 + 2 * 128) * F32,
        devices=NEWER,
        grid=(2,),
    ),
}


@functools.cache
def module(file):
    return load.load(FOLDER / file)


def timed(name, device):
    """The report of a kernel in the reading asked for, with its arguments."""
    file, kernel = name.split(":")
    own = OWN[name]
    arguments = getattr(module(file), own.inputs)()
    function = load.kernel(module(file), kernel)
    with load.present(function.func):
        report = nki_time(
            function, arguments, device, reading=LITERAL, grid=own.grid, title=name
        )
    return report, arguments


@pytest.mark.parametrize("name", OWN)
def test_values_flops_and_bytes(name):
    own = OWN[name]
    report, arguments = timed(name, own.devices[0])
    reference = getattr(module(name.split(":")[0]), own.reference)(*arguments)
    literal = np.asarray(report.values(*arguments))
    apart = np.max(np.abs(literal.astype(np.float64) - reference))
    assert apart <= own.tolerance * np.max(np.abs(reference))
    assert report.other is not None and report.other.reading == COMPILED
    np.testing.assert_array_equal(report.other.values(*arguments), literal)
    assert report.timed.clock.tally.flops == own.flops
    assert report.hbm_read_bytes == own.read
    assert report.hbm_write_bytes == own.written
    assert report.other.hbm_read_bytes <= own.read


@pytest.mark.parametrize(
    "name, device",
    [(name, device) for name in OWN for device in OWN[name].devices[1:]],
)
def test_read_on_every_generation(name, device):
    report, _ = timed(name, device)
    low, nominal, high = report.latency_us.values()
    assert 0 < low <= nominal <= high
    assert report.timed.peak_bytes["sbuf"] <= report.timed.clock.device.sbuf_bytes


@pytest.mark.parametrize(
    "file, device", [("old_matmul_ladder.py", "trn1"), ("new_matmul_ladder.py", "trn2")]
)
def test_steps_of_a_ladder_get_faster(file, device):
    steps = ("loads_inside", "rows_kept", "both_kept")
    reports = [timed(f"{file}:{step}", device)[0] for step in steps]
    times = [report.latency_us["nominal"] for report in reports]
    assert times == sorted(times, reverse=True)
    assert len(set(times)) == len(times)


def test_there_are_ten_of_each_generation():
    files = {path.name for path in FOLDER.glob("*.py")}
    assert files == {name.split(":")[0] for name in OWN}
    for api in ("old_", "new_"):
        assert len([name for name in files if name.startswith(api)]) >= 10
