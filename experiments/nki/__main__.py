"""The command line of `experiments.nki`."""

import argparse
from collections.abc import Sequence

import numpy as np

from emu.trainium.datasheets import GENERATIONS
from emu.trainium.nki.passes import PASSES
from emu.trainium.nki.report import READINGS, Report
from emu.trainium.nki.time import nki_time
from experiments.kernel import figures as kernel_figures
from experiments.kernel import picture
from experiments.kernel import report as tables
from experiments.nki import check, show
from experiments.nki.kernel_file import KernelFile, kernel_file
from experiments.nki.request import Request, by_arguments, by_function
from experiments.shared import cli
from experiments.shared.errors import UsageError
from experiments.shared.output import Output
from kernels import user_file

VERSUS = "vs"
USAGE = f"""
  FILE.py:KERNEL --arg x=bf16[4096,512] --arg w=f32[512]
                                       the report of one kernel, of arguments by shape; a number
                                       or a word is passed as it is
  FILE.py:KERNEL --inputs FILE.py:FUNCTION
                                       FUNCTION gives a list of arguments, or a dict by name
  FILE.py:KERNEL ... --check FILE.py:FUNCTION
                                       also runs the kernel on values, random ones from --seed
                                       where only shapes are given, and compares with FUNCTION
  FILE.py:FIRST {VERSUS} FILE.py:SECOND ...
                                       two kernels with the same arguments side by side

KERNEL is a function written for neuronxcc.nki or nki, as it stands in its author's file; neither
has to be installed.
"""


def options(parser: cli.Parser) -> None:
    """Adds what this experiment takes."""
    parser.epilog = USAGE
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "words", nargs="*", metavar="WORD", help="what to time, see below"
    )
    parser.add_argument(
        "--arg", action="append", default=[], metavar="NAME=VALUE", help="an argument"
    )
    parser.add_argument(
        "--inputs", metavar="FILE.py:FUNCTION", help="gives the arguments"
    )
    parser.add_argument(
        "--check",
        metavar="FILE.py:FUNCTION",
        help="reference: takes the kernel's arguments, gives its results",
    )
    parser.add_argument(
        "--tolerance",
        type=float,
        default=1e-5,
        help="of --check: the largest difference over the largest value (1e-5)",
    )
    parser.add_argument(
        "--seed", type=cli.whole_number("seed", 0), default=0, help="of values (0)"
    )
    *names, last = GENERATIONS
    parser.add_argument(
        "--device",
        default="trn2",
        type=cli.one_of("--device", GENERATIONS),
        help=f"{', '.join(names)} or {last} (trn2)",
    )
    parser.add_argument(
        "--reading",
        type=cli.one_of("--reading", READINGS),
        help=f"{' or '.join(READINGS)} (compiled for neuronxcc.nki, literal for nki)",
    )
    parser.add_argument("--grid", metavar="SIZES", help="of the launch: 2, or 4,2")
    parser.add_argument(
        "--skip",
        action="append",
        default=[],
        type=cli.one_of("--skip", PASSES),
        metavar="PASS",
        help=f"leaves out a pass of the compiled reading: {', '.join(PASSES)}",
    )


def main(args: argparse.Namespace, output: Output) -> None:
    """Times what the words name."""
    names = _kernels(args.words)
    files = [kernel_file(name) for name in names]
    requests = [_request(file, args) for file in files]
    reports = [_read(request, args) for request in requests]
    console = output.console()
    if len(reports) == 1:
        show.show(reports[0], console)
    else:
        tables.show_pair(reports[0].timed, reports[1].timed, console)
        lines = [line[:3] for line in tables.compared(*(r.timed for r in reports))]
        output.table("compare", ("figure", "a", "b"), lines)
    for name, report in zip(_names(reports), reports, strict=True):
        figures = report.as_dict()
        if args.check is not None:
            request = requests[reports.index(report)]
            figures["check"] = _checked(report, request, args, console)
        _write(report, name, figures, output)


def _names(reports: Sequence[Report]) -> Sequence[str]:
    return ("nki",) if len(reports) == 1 else ("a", "b")


def _kernels(words: Sequence[str]) -> list[str]:
    """The kernels that the words name, one or two."""
    if len(words) == 1:
        return list(words)
    if len(words) == 3 and words[1] == VERSUS:
        return [words[0], words[2]]
    given = " ".join(words) or "no kernel"
    raise UsageError(
        f"{given}: name one kernel, FILE.py:KERNEL, or two with {VERSUS!r} between"
    )


def _request(file: KernelFile, args: argparse.Namespace) -> Request:
    if args.inputs is None:
        return by_arguments(file, args.arg, args.grid)
    if args.arg:
        raise UsageError("--arg and --inputs: give one of the two")
    function = check.function(args.inputs, "--inputs")
    with user_file.errors_in_one_line(function.reference):
        return by_function(file, function.call, args.inputs, args.grid)


def _read(request: Request, args: argparse.Namespace) -> Report:
    with request.file.errors_in_one_line():
        report = nki_time(
            request.file.kernel,
            request.arguments,
            args.device,
            reading=args.reading,
            grid=request.grid,
            api=request.file.api,
            skip=args.skip,
            title=request.title,
        )
        report.timed.read()
    return report


def _checked(
    report: Report, request: Request, args: argparse.Namespace, console: show.Console
) -> dict[str, float | bool]:
    """Runs the kernel and its reference on the same values, and tells how far apart they are."""
    given = request.with_values(args.seed)
    reference = check.function(args.check, "--check")
    with request.file.errors_in_one_line():
        got = report.values(*given.arrays)
    with user_file.errors_in_one_line(reference.reference):
        wanted = reference.call(*given.positional, **given.named)
    found = check.difference(got, wanted, args.check)
    is_right = bool(np.isfinite(found) and found <= args.tolerance)
    console.print(
        f"values: largest difference {found:.2e} of the largest value, "
        f"{'within' if is_right else 'NOT within'} {args.tolerance:g}",
        highlight=False,
    )
    return {"relative_error": found, "tolerance": args.tolerance, "ok": is_right}


def _write(report: Report, name: str, figures: dict, output: Output) -> None:
    output.figures(name, figures)
    output.table(name, kernel_figures.CSV, kernel_figures.rows(report.timed))
    output.file(f"{name}.trace.json", report.write_perfetto)
    output.file(f"{name}.png", lambda path: picture.draw(report.timed, path))


if __name__ == "__main__":
    cli.run("nki", options, main)
