"""The command line of `experiments.ring_scaling`."""

import argparse
import dataclasses
import time

from rich.console import Console

from experiments.ring_scaling import cases as ring_scaling_cases
from experiments.ring_scaling import files, table
from experiments.ring_scaling.measure import Row, measure
from experiments.ring_scaling.threshold import Threshold, find, questions
from experiments.shared import cli
from experiments.shared.output import Output
from experiments.shared.progress import Progress

PARTS = ("sweep", "thresholds", "schemes")
WIDTH = 160  # of a table that no terminal cuts


@dataclasses.dataclass
class Results:
    """What was read so far.

    Attributes:
      sweep: rings.
      thresholds: found.
      groups: of schemes, those begun last perhaps without all of them.
      asked, done: steps of all parts, and those that are done.
    """

    sweep: list[Row] = dataclasses.field(default_factory=list)
    thresholds: list[Threshold] = dataclasses.field(default_factory=list)
    groups: list[list[Row]] = dataclasses.field(default_factory=list)
    asked: int = 0
    done: int = 0


def options(parser: cli.Parser) -> None:
    """Adds what this experiment takes."""
    parser.add_argument(
        "parts",
        nargs="*",
        metavar="PART",
        type=cli.one_of("part", PARTS),
        help=f"{', '.join(PARTS)} (all)",
    )
    parser.add_argument(
        "--tokens",
        default="2048",
        type=cli.whole_number("tokens", 4),
        help="of each rank, but for thresholds (2048)",
    )
    parser.add_argument(
        "--ranks",
        default="144",
        type=cli.whole_number("ranks", 1),
        help="leaves out larger meshes (144)",
    )
    parser.add_argument(
        "--full", action="store_true", help="every mask, size and machine: long"
    )


def main(args: argparse.Namespace, output: Output) -> None:
    """Reads every point and prints the tables; after Ctrl-C, those of what was read so far."""
    started = (time.perf_counter(), time.process_time())
    args.parts = list(dict.fromkeys(args.parts)) or list(PARTS)
    console = output.console(WIDTH)
    found = Results()

    def took() -> tuple[float, float]:
        return time.perf_counter() - started[0], time.process_time() - started[1]

    def found_so_far() -> str:
        show(found, console)
        write(found, *took(), output)
        return f"{found.done} of {found.asked} points read"

    output.on_interruption(found_so_far)
    read_all(args, found)
    show(found, console)
    wall_s, cpu_s = took()
    write(found, wall_s, cpu_s, output)
    if (found.sweep or found.groups) and output.folder is not None:
        # matplotlib takes a second to import.
        from experiments.ring_scaling.picture import draw

        name = "ring_scaling.png"
        output.file(name, lambda path: draw(found.sweep, found.groups, path))
    console.print(
        f"{wall_s:.0f} s, {cpu_s:.0f} s of them on the processor", highlight=False
    )


def write(found: Results, wall_s: float, cpu_s: float, output: Output) -> None:
    """Writes the figures that were read, if any were."""
    readings = files.records(found.sweep, found.groups)
    if not readings and not found.thresholds:
        return
    name = "ring_scaling"
    output.figures(name, files.as_json(readings, found.thresholds, wall_s, cpu_s))
    lines = ([reading.get(column) for column in files.COLUMNS] for reading in readings)
    output.table(name, files.COLUMNS, lines)


def read_all(args: argparse.Namespace, found: Results) -> None:
    """Fills `found`, part by part."""
    cases = {"whole": args.full}
    sweep = ring_scaling_cases.sweep(args.tokens, args.ranks, **cases)
    groups = ring_scaling_cases.schemes(args.tokens, args.ranks, **cases)
    sought = questions(args.ranks, **cases)
    counts = dict(
        zip(PARTS, (len(sweep), len(sought), sum(map(len, groups))), strict=True)
    )
    found.asked = sum(counts[part] for part in args.parts)
    with Progress(found.asked, Console(stderr=True)) as progress:

        def done() -> None:
            found.done += 1
            progress.done()

        for point in sweep if "sweep" in args.parts else ():
            program = " static" * point.static + f" {point.cores} cores" * (
                point.cores > 1
            )
            progress.begin(
                f"{point.machine}, {point.mask}, {point.placement}{program}, "
                f"{point.ranks} x {point.share}"
            )
            found.sweep.append(measure(point))
            done()
        for question in sought if "thresholds" in args.parts else ():
            progress.begin(f"threshold: {question.told}")
            found.thresholds += [
                threshold
                for threshold in find(question)
                if isinstance(threshold, Threshold)
            ]
            done()
        for group in groups if "schemes" in args.parts else ():
            rows: list[Row] = []
            for point in group:
                progress.begin(
                    f"{point.scheme}, {point.ranks} x {point.share}, "
                    f"{point.heads}/{point.kv_heads} heads"
                )
                rows.append(measure(point))
                if len(rows) == 1:
                    found.groups.append(rows)
                done()


def show(found: Results, console: Console) -> None:
    """Prints what there is of each part."""
    if found.sweep:
        table.show_sweep(found.sweep, console)
    if found.thresholds:
        table.show_thresholds(found.thresholds, console)
    if found.groups:
        table.show_schemes(found.groups, console)


if __name__ == "__main__":
    cli.run("ring_scaling", options, main)
