"""The catalogue: every kernel can be built by name and tuned, and does its useful work."""

import pytest

from emu import EmulationError
from emu.trainium.datasheets import TRN3
from kernels.trainium.catalogue import TRAINIUM_KERNELS

SMALL = {"tokens": 512, "rows": 256, "heads": 4, "m": 1024, "k": 1024, "n": 1024}
DEVICE = TRN3.at()


def small(entry):
    return {name: SMALL.get(name, default) for name, default in entry.sizes.items()}


def issued(clock):
    """Multiply-adds times 2 of every kind of matmul."""
    return sum(n for name, n in clock.tally.by("flops").items() if "nc_matmul" in name)


@pytest.mark.parametrize("name", TRAINIUM_KERNELS)
def test_useful_work_is_within_what_is_issued(name):
    entry = TRAINIUM_KERNELS[name]
    assert entry.name == name and entry.summary.endswith(".")
    sizes = small(entry)
    program, args = entry.build(**sizes)
    clock = program.read(DEVICE, *args)
    assert entry.useful_flops(**sizes) <= issued(clock)
    moved = clock.tally.by("bytes")
    assert entry.useful_bytes(**sizes) <= moved["hbm_read"] + moved["hbm_write"]


@pytest.mark.parametrize(
    "name, parameter", [(n, p) for n, e in TRAINIUM_KERNELS.items() for p in e.tunable]
)
def test_tunables_change_no_size(name, parameter):
    """Every candidate does the same work, or says why the machine cannot run it."""
    entry = TRAINIUM_KERNELS[name]
    sizes, times = small(entry), {}
    expected = entry.build(**sizes)[1]
    for value in entry.tunable[parameter]:
        program, args = entry.build(**sizes, **{parameter: value})
        assert args == expected
        try:
            times[value] = program.read(DEVICE, *args).end_ticks
        except EmulationError:
            continue
    assert len(times) > 1


def test_useful_counts():
    """A causal query sees its own key and those before; softmax reads and writes each element."""
    sizes = dict(heads=3, kv_heads=1, tokens=4, head_dim=5, dtype="float32")
    assert (
        TRAINIUM_KERNELS["flash_causal"].useful_flops(**sizes)
        == 3 * (1 + 2 + 3 + 4) * 2 * 2 * 5
    )
    assert TRAINIUM_KERNELS["flash_full"].useful_flops(**sizes) == 3 * 4 * 4 * 2 * 2 * 5
    assert (
        TRAINIUM_KERNELS["gemm"].useful_flops(m=128, k=256, n=512)
        == 2 * 128 * 256 * 512
    )
    rows = dict(rows=6, n=10, dtype="float32")
    assert TRAINIUM_KERNELS["softmax_fused"].useful_bytes(**rows) == 2 * 6 * 10 * 4
    assert TRAINIUM_KERNELS["softmax_fused"].useful_flops(**rows) == 0


def test_an_unknown_parameter_is_named():
    with pytest.raises(
        EmulationError, match="softmax_fused: no parameter depth; has rows, n, dtype"
    ):
        TRAINIUM_KERNELS["softmax_fused"].build(depth=3)


def test_mx_takes_whole_groups():
    with pytest.raises(EmulationError, match="100 features, must be a multiple of 512"):
        TRAINIUM_KERNELS["matmul_mx"].build(k=100)
