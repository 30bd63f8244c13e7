"""The command line of `experiments.kernel`."""

import argparse
import pathlib

from rich.console import Console
from rich.progress import Progress

from emu.report import perfetto
from emu.trainium.datasheets import GENERATIONS, NeuronCoreSheet
from experiments.kernel import figures, picture, tune
from experiments.kernel import report as kernel_report
from experiments.kernel import run as kernel_run
from experiments.kernel.request import Asked, asked
from experiments.kernel.run import Run
from experiments.shared import cli, files
from kernels.trainium.catalogue import TRAINIUM_KERNELS

TUNE, VERSUS = "tune", "vs"
USAGE = f"""
  NAME [key=value ...]                 the report of one kernel
  NAME [key=value ...] {VERSUS} [NAME] [key=value ...]
                                       two runs side by side
  {TUNE} NAME [key=value ...]            the fastest sizes of tiles, blocks and buffers;
                                       a parameter that is given stays as it is
  (nothing)                            the kernels there are

NAME is one of them, or FILE.py or FILE.py:KERNEL for one of your own.
"""


def arguments() -> argparse.Namespace:
    """The command line."""
    p = cli.parser("kernel")
    p.epilog = USAGE
    p.formatter_class = argparse.RawDescriptionHelpFormatter
    p.add_argument("words", nargs="*", metavar="WORD", help="what to do, see below")
    *names, last = GENERATIONS
    p.add_argument(
        "--device", default="trn2", help=f"{', '.join(names)} or {last} (trn2)"
    )
    p.add_argument("--out", help="folder for JSON, CSV, a Perfetto trace and a picture")
    args = p.parse_args()
    if args.device not in GENERATIONS:
        raise cli.UsageError(
            f"--device is {args.device!r}, must be one of {', '.join(GENERATIONS)}"
        )
    return args


def built(what: Asked, sheet: NeuronCoreSheet) -> Run:
    """The run, or one line on why its sizes cannot be."""
    try:
        return kernel_run.run(what.entry, what.given, sheet)
    except ValueError as e:
        raise cli.UsageError(f"{what.entry.name}: {e}") from None


def write(run: Run, folder: pathlib.Path, name: str) -> list[pathlib.Path]:
    """Writes a run's figures (JSON, CSV), its Perfetto trace and its picture."""
    files.write_csv(folder / f"{name}.csv", figures.CSV, figures.rows(run))
    trace = perfetto.trace(
        run.clock.events,
        run.clock.device.tick_hz,
        process=f"{run.sheet.name}: {run.title}",
        path=run.path,
        engines=run.clock.device.engines,
    )
    perfetto.write(folder / f"{name}.trace.json", trace)
    picture.draw(run, folder / f"{name}.png")
    return [
        cli.write_json(folder, f"{name}.json", figures.as_json(run)),
        *(folder / f"{name}{end}" for end in (".csv", ".trace.json", ".png")),
    ]


def report(
    runs: list[Run],
    folder: pathlib.Path | None,
    console: Console,
    names: tuple[str, ...],
) -> None:
    """Shows one run, or two side by side, and writes their files."""
    if len(runs) == 1:
        kernel_report.show(runs[0], console)
    else:
        kernel_report.show_pair(runs[0], runs[1], console)
        if folder is not None:
            lines = [line[:3] for line in kernel_report.compared(runs[0], runs[1])]
            files.write_csv(folder / "compare.csv", ("figure", "a", "b"), lines)
    for run, name in zip(runs, names, strict=True):
        if folder is not None:
            paths = ", ".join(map(str, write(run, folder, name)))
            console.print(f"wrote {paths}", highlight=False, soft_wrap=True)


def find_fastest(
    what: Asked, sheet: NeuronCoreSheet, folder: pathlib.Path | None, console: Console
) -> None:
    """Searches the parameters that were not given, and shows every setting tried."""
    grid = {k: v for k, v in what.entry.tunable.items() if k not in what.given}
    if not grid:
        raise cli.UsageError(
            f"{what.entry.name}: nothing is left to tune; give fewer parameters"
        )

    def ticks(setting: tune.Setting) -> int:
        run = kernel_run.run(what.entry, {**what.given, **setting}, sheet)
        return run.program.read(sheet.at(), *run.arguments).end_ticks

    with Progress(console=console, transient=True) as progress:
        bar = progress.add_task(f"{what.entry.name} on {sheet.name}", total=None)
        found = tune.search(
            ticks, grid, lambda n, of, _: progress.update(bar, completed=n, total=of)
        )
    kernel_report.show_search(what.entry, what.given, found, sheet, console)
    if folder is not None:
        lines = [(*t.setting.values(), t.ticks, t.reason) for t in found.ranked()]
        files.write_csv(folder / "tune.csv", (*grid, "ticks", "reason"), lines)


def main() -> None:
    """Does what the command line asks."""
    args = arguments()
    folder = cli.output_folder(args.out)
    console = Console()
    sheet, words = GENERATIONS[args.device], list(args.words)
    if not words:
        kernel_report.show_catalogue(TRAINIUM_KERNELS, console)
    elif words[0] == TUNE:
        find_fastest(asked(words[1:]), sheet, folder, console)
    elif VERSUS in words:
        at = words.index(VERSUS)
        first = asked(words[:at])
        pair = [first, asked(words[at + 1 :], like=first)]
        report([built(a, sheet) for a in pair], folder, console, ("a", "b"))
    else:
        report([built(asked(words), sheet)], folder, console, ("kernel",))


if __name__ == "__main__":
    cli.run(main)
