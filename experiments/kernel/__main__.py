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
from experiments.kernel.own import DTYPES, OwnKernel
from experiments.kernel.request import Request, request
from experiments.kernel.run import Run
from experiments.shared import cli, files
from experiments.shared.errors import UsageError
from kernels.trainium.catalogue import TRAINIUM_KERNELS

TUNE, VERSUS = "tune", "vs"
USAGE = f"""
  NAME [key=value ...]                 the report of one kernel
  NAME [key=value ...] {VERSUS} [NAME] [key=value ...]
                                       two runs side by side
  {TUNE} NAME [key=value ...]            the fastest sizes of tiles, blocks and buffers;
                                       a parameter that is given stays as it is
  (nothing)                            the kernels there are

NAME is one of them, or FILE.py:KERNEL for one of your own:

  mine.py:gated x=bf16[128,128] w=bf16[8,128,512] n=4
                                       KERNEL is a function of one core, or a Program; it is given
                                       its arrays by shape, and numbers as they are; dtypes are
                                       {", ".join(DTYPES)}
  {TUNE} mine.py:gated x=... buffers=2,3,4
                                       several values are candidates
  mine.py:ENTRY [key=value ...]        what kernels.trainium.catalogue.entry makes has its own
                                       sizes and candidates
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
        raise UsageError(
            f"--device is {args.device!r}, must be one of {', '.join(GENERATIONS)}"
        )
    return args


def built(wanted: Request, sheet: NeuronCoreSheet) -> Run:
    """The run, its clock read.

    Raises:
      UsageError: sizes that cannot be, or several where one is needed.
      EmulationError: the machine cannot run it, or the user's code raised.
    """
    if wanted.candidates:
        given = ", ".join(wanted.candidates)
        raise UsageError(f"{given}: several values are for `{TUNE}`; give one")
    with wanted.errors_in_one_line():
        try:
            made = kernel_run.run(wanted.entry, wanted.given, sheet)
            made.read()
        except ValueError as error:
            if wanted.file is not None:
                raise
            raise UsageError(f"{wanted.entry.name}: {error}") from None
    return made


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
    wanted: Request,
    sheet: NeuronCoreSheet,
    folder: pathlib.Path | None,
    console: Console,
) -> None:
    """Searches the parameters that were not given, and shows every setting tried."""
    grid = {k: v for k, v in wanted.entry.tunable.items() if k not in wanted.given}
    if not grid:
        remedy = "give fewer parameters"
        if isinstance(wanted.kernel, OwnKernel):
            remedy = "give a parameter several values, such as buffers=2,3,4"
        raise UsageError(f"{wanted.entry.name}: nothing is left to tune; {remedy}")

    def ticks(setting: tune.Setting) -> int:
        with wanted.errors_in_one_line():
            run = kernel_run.run(wanted.entry, {**wanted.given, **setting}, sheet)
            return run.program.read(sheet.at(), *run.arguments).end_ticks

    with Progress(console=console, transient=True) as progress:
        bar = progress.add_task(f"{wanted.entry.name} on {sheet.name}", total=None)
        found = tune.search(
            ticks, grid, lambda n, of, _: progress.update(bar, completed=n, total=of)
        )
    kernel_report.show_search(wanted.entry, wanted.given, found, sheet, console)
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
        find_fastest(request(words[1:]), sheet, folder, console)
    elif VERSUS in words:
        at = words.index(VERSUS)
        first = request(words[:at])
        pair = [first, request(words[at + 1 :], like=first)]
        report([built(wanted, sheet) for wanted in pair], folder, console, ("a", "b"))
    else:
        report([built(request(words), sheet)], folder, console, ("kernel",))


if __name__ == "__main__":
    cli.run(main)
