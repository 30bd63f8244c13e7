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
from experiments.shared.errors import Interrupted, UsageError
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


def arguments() -> argparse.Namespace:
    """The command line."""
    p = cli.parser("ring_scaling")
    p.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(PARTS)} (all)")
    p.add_argument(
        "--tokens", default="2048", help="of each rank, but for thresholds (2048)"
    )
    p.add_argument("--ranks", default="144", help="leaves out larger meshes (144)")
    p.add_argument(
        "--full", action="store_true", help="every mask, size and machine: long"
    )
    p.add_argument("--out", help="folder for ring_scaling.csv, .json and .png")
    args = p.parse_args()
    args.tokens = cli.whole_number("tokens", 4)(args.tokens)
    args.ranks = cli.whole_number("ranks", 1)(args.ranks)
    args.parts = list(dict.fromkeys(args.parts)) or list(PARTS)
    for given in args.parts:
        if given not in PARTS:
            raise UsageError(f"no part {given!r}, must be one of {', '.join(PARTS)}")
    return args


def main() -> None:
    """Reads every point and prints the tables; after Ctrl-C, those of what was read so far."""
    args = arguments()
    started = (time.perf_counter(), time.process_time())
    folder = cli.output_folder(args.out)
    console = Console()
    found = Results()
    if not console.is_terminal:
        console = Console(width=WIDTH)
    stopped = False
    try:
        read_all(args, found)
    except KeyboardInterrupt:
        stopped = True
    show(found, console)
    wall_s = time.perf_counter() - started[0]
    cpu_s = time.process_time() - started[1]
    told = files.records(found.sweep, found.groups)
    if folder is not None and told:
        from experiments.ring_scaling.picture import (
            draw,  # matplotlib takes a second to import
        )

        written = files.as_json(told, found.thresholds, wall_s, cpu_s)
        files.write_csv(told, folder / "ring_scaling.csv")
        cli.write_json(folder, "ring_scaling.json", written)
        draw(found.sweep, found.groups, folder / "ring_scaling.png")
        console.print(
            f"wrote {folder}/ring_scaling.csv, .json and .png", highlight=False
        )
    if stopped:
        raise Interrupted(f"{found.done} of {found.asked} points read")
    console.print(
        f"{wall_s:.0f} s, {cpu_s:.0f} s of them on the processor", highlight=False
    )


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

        for p in sweep if "sweep" in args.parts else ():
            program = " static" * p.static + f" {p.cores} cores" * (p.cores > 1)
            progress.begin(
                f"{p.machine}, {p.mask}, {p.placement}{program}, {p.ranks} x {p.share}"
            )
            found.sweep.append(measure(p))
            done()
        for q in sought if "thresholds" in args.parts else ():
            progress.begin(f"threshold: {q.told}")
            found.thresholds += [x for x in find(q) if isinstance(x, Threshold)]
            done()
        for group in groups if "schemes" in args.parts else ():
            rows: list[Row] = []
            for p in group:
                progress.begin(
                    f"{p.scheme}, {p.ranks} x {p.share}, {p.heads}/{p.kv_heads} heads"
                )
                rows.append(measure(p))
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
    cli.run(main)
