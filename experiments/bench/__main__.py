"""The command line of `experiments.bench`."""

import argparse
import dataclasses
from collections.abc import Iterator

from rich.table import Table

from experiments.bench.peers import IDEAL_CYCLES, PEERS
from experiments.bench.work import GEMM_SIZE, TOKENS, WORK, Timed, timed
from experiments.shared import cli
from experiments.shared.output import Figures, Output

SECTIONS = ("clock", "values", "model", "rounding")
DEFAULT = ("clock", "model")
MOST_REPEATS = 1000
TITLES = {
    "gemm": f"{GEMM_SIZE}³ bfloat16 GEMM",
    "layer": f"Llama-3.1-8B layer, prefill of {TOKENS} tokens",
    "prefill": f"Llama-3.1-8B, prefill of {TOKENS} tokens, 32 layers",
    "decode": f"Llama-3.1-8B, one token after {TOKENS}",
}
MACHINES = {
    "gemm": "1 core",
    "layer": "1 core",
    "prefill": "1 core",
    "decode": "a wafer",
}
COLUMNS = ("section", "what", "figure", "value")

Measured = tuple[Table, str, Figures]
"""A table, what was measured, and its figures by name."""


def options(parser: cli.Parser) -> None:
    """Adds what this experiment takes."""
    parser.add_argument(
        "sections",
        nargs="*",
        metavar="SECTION",
        type=cli.one_of("section", SECTIONS),
        help="clock: four pieces of work read by the clock alone, each a process of its own; "
        "values: GEMM and layer with values and clock against plain JAX (minutes, 10 GB); "
        "model: prefill and decode step of --model; rounding: what it costs that every result is "
        f"rounded ({' '.join(DEFAULT)})",
    )
    parser.add_argument(
        "--model",
        default="tiny",
        help="tiny, smollm2, gemma3, a .gguf file or a HF folder",
    )
    parser.add_argument(
        "--repeats",
        default="5",
        type=cli.whole_number("repeats", 1, MOST_REPEATS),
        help="runs of which the least or the median counts",
    )


def main(args: argparse.Namespace, output: Output) -> None:
    """Runs the sections that were asked for and prints their tables; asserts nothing."""
    console = output.console()
    measure = {"clock": clock, "values": values, "model": model, "rounding": rounding}
    figures: Figures = {}
    lines: list[tuple[object, ...]] = []
    for section in dict.fromkeys(args.sections or DEFAULT):
        for table, what, found in measure[section](args):
            console.print(table)
            figures.setdefault(section, {})[what] = found
            lines += [(section, what, name, value) for name, value in found.items()]
    output.figures("bench", figures)
    output.table("bench", COLUMNS, lines)


# --- the clock alone ---


def clock(args: argparse.Namespace) -> Iterator[Measured]:
    """One table for each piece of work: ours first, then the peers."""
    for work in WORK:
        runs = [timed(work) for _ in range(args.repeats)]
        least = min(runs, key=lambda run: run.cpu_s)
        yield clock_table(work, least), work, dataclasses.asdict(least)


def clock_table(work: str, ours: Timed) -> Table:
    """Ours and the peers' on one piece of work."""
    table = headed(
        f"clock alone: {TITLES[work]}", "tool", "predicts", "CPU s", "peak MB"
    )
    table.add_row(
        f"emulated, {MACHINES[work]}",
        predicted(work, ours),
        f"{ours.cpu_s:.2f}",
        f"{ours.peak_mb:.0f}",
    )
    for peer in PEERS:
        if peer.work != work:
            continue
        peak = ""
        if peer.peak_mb is not None:
            peak = f"{peer.peak_mb:.0f}"
        table.add_row(peer.tool, peer.predicts, f"{peer.cpu_s:g}", peak)
    return table


