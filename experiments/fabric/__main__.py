"""The command line of `experiments.fabric`."""

import argparse

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from emu.given import told
from emu.wse import WSE2, WSE3
from emu.wse.fabric.program import FabricProgram
from experiments.fabric import files, report
from experiments.fabric.request import Request, parameters, request
from experiments.fabric.run import Places, explained
from experiments.shared import cli, numbers
from experiments.shared.errors import UsageError
from experiments.shared.output import Output
from kernels.wse.programs.catalogue import FABRIC_PROGRAMS

DEVICES = {"wse2": WSE2, "wse3": WSE3}
USAGE = """
  NAME [key=value ...]                 a program of the catalogue
  FILE.py:FUNCTION [key=value ...]     one of your own: FUNCTION takes whole numbers, and the wafer
                                       if it has a parameter `device`; it returns a FabricProgram,
                                       or (program, data by buffer name)
  (nothing)                            the programs there are
"""


def options(parser: cli.Parser) -> None:
    """Adds what this experiment takes."""
    parser.epilog = USAGE
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "words",
        nargs="*",
        metavar="WORD",
        type=cli.Word(tuple(FABRIC_PROGRAMS)),
        help="what to run, see below",
    )
    parser.add_argument(
        "--device",
        default="wse3",
        type=cli.one_of("--device", DEVICES),
        help="wse2 or wse3 (wse3)",
    )
    parser.add_argument(
        "--watch",
        nargs="+",
        metavar="x,y",
        help="PEs to draw and trace (a few that "
        "tell most; of many PEs, they are found by a run before)",
    )


def main(args: argparse.Namespace, output: Output) -> None:
    """Runs the program that the words name, or lists those there are."""
    if args.words:
        answer(request(args.words), args, output)
        return
    show_catalogue(output.console())
    known = {}
    for name, function in FABRIC_PROGRAMS.items():
        known[name] = parameters(function)
    output.figures("programs", known)


def answer(wanted: Request, args: argparse.Namespace, output: Output) -> None:
    """Runs a program, prints its report and writes its files."""
    console, device = output.console(), DEVICES[args.device].at()
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
            found = explained(program, data, device, watch, progress)
    report.show(wanted.title, found, console)
    files.write(wanted.title, found, output)


def places(words: list[str] | None, program: FabricProgram) -> Places | None:
    """The PEs that `--watch` names, as (x, y).

    Raises:
      UsageError: a word that is no place, or one outside the program.
    """
    if words is None:
        return None
    out = []
    for word in words:
        parts = word.split(",")
        try:
            column, row = (numbers.whole(word, part, 0) for part in parts)
        except ValueError:
            raise UsageError(f"--watch {told(word)}: must be x,y such as 3,0") from None
        if column >= program.width or row >= program.height:
            size = f"{program.width} x {program.height}"
            raise UsageError(f"--watch {word}: the program has {size} PEs")
        out.append((column, row))
    return out


def show_catalogue(console: Console) -> None:
    """Prints the programs there are, with their parameters."""
    for name, function in FABRIC_PROGRAMS.items():
        sizes = " ".join(
            f"{key}={value}" for key, value in parameters(function).items()
        )
        summary = (function.__doc__ or "").splitlines()[0]
        console.print(f"[bold]{name}[/bold]: {summary}", highlight=False)
        console.print(f"  {sizes}", highlight=False)


if __name__ == "__main__":
    cli.run("fabric", options, main)
