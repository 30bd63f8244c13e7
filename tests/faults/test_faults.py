"""Seeded faults over kernels, meshes and machines: each is told by name, in one line, and cheaply.

What this project raises itself, where the mistake was made, names the value and what it may be.
"""

import subprocess
import sys

import pytest

from emu.errors import EmulationError
from experiments.bench.work import peak_bytes
from tests.faults import (
    catalogue_faults,
    context_faults,
    instruction_faults,
    nki_faults,
    program_faults,
    tile_faults,
    wafer_faults,
)

TABLES = (
    tile_faults,
    instruction_faults,
    program_faults,
    context_faults,
    catalogue_faults,
    wafer_faults,
    nki_faults,
)
EACH = [(table, name) for table in TABLES for name in table.FAULTS]
MOST_BYTES = 10**9


def file_name(table):
    return f"{table.__name__.split('.')[-1]}.py"


@pytest.mark.parametrize(
    "table, name", EACH, ids=[f"{file_name(table)}: {name}" for table, name in EACH]
)
def test_refused_by_name(table, name):
    fault = table.FAULTS[name]
    with pytest.raises(EmulationError, match=fault.says) as refused:
        fault.make()
    told = str(refused.value)
    assert "\n" not in told and len(told) < 500
    assert (f"({file_name(table)}:" in told) == fault.line


def test_there_are_many():
    assert len(EACH) >= 400


def test_no_fault_takes_much_memory():
    """All of them in one process of their own, JAX and NumPy included."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.faults.test_faults"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(done.stdout) < MOST_BYTES


def make_all():
    for table, name in EACH:
        try:
            table.FAULTS[name].make()
        except EmulationError:
            pass


if __name__ == "__main__":
    make_all()
    print(peak_bytes())
