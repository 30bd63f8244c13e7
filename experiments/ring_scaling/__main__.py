"""The command line of `experiments.ring_scaling`."""

import argparse
import dataclasses
import time

from rich.console import Console

from experiments.ring_scaling import cases as ring_scaling_cases
from experiments.ring_scaling import files, table
from experiments.ring_scaling.measure import Row, measure
from experiments.ring_scaling.threshold import Threshold, find, questions
from experiments.shared import cli, durations, systems
from experiments.shared.output import Output
from experiments.shared.progress import Progress

PARTS = ("sweep", "thresholds", "schemes")
# So that all tokens have int32 positions, on the largest system as well.
MOST_TOKENS = (2**31 - 1) // max(
    machine.chips for machine in ring_scaling_cases.MACHINES.values()
)
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
        type=cli.whole_number("tokens", 4, MOST_TOKENS),
        help="of each rank, but for thresholds (2048)",
    )
    parser.add_argument(
        "--ranks",
        type=cli.whole_number("ranks", 1),
        help="chips: leaves out larger meshes (as many as the system has)",
    )
    systems.add_option(
        parser,
        [machine.system for machine in ring_scaling_cases.MACHINES.values()],
        "those that a question is about, most often trn3-gen2-ultraserver",
    )
    length = parser.add_mutually_exclusive_group()
    length.add_argument(
        "--full", action="store_true", help="every mask, size and machine: long"
    )
    length.add_argument(
        "--quick",
        action="store_true",
        help=f"the same questions, smaller; leaves out {ring_scaling_cases.LEFT_OUT}",
    )


def main(args: argparse.Namespace, output: Output) -> None:
    """Reads every point and prints the tables; after Ctrl-C, those of what was read so far."""
    started = (time.perf_counter(), time.process_time())
    args.parts = list(dict.fromkeys(args.parts)) or list(PARTS)
    args.machine = chosen_machine(args)
    console = output.console(WIDTH)
    if args.quick:
        args.tokens = min(args.tokens, ring_scaling_cases.QUICK_TOKENS)
        args.ranks = min(args.ranks, ring_scaling_cases.QUICK_RANKS)
        console.print(
            f"--quick, a smaller question; left out: {ring_scaling_cases.LEFT_OUT}",
            highlight=False,
            soft_wrap=True,
        )
    found = Results()

    def took() -> tuple[float, float]:
        return time.perf_counter() - started[0], time.process_time() - started[1]

    def found_so_far() -> str:
        show(found, console)
        write(found, *took(), args.quick, output)
        return f"{found.done} of {found.asked} points read"

    output.on_interruption(found_so_far)
    read_all(args, found)
    show(found, console)
    wall_s, cpu_s = took()
    write(found, wall_s, cpu_s, args.quick, output)
    if (found.sweep or found.groups) and output.folder is not None:
        # matplotlib takes a second to import.
        from experiments.ring_scaling.picture import draw

        name = "ring_scaling.png"
        output.file(name, lambda path: draw(found.sweep, found.groups, path))
    console.print(
        f"{wall_s:.0f} s, {cpu_s:.0f} s of them on the processor", highlight=False
    )


def chosen_machine(args: argparse.Namespace) -> str | None:
    """The machine that `--system` names, or None.

    Raises:
      UsageError: `--ranks` asks for more chips than any machine here has, or than that one.
    """
    machines = ring_scaling_cases.MACHINES
    others = [machine.system for machine in machines.values()]
    system = max(others, key=lambda system: system.chips)
    if args.system is not None:
        system = systems.BY_WORD[args.system]
    if args.ranks is None:
        args.ranks = system.chips
    systems.check_chips("--ranks", args.ranks, system, others)
    return None if args.system is None else ring_scaling_cases.BY_SYSTEM[system.name]


def write(
    found: Results, wall_s: float, cpu_s: float, quick: bool, output: Output
) -> None:
    """Writes the figures that were read, if any were."""
    readings = files.records(found.sweep, found.groups)
    if not readings and not found.thresholds:
        return
    name = "ring_scaling"
    left_out = ring_scaling_cases.LEFT_OUT if quick else None
    figures = files.as_json(readings, found.thresholds, wall_s, cpu_s, left_out)
    output.figures(name, figures)
    lines = ([reading.get(column) for column in files.COLUMNS] for reading in readings)
    output.table(name, files.COLUMNS, lines)


def read_all(args: argparse.Namespace, found: Results) -> None:
    """Fills `found`, part by part."""
    cases = {"whole": args.full}
    sweep = ring_scaling_cases.sweep(args.tokens, args.ranks, **cases)
    groups = ring_scaling_cases.schemes(args.tokens, args.ranks, **cases)
    sought = questions(args.ranks, **cases, machine=args.machine)
    sweep = ring_scaling_cases.on(args.machine, sweep)
    groups = [ring_scaling_cases.on(args.machine, group) for group in groups]
    if args.quick:
        sweep, sought, groups = ring_scaling_cases.quick(sweep), sought[:1], groups[:1]
    counts = dict(
        zip(PARTS, (len(sweep), len(sought), sum(map(len, groups))), strict=True)
    )
    found.asked = sum(counts[part] for part in args.parts)
    if not args.quick:
        durations.tell("ring_scaling", found.asked, Console(stderr=True))
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
