"""What the quickstart says at the end: the table for people and the JSON for programs."""

import statistics
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from emu import BANDS
from emu.report.bands import banded
from emu.trainium.datasheets import TRN3
from emu.wse.datasheets.datasheet import WSE3
from experiments.quickstart import coded_report
from experiments.quickstart.comparison import differences, first_difference, margin
from experiments.quickstart.run import Run
from experiments.shared.output import Figures
from experiments.shared.units import count, duration
from kernels.wse.decode.token import StepReading
from models.machines.disaggregated import Clock


def partial(run: Run) -> str:
    """What was finished before an interruption."""
    tokens = len(run.tokens)
    if not run.logits:
        return (
            f"the prompt of {len(run.prompt_ids)} tokens was not prefilled to its end"
        )
    plural = "s" * (tokens != 1)
    return (
        f"{tokens} token{plural} decoded, not checked against the oracle and not timed"
    )


# --- comparison with the oracle ---


def tokens_equal(run: Run) -> bool:
    """Whether the emulated machines said exactly what the plain float32 model says.

    Under a plan with codes its weights and cache are the numbers that the codes stand for.
    """
    return run.tokens == run.oracle_tokens


# --- figures ---


def tpot_s(clock: Clock, band: str) -> dict[str, float | None]:
    """Time per output token after the first: of the first such token, the median, the last.

    With the token's way to the host and back. The median is over the steps that were read (see
    `Clock.steps`).
    """
    times = [step.seconds for step in clock.steps[band]]
    if not times:
        return {"first": None, "median": None, "last": None}
    return {"first": times[0], "median": statistics.median(times), "last": times[-1]}


def wafer_tpot_s(clock: Clock, band: str) -> float | None:
    """The median of the same steps without the host: the wafer goes on from its own token."""
    times = [step.wafer_seconds for step in clock.steps[band]]
    return statistics.median(times) if times else None


def _prefill(run: Run) -> Figures:
    clock, machine = run.clock, run.machine
    nominal = clock.prefill["nominal"].clock
    device = nominal.device
    moved = nominal.tally.by("bytes")
    other = nominal.tally.by("other")

    def read_and_written(space: str) -> int:
        return moved.get(f"{space}_read", 0) + moved.get(f"{space}_write", 0)

    engines = {}
    for engine in nominal.busy_ticks:
        engines[engine] = {
            "busy_cycles": nominal.cycles(engine),
            "clock_hz": device.tick_hz // device.ticks_per_cycle[engine],
            "utilisation": nominal.utilisation(engine),
        }
    return {
        "machine": TRN3.name,
        "system": machine.chip.system.name if machine.chip.system else None,
        "chips": run.chips,
        "cores_per_chip": run.cores,
        "cores_used": run.cores_used,
        "placement": run.placement,
        "time_s": banded(lambda band: clock.prefill[band].clock.seconds),
        "flops": nominal.tally.flops,
        "useful_flops": machine.prefill.useful_flops,
        "engines": engines,
        "hbm_bytes": read_and_written("hbm"),
        "sbuf_bytes": read_and_written("sbuf"),
        "psum_bytes": read_and_written("psum"),
        "link_bytes": other.get("link_bytes", 0),
        "collective_bytes": other.get("collective_bytes", 0),
        "peak_bytes_per_core": machine.prefill_peaks,
        "bound": str(clock.prefill_bound),
    }


def _handoff(run: Run) -> Figures:
    clock = run.clock
    return {
        "bytes": clock.handoff["nominal"].nbytes,
        "operations": clock.handoff["nominal"].operations,
        "stream": "layer",
        "time_s": banded(lambda band: clock.handoff[band].time_s),
        "exposed_s": banded(lambda band: clock.handoff[band].exposed_s),
        "bulk_exposed_s": banded(lambda band: clock.bulk[band].exposed_s),
    }


