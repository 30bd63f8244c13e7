"""What one run of the quickstart learned, for the report and the picture."""

import dataclasses
import resource
import sys

import numpy as np

from emu.trainium.datasheets import TRN3
from emu.wse.datasheets.datasheet import WSE3
from experiments.quickstart.coded import CodedRun
from experiments.shared.own_variant import OwnVariant
from models.loading.load import Loaded
from models.machines.disaggregated import Clock, Disaggregated


@dataclasses.dataclass
class Run:
    """Everything one run of the quickstart learned; filled in as it goes.

    Attributes:
      chips, cores: in the prefill ring, and NeuronCores of each chip.
      placement: of the prompt's tokens on the chips.
      dtype: as `models.precision` reads it.
      coded: what a run under a plan with codes is compared with; None: there are none.
      own: the user's attention; None: causal.
      tokens: generated ids, end-of-sequence excluded unless it was to be ignored.
      logits: of each generated id, end-of-sequence included.
      oracle_tokens, oracle_logits: the plain float32 model's own; under a plan with codes, on the
        weights as that holds them.
      machine, clock: both machines, and their times; only once there are any, as is
        `oracle_logits`.
      wall_s: seconds of this machine by stage.
    """

    model: Loaded
    prompt: str
    prompt_ids: list[int]
    chips: int
    cores: int
    placement: str
    dtype: str
    coded: CodedRun | None = None
    own: OwnVariant | None = None
    tokens: list[int] = dataclasses.field(default_factory=list)
    text: str = ""
    logits: list[np.ndarray] = dataclasses.field(default_factory=list)
    oracle_tokens: list[int] = dataclasses.field(default_factory=list)
    oracle_logits: np.ndarray = dataclasses.field(init=False)
    wall_s: dict[str, float] = dataclasses.field(default_factory=dict)
    machine: Disaggregated = dataclasses.field(init=False)
    clock: Clock = dataclasses.field(init=False)

    @property
    def cores_used(self) -> str:
        """`1 of 8 cores each`."""
        return f"{self.cores} of {TRN3.cores_per_chip.value} cores each"

    @property
    def machines(self) -> str:
        """`4 Trainium3 chips (1 of 8 cores each) and 1 WSE-3`; with the system that was named."""
        chips = "chip" if self.chips == 1 else "chips"
        system = self.machine.chip.system
        place = f" in {system.name}" if system else ""
        ring = f"{self.chips} {TRN3.name} {chips}{place} ({self.cores_used})"
        return f"{ring} and 1 {WSE3.name}"

    @property
    def peak_rss_bytes(self) -> int:
        """The most memory that this process has held."""
        # macOS counts bytes, Linux KiB.
        scale = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale
