"""Progress through the quickstart's stages."""

import time

from rich.console import Console


class Stages:
    """Progress of the run, and how long each stage took."""

    def __init__(self, console: Console, wall_s: dict[str, float]):
        self.console = console
        self.wall_s = wall_s

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