def _decode(run: Run) -> Figures:
    clock, decoder = run.clock, run.machine.decoder
    steps = clock.steps["nominal"]

    def median_cycles(band: str) -> float | None:
        if not steps:
            return None
        return statistics.median(step.wafer_cycles for step in clock.steps[band])

    return {
        "steps": clock.decoded,
        "steps_read": len(steps),
        "cycles_per_token": banded(median_cycles),
        "flops": clock.decode_total(lambda step: step.flops),
        "sram_bytes": clock.decode_total(
            lambda step: step.sram_read_bytes + step.sram_write_bytes
        ),
        "fabric_hops": clock.decode_total(lambda step: step.wavelet_hops),
        "engines": _decode_engines(steps),
        "pes": decoder.pes,
        "wafers": decoder.plan.wafers,
        "constants": decoder.clock.device.constants,
        "peak_bytes_per_pe": decoder.bytes_per_pe,
        "bound": str(clock.decode_bound) if clock.decode_bound else None,
    }


def _decode_engines(steps: Sequence[StepReading]) -> dict[str, dict[str, float]]:
    """Busy cycles of a median step, mean over PEs, and the mean of busy over span."""
    if not steps:
        return {}
    middle = sorted(steps, key=lambda step: step.cycles)[len(steps) // 2]
    return {
        engine: {
            "busy_cycles": busy,
            "clock_hz": middle.device.tick_hz,
            "utilisation": busy / middle.cycles,
        }
        for engine, busy in middle.busy_cycles.items()
    }


def as_json(run: Run) -> Figures:
    """Every figure of the run."""
    clock, at = run.clock, first_difference(run.logits, run.oracle_logits)
    return {
        "machines": run.machines,
        "model": run.model.config.name,
        "prompt": run.prompt,
        "dtype": run.dtype,
        "precision": None
        if run.coded is None
        else coded_report.figures(run, run.coded),
        "attention": None if run.own is None else run.own.names,
        "prompt_tokens": len(run.prompt_ids),
        "tokens": run.tokens,
        "oracle_tokens": run.oracle_tokens,
        "text": run.text,
        "tokens_equal": tokens_equal(run),
        "first_divergence": at,
        "oracle_margin_there": None if at is None else margin(run.oracle_logits[at]),
        "max_abs_logit_diff": float(
            np.abs(differences(run.logits, run.oracle_logits)).max()
        ),
        "ttft_s": banded(clock.ttft_s),
        "ttft_parts_s": banded(clock.ttft_parts_s),
        "tpot_s": {
            name: banded(lambda band, name=name: tpot_s(clock, band)[name])
            for name in ("first", "median", "last")
        },
        "tpot_without_host_s": banded(lambda band: wafer_tpot_s(clock, band)),
        "prefill": _prefill(run),
        "handoff": _handoff(run),
        "decode": _decode(run),
        "wall_s": {name: round(seconds, 3) for name, seconds in run.wall_s.items()},
        "peak_rss_bytes": run.peak_rss_bytes,
    }


# --- table ---


def show(run: Run, console: Console) -> None:
    """Prints the comparison with the oracle, the times in bands and the use of each machine."""
    data = as_json(run)
    _show_oracle(data, console)
    if run.coded is not None:
        coded_report.show(data["precision"], console)
    console.print(_times(data))
    console.print(_machines(data))
    wall = ", ".join(
        f"{stage} {seconds:.1f} s" for stage, seconds in data["wall_s"].items()
    )
    console.print(
        f"on this computer: {wall}; peak {count(data['peak_rss_bytes'], 'B')}"
    )


def _show_oracle(data: Figures, console: Console) -> None:
    under = ""
    if data["precision"] is not None:
        under = f" with weights in {data['precision']['weights']}"
        under += f" and a cache in {data['precision']['cache']}"
    if data["attention"] is not None:
        under += f" under {', '.join(data['attention'])}"
    console.print(
        f"\ntokens_equal: {str(data['tokens_equal']).lower()} "
        f"({len(data['tokens'])} tokens against the plain float32 model{under}; "
        f"largest logit difference {data['max_abs_logit_diff']:.2g})",
        highlight=False,
    )
    if data["first_divergence"] is not None:
        console.print(
            f"first divergence at generated token {data['first_divergence']}, where the oracle's "
            f"margin is {data['oracle_margin_there']:.2g}",
            highlight=False,
        )


def _times(data: Figures) -> Table:
    table = Table(
        title=f"Time on {data['machines']}\n"
        "(predicted; low / nominal / high of the datasheets' bands)"
    )
    table.add_column("")
    for band in BANDS:
        table.add_column(band, justify="right")

    def row(name: str, values: Figures, form: Callable[[Any], str] = duration) -> None:
        table.add_row(name, *(form(values[band]) for band in BANDS))

    row("TTFT", data["ttft_s"])
    for part, name in (
        ("prefill", "  prefill"),
        ("handoff_exposed", "  hand-off exposed"),
    ):
        row(name, {band: data["ttft_parts_s"][band][part] for band in BANDS})
    for which in ("first", "median", "last"):
        row(f"TPOT {which}", data["tpot_s"][which])
    row("  without the host", data["tpot_without_host_s"])
    row("hand-off, layer by layer", data["handoff"]["time_s"])
    row("hand-off exposed if sent whole", data["handoff"]["bulk_exposed_s"])
    row("decode cycles per token", data["decode"]["cycles_per_token"], count)
    return table


def _machines(data: Figures) -> Table:
    prefill = data["prefill"]
    handoff = data["handoff"]
    decode = data["decode"]
    table = Table(title="What each machine did (nominal)")
    for heading in ("", "prefill: Trainium3", "decode: WSE-3"):
        table.add_column(heading)
    table.add_row(
        "cores",
        f"{prefill['chips']} chips, {prefill['cores_used']}",
        f"{decode['pes']:,} PEs on {decode['wafers']} wafer{'s' * (decode['wafers'] > 1)}",
    )
    table.add_row("placement", prefill["placement"], "")
    table.add_row("cycles from", "published and fitted", decode["constants"])
    share = prefill["useful_flops"] / prefill["flops"]
    useful = f"{count(prefill['flops'], 'FLOP')}, useful {share:.0%}"
    decoded = f"{count(decode['flops'], 'FLOP')} in {decode['steps']} steps"
    table.add_row("issued", useful, decoded)
    hbm = f"HBM {count(prefill['hbm_bytes'], 'B')}, SBUF {count(prefill['sbuf_bytes'], 'B')}, "
    hbm += f"PSUM {count(prefill['psum_bytes'], 'B')}"
    table.add_row("bytes moved", hbm, f"SRAM {count(decode['sram_bytes'], 'B')}")
    links = f"NeuronLink {count(prefill['link_bytes'], 'B')}; "
    links += f"hand-off {count(handoff['bytes'], 'B')}"
    if prefill["collective_bytes"]:
        links += f"; between cores {count(prefill['collective_bytes'], 'B')}"
    table.add_row("network", links, f"{count(decode['fabric_hops'])} wavelet-hops")
    peak = ", ".join(
        f"{space.upper()} {count(used, 'B')}"
        for space, used in prefill["peak_bytes_per_core"].items()
    )
    pe = "; ".join(
        f"{region} {sum(kinds.values()):,} of {WSE3.at().sram_bytes:,} B"
        for region, kinds in decode["peak_bytes_per_pe"].items()
    )
    table.add_row("peak memory a core", peak, pe)
    table.add_row("bound by", prefill["bound"], decode["bound"] or "-")
    table.add_section()
    for name, engine in prefill["engines"].items():
        if engine["busy_cycles"]:
            table.add_row(f"{name} busy", _use(engine), "")
    for name, engine in decode["engines"].items():
        table.add_row(f"{name} busy", "", _use(engine))
    return table


def _use(engine: dict[str, float]) -> str:
    """Mean over cores: busy cycles, the same in time, and its share of the span."""
    cycles = engine["busy_cycles"]
    seconds = engine["busy_cycles"] / engine["clock_hz"]
    return f"{count(cycles)} cycles, {duration(seconds)}, {engine['utilisation']:.1%}"
