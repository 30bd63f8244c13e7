"""The time of a variant's prefill is that of a chip whose cores run together."""

from kernels.attention.prefill_time import PrefillTime, prefill_time
from kernels.attention.reading import read


def clock(cores: int) -> PrefillTime:
    sizes = (1, 8, 512, 64)
    return prefill_time(read("full"), q=sizes, k=sizes, cores=cores)


def test_cores_that_run_share_what_is_their_chip_s() -> None:
    assert "1 of 8 cores a chip run" in clock(1).machine
    assert "8 of 8 cores a chip run" in clock(8).machine
