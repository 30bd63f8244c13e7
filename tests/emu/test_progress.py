"""Long calls say on a terminal what they do, and nowhere else."""

import io
import os
import pty
import subprocess
import sys
import threading

import jax.numpy as jnp
import pytest

from emu import Program, progress


class Terminal(io.StringIO):
    """A stderr that passes for a terminal, and tells when something was written."""

    def __init__(self) -> None:
        super().__init__()
        self.written = threading.Event()

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        self.written.set()
        return super().write(text)


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines appear without delay."""
    monkeypatch.setattr(progress, "DELAY_S", 0.0)


def test_a_terminal_sees_a_line_that_is_gone_at_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with progress.stage("reading"):
        assert terminal.written.wait(60)
        with progress.stage("within"):
            pass
    said = terminal.getvalue()
    assert said.startswith(f"{progress.CLEARED}reading: 0 s")
    assert said.endswith(progress.CLEARED)
    assert "within" not in said


def test_what_is_no_terminal_sees_nothing_unless_asked(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    program = Program(lambda x: x + 1, {"core": 1}, ((),))
    program.run(jnp.ones(3))
    assert capsys.readouterr().err == ""
    asked = Terminal()
    monkeypatch.setattr(asked, "isatty", lambda: False)
    monkeypatch.setattr(sys, "stderr", asked)
    with progress.shown(True), progress.stage("reading"):
        assert asked.written.wait(60)
    assert "reading" in asked.getvalue()


def test_a_display_of_ones_own_silences_it(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with progress.shown(False), progress.stage("reading"):
        # As any call inside a display would.
        with progress.stage("within"):
            assert not terminal.written.wait(0.1)
        # Back to what suits the terminal.
        with progress.shown(None), progress.stage("asked for again"):
            assert terminal.written.wait(60)
    assert "asked for again" in terminal.getvalue()
    assert "within" not in terminal.getvalue()


def test_a_call_that_fails_leaves_no_line(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with pytest.raises(ValueError), progress.stage("reading"):
        assert terminal.written.wait(60)
        raise ValueError
    assert terminal.getvalue().endswith(progress.CLEARED)


SCRIPT = """
import jax, jax.numpy as jnp
from emu import Program, progress
progress.DELAY_S = 0.0
from emu.trainium import TRN2, dma_load, dma_store, sbuf
copy = lambda x: dma_store(dma_load(sbuf(128, 64), x))
Program(copy, {"core": 1}, ((),)).read(TRN2.at(), jax.ShapeDtypeStruct((128, 64), jnp.float32))
"""


def test_reading_a_program_on_a_real_terminal() -> None:
    ours, theirs = pty.openpty()
    subprocess.run([sys.executable, "-c", SCRIPT], stderr=theirs, check=True)
    os.close(theirs)
    said = os.read(ours, 10_000).decode()
    os.close(ours)
    assert "reading the clock: 0 s" in said
