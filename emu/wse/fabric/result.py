"""What running a fabric program gives, whichever way it was run."""

import dataclasses

import numpy as np

from emu.wse.fabric.cycles import run as cycle_run
from emu.wse.fabric.encoding.encode import Encoded
from emu.wse.fabric.phases import Phase


@dataclasses.dataclass(frozen=True)
class Run:
    """What running a fabric program gave.

    Attributes:
      cycles: until the last task of the last PE was done.
      path: `"trains"` or `"cycles"`, how they were found.
      why: why not by trains; empty where they were.
      values: buffer name to `[height, width, elements]`; NaN where nothing was written.
      stamps: stamp name to `int[height, width]`, the cycle it was last read in, -1 where never.
      ends: `int[height, width]`, when each PE was done.
      links: `int[5, height, width]`, wavelets sent north, east, south, west and into the ramp;
        None where not asked for.
      profile: cycles of each of `profile.COUNTERS`, `int[height, width]`; empty where not asked
        for.
      phases: what each instruction took over all PEs; empty where not asked for.
      encoded: the priced program.
      stepped: the log of the cycle path, where it was taken.
    """

    cycles: int
    path: str
    why: str
    values: dict[str, np.ndarray]
    stamps: dict[str, np.ndarray]
    ends: np.ndarray
    links: np.ndarray | None
    profile: dict[str, np.ndarray]
    phases: tuple[Phase, ...]
    encoded: Encoded
    stepped: cycle_run.Cycles | None


__all__ = ["Run"]
