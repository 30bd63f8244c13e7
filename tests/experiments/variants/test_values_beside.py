"""Values in a second process: who computes what, and what becomes of what it leaves undone."""

import subprocess
import sys
import time

import pytest

from emu.early_end import child_process
from experiments.variants import values
from experiments.variants.measure import Errors
from experiments.variants.values import Beside, beside

ANSWERS = """
import sys
for number, line in enumerate(sys.stdin):
    if number == {ends_after}:
        break
    print('{{"prefill": %d, "decode": 2}}' % number, flush=True)
"""


def asked_of(names, ends_after):
    """A process that answers some names, and then ends."""
    found = Beside(names)
    command = [sys.executable, "-c", ANSWERS.format(ends_after=ends_after)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    return found, child_process(command, **pipes)


def test_what_is_begun_is_waited_for():
    found, started = asked_of(["a", "b", "c"], ends_after=9)
    with started as process:
        found.begin(process)
        deadline = time.monotonic() + 30
        while found.left and time.monotonic() < deadline:
            time.sleep(0.01)
        assert found.take("b") == Errors(1, 2)
        assert found.take("a") == Errors(0, 2)
        assert found.take("c") == Errors(2, 2)


def test_what_nobody_began_is_taken_back():
    found = Beside(["a", "b"])
    assert found.take("b") is None and list(found.left) == ["a"]
    assert found.take("a") is None and not found.left


def test_a_process_that_ends_leaves_the_rest():
    found, started = asked_of(["a", "b", "c", "d"], ends_after=1)
    with started as process:
        found.begin(process)
        assert found.take("a") == Errors(0, 2)
        assert found.take("d") is None
        assert found.take("b") is None and found.take("c") is None


def test_few_are_not_worth_a_process(monkeypatch):
    monkeypatch.setattr(values, "child_process", None)
    with beside(["full", "causal"]) as found:
        assert found.take("full") is None


@pytest.mark.slow
def test_the_catalogue_is_computed_beside():
    names = ["full", "causal", "chunked", "cross"]
    with beside(names) as found:
        while "full" not in found.found:
            time.sleep(0.1)
        of_full = found.take("full")
    assert of_full is not None
    assert 0 < of_full.prefill < 2e-6 and 0 < of_full.decode < 2e-6