def predicted(work: str, ours: Timed) -> str:
    """Time and cycles, the latter against an array that always multiplies."""
    ms = ours.seconds * 1e3
    time = f"{ms:,.0f} ms" if ms >= 100 else f"{ms:.3g} ms"
    cycles = f"{ours.cycles:,.0f}"
    if ours.cycles >= 1e6:
        cycles = f"{ours.cycles / 1e6:,.2f} M"
    over = ""
    if work in IDEAL_CYCLES:
        percent = f"{ours.cycles / IDEAL_CYCLES[work] - 1:+.1%}".replace("%", " %")
        over = f" ({percent})"
    return f"{time}, {cycles} cycles{over}"


# --- values ---


def values(args: argparse.Namespace) -> Iterator[Measured]:
    """The GEMM and the layer, computed and timed, against plain JAX."""
    from experiments.bench.values import gemm, layer

    heads = ("", "values", "clock", "plain JAX", "ratio", "largest difference")
    table = headed("values and clock, CPU seconds, compilation apart", *heads)
    figures: Figures = {}
    for work, compare in (("gemm", gemm), ("layer", layer)):
        found = compare(args.repeats)
        seconds = (found.values_s, found.clock_s, found.plain_s)
        times = (f"{s:.3g}" for s in seconds)
        table.add_row(TITLES[work], *times, f"{found.ratio:.2f}", f"{found.error:.1e}")
        told = {**dataclasses.asdict(found), "ratio": found.ratio}
        figures |= {f"{work} {name}": value for name, value in told.items()}
    yield table, "both", figures


def model(args: argparse.Namespace) -> Iterator[Measured]:
    """A small model's prefill and decode step, two prompts."""
    from experiments.bench.model import CHIPS, PROMPTS, clocks, machine_of, seconds_of
    from models.loading.load import load

    loaded = load(args.model)
    for name, prompt in PROMPTS.items():
        ids = loaded.tokenizer.chat(prompt)
        machine = machine_of(loaded, ids)
        tokens = f"{name} prompt of {len(ids)} tokens"
        title = f"{loaded.config.name}, {tokens}, {CHIPS} chips"
        table = headed(f"values: {title}", "", "emulated", "plain jax.jit", "ratio")
        figures: Figures = {}
        for row, (ours, plain) in seconds_of(
            loaded, machine, ids, args.repeats
        ).items():
            times = f"{ours * 1e3:.1f} ms", f"{plain * 1e3:.1f} ms"
            table.add_row(row, *times, f"{ours / plain:.1f}")
            figures |= {f"{row} emulated_s": ours, f"{row} plain_s": plain}
        yield table, f"{tokens}, values", figures
        heads = ("", "seconds to read", "instructions x cores", "a second")
        table = headed(f"clock: {title}", *heads)
        figures = {}
        for row, (seconds, issued) in clocks(machine, args.repeats).items():
            rate = f"{issued / seconds:.3g}"
            table.add_row(row, f"{seconds:.3f}", f"{issued:,}", rate)
            figures |= {f"{row} read_s": seconds, f"{row} issued": issued}
        yield table, f"{tokens}, clock", figures


def rounding(args: argparse.Namespace) -> Iterator[Measured]:
    """Kernels, and a small model on both machines, with and without every result rounded."""
    from experiments.bench.rounding import costs
    from models.loading.load import load

    heads = ("", "every result rounded", "as XLA compiles it", "ratio")
    table = headed("values: what rounding costs, median CPU seconds", *heads)
    figures: Figures = {}
    for what, rounded_s, plain_s in costs(load(args.model), args.repeats):
        times = f"{rounded_s * 1e3:.2f} ms", f"{plain_s * 1e3:.2f} ms"
        table.add_row(what, *times, f"{rounded_s / plain_s:.2f}")
        figures |= {f"{what} rounded_s": rounded_s, f"{what} plain_s": plain_s}
    yield table, "both", figures


def headed(title: str, first: str, *rest: str) -> Table:
    """An empty table; figures stand on the right."""
    table = Table(title=title, title_justify="left")
    table.add_column(first)
    for heading in rest:
        table.add_column(heading, justify="right")
    return table


if __name__ == "__main__":
    cli.run("bench", options, main)
