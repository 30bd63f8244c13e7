"""Progress through a list of points, which Ctrl-C ends for certain.

A KeyboardInterrupt that strikes inside a callback of the compiler is swallowed there and only
printed, so Ctrl-C is also remembered and acted upon when the point is done.
"""

import signal
import sys
from typing import Any

import rich.progress
from rich.console import Console


class Progress:
    """A bar where there is a terminal, a line for each point where there is none.

    Attributes:
      total: how many points there are.
      console: where to show it.
    """

    def __init__(self, total: int, console: Console):
        self.total = total
        self.console = console
        self.finished = 0
        self._interrupted = False
        columns = (
            *rich.progress.Progress.get_default_columns()[:2],
            rich.progress.MofNCompleteColumn(),
            rich.progress.TimeElapsedColumn(),
        )
        self._bar = rich.progress.Progress(*columns, console=console, transient=True)
        self._task = self._bar.add_task("drawing operands", total=total)

    def __enter__(self) -> "Progress":
        self._before = signal.getsignal(signal.SIGINT)
        self._hook = sys.unraisablehook
        signal.signal(signal.SIGINT, self._interrupt)
        sys.unraisablehook = self._unraisable
        if self.console.is_terminal:
            self._bar.start()
        return self

    def __exit__(self, *exc: object) -> None:
        if self.console.is_terminal:
            self._bar.stop()
        sys.unraisablehook = self._hook
        signal.signal(signal.SIGINT, self._before)

    def begin(self, point: str) -> None:
        """Names the point that is worked on."""
        self._bar.update(self._task, description=point)
        if not self.console.is_terminal:
            told = f"{self.finished + 1} of {self.total}: {point}"
            self.console.print(told, highlight=False, soft_wrap=True)

    def done(self) -> None:
        """One more point is done.

        Raises:
          KeyboardInterrupt: Ctrl-C was pressed at any time.
        """
        self.finished += 1
        self._bar.advance(self._task)
        if self._interrupted:
            raise KeyboardInterrupt

    def _interrupt(self, number: int, frame: object) -> None:
        self._interrupted = True
        raise KeyboardInterrupt

    def _unraisable(self, raised: Any) -> None:
        if raised.exc_type is not KeyboardInterrupt:
            self._hook(raised)
