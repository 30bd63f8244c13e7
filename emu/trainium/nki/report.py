"""What is told of a timed NKI kernel: latency with its band, engines, traffic, utilisation."""

import dataclasses
import functools
import math
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from emu.datasheet import BANDS
from emu.report.attribution import active_ticks
from emu.report.bounds import DMA
from emu.report.explain import NAMES
from emu.report.perfetto import trace, write
from emu.trainium.nki import compilers_choices
from emu.trainium.nki.dtypes import elements
from emu.trainium.nki.passes.effect import Effect
from emu.trainium.nki.program import values
from emu.trainium.nki.tree import Recorded
from emu.trainium.timed import Timed

LITERAL, COMPILED = "literal", "compiled"
READINGS = (LITERAL, COMPILED)
# As AWS's profiler names the engines in its summary.
PROFILED = {
    "tensor": "tensor_engine",
    "vector": "vector_engine",
    "scalar": "scalar_engine",
    "gpsimd": "gpsimd_engine",
    DMA: "dma",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Report:
    """One NKI kernel on one machine, in one reading.

    Attributes:
      kernel: as its author named it.
      api: `neuronxcc.nki` or `nki`.
      device: `trn1`, `trn2` or `trn3`.
      reading: `literal` or `compiled`.
      recorded: the kernel, after the passes of its reading.
      timed: every figure of the program.
      effects: what each pass of the compiled reading did.
      other: the same kernel in the other reading.
    """

    kernel: str
    api: str
    device: str
    reading: str
    recorded: Recorded
    timed: Timed
    effects: tuple[Effect, ...] = ()
    other: "Report | None" = None

    @functools.cached_property
    def latency_us(self) -> dict[str, float]:
        """Microseconds by band: low, nominal, high.

        Of the compiled reading the band has the compiler's own choices in it.
        """
        if self.reading == COMPILED:
            return compilers_choices.widened(self.machine_us)
        return self.machine_us

    @functools.cached_property
    def machine_us(self) -> dict[str, float]:
        """The same with the machine's numbers alone, at the ends of the datasheet's bands."""
        return {band: self.timed.time_s[band] * 1e6 for band in BANDS}

    @functools.cached_property
    def active(self) -> dict[str, float]:
        """Engine to the share of the time in which it works; `dma` is all DMA queues together."""
        end = self.timed.clock.end_ticks or 1
        spent = self.timed.spent
        return {
            engine: active_ticks(spent[engine]) / end
            for engine in PROFILED
            if engine in spent
        }

    @property
    def hbm_read_bytes(self) -> int:
        """By all cores."""
        return self.timed.clock.tally.by("bytes").get("hbm_read", 0)

    @property
    def hbm_write_bytes(self) -> int:
        """By all cores."""
        return self.timed.clock.tally.by("bytes").get("hbm_write", 0)

    @property
    def spilled_bytes(self) -> int:
        """Moved besides, as SBUF was full: written to HBM and read again, or loaded more often."""
        return sum(effect.spilled_bytes for effect in self.effects)

    @property
    def single(self) -> tuple[str, ...]:
        """Tiles of loops that have one buffer in the literal reading, where two do not fit."""
        if self.reading != LITERAL:
            return ()
        # The kernel's own names for them, or the lines of those that have none.
        return tuple(
            dict.fromkeys(
                tensor.name or str(tensor.place)
                for tensor, depth in self.recorded.depths.items()
                if depth == 1
            )
        )

    @property
    def mfu(self) -> float:
        """Share of the Tensor Engine's peak that does useful work."""
        return self.timed.utilisation.mfu

    @property
    def hfu(self) -> float:
        """The same of all that the Tensor Engine executes, transposes included."""
        return self.timed.utilisation.hfu

    @property
    def reasons(self) -> list[str]:
        """The largest ones why it is not at its bound, and what to change."""
        return [reason.sentence for reason in self.timed.reasons]

    def values(self, *arrays: Any) -> Any:
        """The kernel's results for arrays, in the order of its tensor arguments.

        Returns:
          An array, or a tuple of them, as the kernel returns.
        """
        held = [elements(x) if isinstance(x, np.ndarray) else x for x in arrays]
        by_core = self.timed.program.run(*held)
        found = values(self.recorded, by_core)
        return found[0] if len(found) == 1 else tuple(found)

    def profile(self) -> dict[str, Any]:
        """The summary under the names of AWS's profiler, as tuning agents read them.

        Times are in seconds, shares from 0 to 1, as in `neuron-profile view --output-format json`.
        """
        quantities = self.timed.quantities
        use = self.timed.utilisation
        summary: dict[str, Any] = {"total_time": self.timed.time_s["nominal"]}
        for engine, name in PROFILED.items():
            share = self.active.get(engine, 0.0)
            summary[f"{name}_active_time"] = share * summary["total_time"]
            summary[f"{name}_active_time_percent"] = share
        summary |= {
            "hbm_read_bytes": self.hbm_read_bytes,
            "hbm_write_bytes": self.hbm_write_bytes,
            "spill_save_bytes": self.spilled_bytes,
            "hardware_flops": quantities.hardware_flops,
            "transpose_flops": quantities.transpose_flops,
            "mfu_estimated_percent": use.mfu,
            "hfu_estimated_percent": use.hfu,
            "mbu_estimated_percent": use.mbu,
        }
        return summary

    def as_dict(self) -> dict[str, Any]:
        """Every figure for programs; `summary` holds those of `profile`."""
        timed = self.timed
        return {
            "kernel": self.kernel,
            "api": self.api,
            "device": self.device,
            "machine": timed.machine,
            "reading": self.reading,
            "predicted": True,
            "latency_us": self.latency_us,
            "machine_latency_us": self.machine_us,
            "summary": [self.profile()],
            "bound": timed.bounds.bottleneck_engine,
            "reasons": self.reasons,
            "peak_bytes": timed.peak_bytes,
            "single_buffers": list(self.single),
            "passes": [dataclasses.asdict(effect) for effect in self.effects],
            "other_reading": None
            if self.other is None
            else {
                "reading": self.other.reading,
                "latency_us": self.other.latency_us,
            },
        }

    def write_perfetto(self, path: pathlib.Path) -> None:
        """Writes the timeline for https://ui.perfetto.dev."""
        clock = self.timed.clock
        document = trace(
            clock.events,
            clock.device.tick_hz,
            process=f"{self.timed.machine}: {self.kernel}",
            path=self.timed.path,
            engines=clock.device.engines,
        )
        write(path, document)

    def __str__(self) -> str:
        """A dozen lines: what `trn-wse nki` prints, without its tables."""
        return "\n".join(lines(self))


def lines(report: Report) -> list[str]:
    """The report in words, a fact a line."""
    timed = report.timed
    use = timed.utilisation
    told = [
        f"{report.kernel} ({report.api}) on {timed.machine}, {report.reading} reading",
        f"latency {_us(report)} us (low / nominal / high; predicted, not measured)",
    ]
    if report.reading == COMPILED:
        told.append(_parts(report))
    if report.other is not None:
        told.append(f"{report.other.reading} reading: {_us(report.other)} us")
    engines = ", ".join(
        f"{NAMES.get(engine, engine)} {share:.0%}"
        for engine, share in report.active.items()
        if share
    )
    told.append(f"active: {engines or 'nothing'}")
    told.append(
        f"HBM: {report.hbm_read_bytes / 1e6:,.2f} MB read, "
        f"{report.hbm_write_bytes / 1e6:,.2f} MB written"
    )
    if timed.quantities.hardware_flops:
        told.append(f"MFU {use.mfu:.1%}, HFU {use.hfu:.1%}, MBU {use.mbu:.1%}")
    else:
        told.append(f"MBU {use.mbu:.1%}")
    told.append(f"bound: {NAMES.get(timed.bounds.bottleneck_engine, 'DMA engines')}")
    told += _capacity(timed)
    if report.single:
        told.append(
            f"one buffer each, as two do not fit: {', '.join(report.single)}, declared in loops"
        )
    told += [f"{effect.name}: {effect.sentence}" for effect in report.effects]
    told += [f"{n}. {reason}" for n, reason in enumerate(report.reasons[:3], 1)]
    return told


def _parts(report: Report) -> str:
    """Of what the band of the compiled reading is made."""
    own = report.machine_us
    farthest = max(own["nominal"] / own["low"], own["high"] / own["nominal"])
    told = (
        f"of the band, the machine's numbers: x/÷ {farthest:.2f}; "
        f"the compiler's choices: x/÷ {compilers_choices.FACTOR:.2f}"
    )
    both = math.hypot(math.log(farthest), math.log(compilers_choices.FACTOR))
    if both > math.log(compilers_choices.MOST):
        told += f"; cut at x/÷ {compilers_choices.MOST}"
    return told


def _us(report: Report) -> str:
    return " / ".join(f"{report.latency_us[band]:,.1f}" for band in BANDS)


def _capacity(timed: Timed) -> Sequence[str]:
    held = timed.clock.device.capacity_bytes
    parts: list[str] = []
    for space in ("sbuf", "psum"):
        peak = timed.peak_bytes.get(space, 0)
        capacity = held[space]
        if capacity:
            share = f"{peak / capacity:.0%}"
            parts.append(f"{space.upper()} {peak / 2**20:,.2f} MiB, {share} of it")
    return [f"at most in use: {'; '.join(parts)}"]


__all__ = ["COMPILED", "LITERAL", "READINGS", "Report", "lines"]
