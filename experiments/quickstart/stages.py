"""Progress through the quickstart's stages, which Ctrl-C ends for certain."""

import signal
import time

from rich.console import Console


class Stages:
    """Progress of the run, and how long each stage took.

    A KeyboardInterrupt that strikes inside a callback of the compiler is swallowed there and only
    printed, so Ctrl-C is also remembered and acted upon when the stage ends.
    """

    def __init__(self, console: Console, wall_s: dict[str, float]):
        self.console = console
        self.wall_s = wall_s
        self.interrupted = False
        signal.signal(signal.SIGINT, self.interrupt)

    def interrupt(self, number: int, frame: object) -> None:
        self.interrupted = True
        raise KeyboardInterrupt

    def check(self) -> None:
        """Raises KeyboardInterrupt if Ctrl-C was pressed at any time."""
        if self.interrupted:
            raise KeyboardInterrupt

    def __call__(self, stage: str, message: str) -> "Stage":
        return Stage(self, stage, message)


class Stage:
    """One stage: a spinner where there is a terminal, a line where there is none."""

    def __init__(self, stages: Stages, name: str, message: str):
        self.stages = stages
        self.name = name
        self.message = message
        self.status = stages.console.status(message)

    def __enter__(self) -> "Stage":
        self.started = time.perf_counter()
        if self.stages.console.is_terminal:
            self.status.start()
        else:
            self.stages.console.print(f"{self.message} ...", highlight=False)
        return self

    def update(self, detail: str) -> None:
        self.status.update(f"{self.message}: {detail}")

    def __exit__(self, *exc: object) -> None:
        self.status.stop()
        took = time.perf_counter() - self.started
        wall_s = self.stages.wall_s
        before = wall_s.get(self.name, 0.0)  # a stage may be entered again
        wall_s[self.name] = before + took
        if not any(exc):
            self.stages.check()
