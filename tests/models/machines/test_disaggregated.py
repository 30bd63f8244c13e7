"""What a request's clock sums and spreads: read positions, totals of steps that were not read."""

from types import SimpleNamespace

import pytest

from emu import BANDS
from models.errors import ModelError
from models.loading.load import load_tiny
from models.machines.decode import Decoder
from models.machines.disaggregated import MOST_STEPS, Clock, check_context, spread


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 11, 500])
def test_positions_are_spread_from_first_to_last(count: int) -> None:
    positions = spread(37, count)
    assert len(positions) == min(count, MOST_STEPS) == len(set(positions))
    assert positions == sorted(positions)
    if count:
        assert (positions[0], positions[-1]) == (37, 37 + count - 1)


def test_totals_of_steps_not_read_are_exact() -> None:
    """Counts grow by a constant a step, so the progression's sum is what reading all gives."""
    model = load_tiny()
    decoder = Decoder(model.config, model.weights, context=24)
    every = [decoder.read(p) for p in range(5, 24)]
    some = [decoder.read(p) for p in spread(5, len(every))]
    clock = SimpleNamespace(steps={b: some for b in BANDS}, decoded=len(every))
    for count in (
        lambda s: s.flops,
        lambda s: s.sram_read_bytes + s.sram_write_bytes,
        lambda s: s.wavelet_hops,
    ):
        assert Clock.decode_total(clock, count) == sum(map(count, every))  # type: ignore[arg-type]


def test_a_prompt_longer_than_the_context_names_the_figures() -> None:
    config = load_tiny().config
    check_context(config, 1000, 24)
    with pytest.raises(
        ModelError, match="1000 tokens and 25 are to be generated.*1024"
    ):
        check_context(config, 1000, 25)
