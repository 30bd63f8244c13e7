"""Every family through both machines: prefill, hand-off and decode give the oracle's tokens."""

import numpy as np
import pytest

from models.loading.hf_folder import load_hf_folder
from models.machines.disaggregated import Disaggregated
from models.plain import oracle
from models.plain.transformer import from_weights
from tests.models.conftest import DATA
from tests.models.machines.test_prefill import prompt_of

FOLDERS = sorted(path.parent.name for path in DATA.glob("*/config.json"))


def test_no_reference_is_left_out() -> None:
    assert len(FOLDERS) == 17


@pytest.mark.slow
@pytest.mark.parametrize("chips", [1, 3])
@pytest.mark.parametrize("name", FOLDERS)
def test_both_machines_give_the_oracles_tokens(name: str, chips: int) -> None:
    """On two cores of each chip; what a prefill counted is timed again to the tick."""
    config, weights, _ = load_hf_folder(DATA / name)
    prompt, new = prompt_of(config, 18), 4
    machine = Disaggregated(
        config,
        weights,
        tokens=len(prompt),
        new_tokens=new,
        chips=chips,
        cores=2,
        dtype=np.dtype("float32"),
    )
    first = machine.prefill.run(prompt)
    rest = machine.decode(first.token, first.k, first.v)
    tokens = [
        first.token,
        *(token for token, _ in (next(rest) for _ in range(new - 1))),
    ]
    model = from_weights(config, weights)
    expected, _ = oracle.generate(model, prompt, new, frozenset())
    assert tokens == list(expected)
    clock = machine.read(new, counts=first.counts)
    replayed = machine.prefill.read(machine.chip.at(), first.counts)
    assert clock.prefill["nominal"].clock.end_ticks == replayed.clock.end_ticks
