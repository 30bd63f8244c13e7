"""Progress through a list of points."""

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
        columns = (
            *rich.progress.Progress.get_default_columns()[:2],
            rich.progress.MofNCompleteColumn(),
            rich.progress.TimeElapsedColumn(),
        )
        self._bar = rich.progress.Progress(*columns, console=console, transient=True)
        self._task = self._bar.add_task("drawing operands", total=total)

    def __enter__(self) -> "Progress":
        if self.console.is_terminal:
            self._bar.start()
        return self

    def __exit__(self, *exc: object) -> None:
        if self.console.is_terminal:
            self._bar.stop()

    def begin(self, point: str) -> None:
        """Names the point that is worked on."""
        self._bar.update(self._task, description=point)
        if not self.console.is_terminal:
            told = f"{self.finished + 1} of {self.total}: {point}"
            self.console.print(told, highlight=False, soft_wrap=True)

    def done(self) -> None:
        """One more point is done."""
        self.finished += 1
        self._bar.advance(self._task)
