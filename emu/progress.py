"""A line on the terminal while a call takes long: what it does, and for how many seconds.

Only where stderr is a terminal, so tests, notebooks and pipes see nothing, and only from the first
half second on. `shown(False)` silences it, as a display of one's own needs; `shown(True)` asks for
it wherever stderr goes.
"""

import contextlib
import contextvars
import sys
import threading
import time
from collections.abc import Generator
from typing import TextIO

DELAY_S, EVERY_S = 0.5, 0.2
CLEARED = "\r\x1b[2K"  # to the line's start, and the line emptied

# Whether to show it; None: where stderr is a terminal.
_ASKED: contextvars.ContextVar[bool | None] = contextvars.ContextVar(
    "progress", default=None
)


@contextlib.contextmanager
def shown(asked: bool | None) -> Generator[None]:
    """Inside, progress of long calls is shown, or is not; None: where stderr is a terminal."""
    before = _ASKED.set(asked)
    try:
        yield
    finally:
        _ASKED.reset(before)


@contextlib.contextmanager
def stage(what: str) -> Generator[None]:
    """Inside, a line says what is done; stages inside this one say nothing."""
    stream = sys.stderr
    asked = _ASKED.get()
    if not (stream.isatty() if asked is None else asked):
        yield
        return
    line = _Line(what, stream)
    with shown(False):
        line.start()
        try:
            yield
        finally:
            line.stop()


class _Line:
    """The line, written by a thread of its own, as a compiler may take seconds to return."""

    def __init__(self, what: str, stream: TextIO):
        self.what = what
        self.stream = stream
        self.began = time.monotonic()
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self._write, daemon=True)

    def start(self) -> None:
        self.thread.start()

    def stop(self) -> None:
        self.ended.set()
        self.thread.join()

    def _write(self) -> None:
        if self.ended.wait(DELAY_S):
            return
        try:
            while True:
                took = time.monotonic() - self.began
                self.stream.write(f"{CLEARED}{self.what}: {took:.0f} s")
                self.stream.flush()
                if self.ended.wait(EVERY_S):
                    break
            self.stream.write(CLEARED)
            self.stream.flush()
        except (OSError, ValueError):
            # The terminal went away, which is no reason for a call to fail.
            return


__all__ = ["shown", "stage"]
