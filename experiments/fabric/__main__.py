"""The command line of `experiments.fabric`."""

import argparse
import pathlib

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from emu.wse import WSE2, WSE3
from emu.wse.fabric.program import FabricProgram
from experiments.fabric import files, run
from experiments.fabric import report as fabric_report
from experiments.fabric.request import Request, parameters, request
from experiments.shared import cli
from experiments.shared.errors import UsageError
from kernels.wse.programs.catalogue import FABRIC_PROGRAMS

DEVICES = {"wse2": WSE2, "wse3": WSE3}
USAGE = """
  NAME [key=value ...]                 a program of the catalogue
  FILE.py:FUNCTION [key=value ...]     one of your own: FUNCTION takes whole numbers, and the wafer
                                       if it has a parameter `device`; it returns a FabricProgram,
                                       or (program, data by buffer name)
  (nothing)                            the programs there are
"""


def arguments() -> argparse.Namespace:
    """The command line."""
    p = cli.parser("fabric")
    p.epilog = USAGE
    p.formatter_class = argparse.RawDescriptionHelpFormatter
    p.add_argument("words", nargs="*", metavar="WORD", help="what to run, see below")
    p.add_argument("--device", default="wse3", help="wse2 or wse3 (wse3)")
    p.add_argument(
        "--watch",
        nargs="+",
        metavar="x,y",
        help="PEs to draw and trace (a few that "
        "tell most; of many PEs, they are found by a run before)",
    )
    p.add_argument("--out", help="folder for JSON, CSV, maps and a Perfetto trace")
    args = p.parse_intermixed_args()
    if args.device not in DEVICES:
        raise UsageError(
            f"--device is {args.device!r}, must be one of {', '.join(DEVICES)}"
        )
    return args


def places(words: list[str] | None, program: FabricProgram) -> run.Places | None:
    """The PEs that `--watch` names, as (x, y).

    Raises:
      UsageError: a word that is no place, or one outside the program.
    """
    if words is None:
        return None
    out = []
    for word in words:
        x, comma, y = word.partition(",")
        if not (comma and x.isdecimal() and y.isdecimal()):
            raise UsageError(f"--watch {word!r}: must be x,y such as 3,0")
        if int(x) >= program.width or int(y) >= program.height:
            raise UsageError(
                f"--watch {word}: the program has {program.width} x {program.height} PEs"
            )
        out.append((int(x), int(y)))
    return out


def show_catalogue(console: Console) -> None:
    """Prints the programs there are, with their parameters."""
    for name, function in FABRIC_PROGRAMS.items():
        sizes = " ".join(f"{k}={v}" for k, v in parameters(function).items())
        summary = (function.__doc__ or "").splitlines()[0]
        console.print(f"[bold]{name}[/bold]: {summary}", highlight=False)
        console.print(f"  {sizes}", highlight=False)


def report(
    wanted: Request, args: argparse.Namespace, folder: pathlib.Path | None
) -> None:
    """Runs a program, prints its report and writes its files."""
    console, device = Console(), DEVICES[args.device].at()
    program, data = wanted.build(device)
    watch = places(args.watch, program)
    columns = SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn()
    quiet = not console.is_terminal
    with Progress(*columns, console=console, transient=True, disable=quiet) as bar:
        task = bar.add_task(f"{wanted.name}: building", total=None)

        def progress(doing: str, cycle: int, end: int | None) -> None:
            of = f" of {end:,}" if end else ""
            bar.update(task, description=f"{wanted.name}: {doing}, cycle {cycle:,}{of}")

        with wanted.errors_in_one_line():
            found = run.run(program, data, device, watch, progress)
    fabric_report.show(wanted.title, found, console)
    if folder is not None:
        paths = ", ".join(map(str, files.write(wanted.title, found, folder)))
        console.print(f"wrote {paths}", highlight=False, soft_wrap=True)


def main() -> None:
    """Does what the command line asks."""
    args = arguments()
    folder = cli.output_folder(args.out)
    if args.words:
        report(request(args.words), args, folder)
    else:
        show_catalogue(Console())


if __name__ == "__main__":
    cli.run(main)
