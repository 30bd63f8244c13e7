"""The command line of `experiments.kernel`."""

import argparse

from rich.progress import Progress

from emu import progress
from emu.report import perfetto
from emu.trainium.datasheets import GENERATIONS, SYSTEMS, NeuronCoreSheet
from experiments.kernel import figures, picture, report, search
from experiments.kernel.own import DTYPES, OwnKernel
from experiments.kernel.request import Request, request
from experiments.kernel.run import Run, built
from experiments.shared import cli, systems
from experiments.shared.errors import UsageError
from experiments.shared.output import Output
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


def options(parser: cli.Parser) -> None:
    """Adds what this experiment takes."""
    parser.epilog = USAGE
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "words",
        nargs="*",
        metavar="WORD",
        type=cli.Word((TUNE, VERSUS, *TRAINIUM_KERNELS)),
        help="what to do, see below",
    )
    *names, last = GENERATIONS
    parser.add_argument(
        "--device",
        default="trn2",
        type=cli.one_of("--device", GENERATIONS),
        help=f"{', '.join(names)} or {last} (trn2)",
    )
    systems.add_option(
        parser,
        SYSTEMS,
        "none: each chip one hop from the next, for programs over chips",
    )


def main(args: argparse.Namespace, output: Output) -> None:
    """Does what the words ask."""
    sheet = systems.joined(GENERATIONS[args.device], args.system)
    words = list(args.words)
    if not words:
        report.show_catalogue(TRAINIUM_KERNELS, output.console())
        output.figures("kernels", figures.catalogue(TRAINIUM_KERNELS))
    elif words[0] == TUNE:
        find_fastest(request(words[1:]), sheet, output)
    elif VERSUS in words:
        at = words.index(VERSUS)
        first = request(words[:at])
        second = request(words[at + 1 :], like=first)
        compare(read(first, sheet), read(second, sheet), output)
    else:
        run = read(request(words), sheet)
        report.show(run, output.console())
        write(run, "kernel", output)


def read(wanted: Request, sheet: NeuronCoreSheet) -> Run:
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
            run = built(wanted.entry, wanted.given, sheet)
            with progress.shown(None):
                run.read()
        except ValueError as error:
            if wanted.file is not None:
                raise
            raise UsageError(f"{wanted.entry.name}: {error}") from None
    return run


def compare(first: Run, second: Run, output: Output) -> None:
    """Shows two runs side by side, and writes both."""
    report.show_pair(first, second, output.console())
    lines = [line[:3] for line in report.compared(first, second)]
    output.table("compare", ("figure", "a", "b"), lines)
    for run, name in ((first, "a"), (second, "b")):
        write(run, name, output)


def write(run: Run, name: str, output: Output) -> None:
    """Writes a run's figures (JSON, CSV), its Perfetto trace and its picture."""
    output.figures(name, figures.as_json(run))
    output.table(name, figures.CSV, figures.rows(run))
    trace = perfetto.trace(
        run.clock.events,
        run.clock.device.tick_hz,
        process=f"{run.machine}: {run.title}",
        path=run.path,
        engines=run.clock.device.engines,
    )
    output.file(f"{name}.trace.json", lambda path: perfetto.write(path, trace))
    output.file(f"{name}.png", lambda path: picture.draw(run, path))


def find_fastest(wanted: Request, sheet: NeuronCoreSheet, output: Output) -> None:
    """Searches the parameters that were not given, and shows every setting tried."""
    entry = wanted.entry
    grid = {
        key: values for key, values in entry.tunable.items() if key not in wanted.given
    }
    if not grid:
        remedy = "give fewer parameters"
        if isinstance(wanted.kernel, OwnKernel):
            remedy = "give a parameter several values, such as buffers=2,3,4"
        raise UsageError(f"{entry.name}: nothing is left to tune; {remedy}")

    def ticks(setting: search.Setting) -> int:
        with wanted.errors_in_one_line():
            run = built(entry, {**wanted.given, **setting}, sheet)
            return run.program.read(sheet.at(), *run.arguments).end_ticks

    console = output.console()
    with Progress(console=console, transient=True) as progress:
        bar = progress.add_task(f"{entry.name} on {sheet.name}", total=None)

        def tell(tried: int, of: int | None, _: search.Tried) -> None:
            progress.update(bar, completed=tried, total=of)

        found = search.search(ticks, grid, tell)
    if found.best is None:
        first = found.tried[0]
        setting = " ".join(f"{key}={value}" for key, value in first.setting.items())
        raise UsageError(
            f"{entry.name}: none of {len(found.tried)} settings can run; the first, {setting}: "
            f"{first.reason}"
        )
    report.show_search(entry, wanted.given, found, sheet, console)
    ranked = found.ranked()
    lines = [(*tried.setting.values(), tried.ticks, tried.reason) for tried in ranked]
    output.table("tune", (*grid, "ticks", "reason"), lines)
    output.figures("tune", figures.of_search(entry, wanted.given, found, sheet))


if __name__ == "__main__":
    cli.run("kernel", options, main)
