"""How long the long experiments take, measured, so that each can say it before it begins.

All figures are processor time on two cores, with JAX 0.10.2. Most of it is one core's work at a
time, so by the clock it is about as long.
"""

import dataclasses
from collections.abc import Mapping

from rich.console import Console

WORTH_TELLING_S = 60


@dataclasses.dataclass(frozen=True)
class Measured:
    """One measurement of an experiment.

    Attributes:
      cpu_s: that it took.
      steps: of the experiment then: points, rings or readings.
      quick_cpu_s: that it takes with `--quick`.
    """

    cpu_s: float
    steps: int
    quick_cpu_s: float


MEASURED: Mapping[str, Measured] = {
    "calibration": Measured(cpu_s=276, steps=92, quick_cpu_s=21),
    "ring_scaling": Measured(cpu_s=399, steps=42, quick_cpu_s=22),
    "ring_precision": Measured(cpu_s=431, steps=56, quick_cpu_s=11),
}


def estimate_s(experiment: str, steps: int) -> float:
    """Processor time of so many steps, were each as long as those measured."""
    measured = MEASURED[experiment]
    return measured.cpu_s * steps / measured.steps


def tell(experiment: str, steps: int, console: Console) -> None:
    """Says how long it will take, if that is long, and that there is `--quick`."""
    expected_s = estimate_s(experiment, steps)
    if expected_s < WORTH_TELLING_S:
        return
    quick_s = MEASURED[experiment].quick_cpu_s
    console.print(
        f"about {in_words(expected_s)} on two cores; --quick asks a smaller question of the same "
        f"kind, in about {in_words(quick_s)}",
        highlight=False,
        soft_wrap=True,
    )


def in_words(seconds: float) -> str:
    """`40 s`, `5 min`."""
    if seconds < WORTH_TELLING_S:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min"
