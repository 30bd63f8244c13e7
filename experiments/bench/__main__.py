"""The command line of `experiments.bench`."""

import argparse
from typing import Any

from rich.console import Console
from rich.table import Table

from experiments.bench.peers import IDEAL_CYCLES, PEERS
from experiments.bench.work import GEMM_SIZE, TOKENS, WORK, Timed, timed
from experiments.shared import cli
from experiments.shared.errors import UsageError

SECTIONS = ("clock", "values", "model")
DEFAULT = ("clock", "model")
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


def arguments() -> argparse.Namespace:
    """The command line."""
    p = cli.parser("bench")
    p.add_argument(
        "sections",
        nargs="*",
        metavar="SECTION",
        help="clock: four pieces of work read by the clock alone, each a process of its own; "
        "values: GEMM and layer with values and clock against plain JAX (minutes, 10 GB); "
        f"model: prefill and decode step of --model ({' '.join(DEFAULT)})",
    )
    p.add_argument(
        "--model", default="tiny", help="tiny, smollm2, a .gguf file or a HF folder"
    )
    p.add_argument(
        "--repeats", default="5", help="runs of which the least or the median counts"
    )
    args = p.parse_args()
    args.sections = args.sections or DEFAULT
    for given in args.sections:
        if given not in SECTIONS:
            raise UsageError(
                f"no section {given!r}, must be one of {', '.join(SECTIONS)}"
            )
    args.repeats = cli.whole_number("repeats", 1)(args.repeats)
    return args


def main() -> None:
    """Runs the sections that were asked for and prints their tables; asserts nothing."""
    args = arguments()
    console = Console()
    for section in args.sections:
        for table in {"clock": clock, "values": values, "model": model}[section](args):
            console.print(table)


# --- the clock alone ---


def clock(args: argparse.Namespace) -> Any:
    """One table for each piece of work: ours first, then the peers."""
    for work in WORK:
        runs = [timed(work) for _ in range(args.repeats)]
        yield clock_table(work, min(runs, key=lambda t: t.cpu_s))


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
    for peer in (p for p in PEERS if p.work == work):
        peak = "" if peer.peak_mb is None else f"{peer.peak_mb:.0f}"
        table.add_row(peer.tool, peer.predicts, f"{peer.cpu_s:g}", peak)
    return table


def predicted(work: str, ours: Timed) -> str:
    """Time and cycles, the latter against an array that always multiplies."""
    ms, m_cycles = ours.seconds * 1e3, ours.cycles / 1e6
    time = f"{ms:,.0f} ms" if ms >= 100 else f"{ms:.3g} ms"
    cycles = f"{m_cycles:,.2f} M" if m_cycles >= 1 else f"{ours.cycles:,.0f}"
    over = (
        f" ({ours.cycles / IDEAL_CYCLES[work] - 1:+.1%})"
        if work in IDEAL_CYCLES
        else ""
    )
    return f"{time}, {cycles} cycles{over.replace('%', ' %')}"


# --- values ---


def values(args: argparse.Namespace) -> Any:
    """The GEMM and the layer, computed and timed, against plain JAX."""
    from experiments.bench import values as bench_values

    heads = "", "values", "clock", "plain JAX", "ratio", "largest difference"
    table = headed("values and clock, CPU seconds, compilation apart", *heads)
    for work, compare in (("gemm", bench_values.gemm), ("layer", bench_values.layer)):
        c = compare(args.repeats)
        seconds = (f"{s:.3g}" for s in (c.values_s, c.clock_s, c.plain_s))
        table.add_row(TITLES[work], *seconds, f"{c.ratio:.2f}", f"{c.error:.1e}")
    yield table


def model(args: argparse.Namespace) -> Any:
    """A small model's prefill and decode step, two prompts."""
    from experiments.bench import model as bench
    from models.loading.load import load

    loaded = load(args.model)
    for name, prompt in bench.PROMPTS.items():
        ids = loaded.tokenizer.chat(prompt)
        machine = bench.machine(loaded, ids)
        title = f"{loaded.config.name}, {name} prompt of {len(ids)} tokens, {bench.CHIPS} chips"
        table = headed(f"values: {title}", "", "emulated", "plain jax.jit", "ratio")
        for row, (ours, plain) in bench.values(
            loaded, machine, ids, args.repeats
        ).items():
            times = f"{ours * 1e3:.1f} ms", f"{plain * 1e3:.1f} ms"
            table.add_row(row, *times, f"{ours / plain:.1f}")
        yield table
        table = headed(
            f"clock: {title}", "", "seconds to read", "instructions x cores", "a second"
        )
        for row, (seconds, issued) in bench.clocks(machine, args.repeats).items():
            table.add_row(
                row, f"{seconds:.3f}", f"{issued:,}", f"{issued / seconds:.3g}"
            )
        yield table


def headed(title: str, first: str, *rest: str) -> Table:
    """An empty table; figures stand on the right."""
    table = Table(title=title, title_justify="left")
    table.add_column(first)
    for heading in rest:
        table.add_column(heading, justify="right")
    return table


if __name__ == "__main__":
    cli.run(main)
