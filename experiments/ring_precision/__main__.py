"""The command line of `experiments.ring_precision`."""

import argparse
import dataclasses
import time

from rich.console import Console

from experiments.ring_precision import table
from experiments.ring_precision.measure import MASKS, Bench, Row
from experiments.shared import cli, durations
from experiments.shared.errors import UsageError
from experiments.shared.output import Output
from experiments.shared.progress import Progress
from kernels.trainium.context.sizes import RECIPES

DTYPES = ("float32", "bfloat16", "float8_e4m3fn", "mxfp8")
MOST_TOKENS = 1 << 16
WIDTH = 130  # of a table that no terminal cuts

Point = tuple[str, str, int]  # dtype, recipe, ranks


@dataclasses.dataclass(frozen=True)
class Sizes:
    """What is measured where nothing is given: dtypes, the sequence's length, the largest ring."""

    dtypes: tuple[str, ...]
    tokens: int
    ranks: int


WHOLE = Sizes(DTYPES, tokens=2048, ranks=64)
QUICK = Sizes(("bfloat16",), tokens=512, ranks=8)
LEFT_OUT = (
    f"dtypes but {', '.join(QUICK.dtypes)}, rings between 1 rank and the largest, more than "
    f"{QUICK.ranks} ranks and more than {QUICK.tokens} tokens"
)


def options(parser: cli.Parser) -> None:
    """Adds what this experiment takes."""
    parser.add_argument(
        "dtypes",
        nargs="*",
        metavar="DTYPE",
        type=cli.one_of("dtype", DTYPES),
        help=f"{', '.join(DTYPES)} (all)",
    )
    parser.add_argument(
        "--tokens",
        type=cli.whole_number("tokens", 1, MOST_TOKENS, "every pair is computed"),
        help="length of the sequence (2048)",
    )
    parser.add_argument(
        "--ranks",
        type=cli.whole_number("ranks", 1),
        help="of the largest ring: 1, 2, 4, ... (64)",
    )
    parser.add_argument(
        "--mask",
        default="full",
        type=cli.one_of("--mask", MASKS),
        help=f"{' or '.join(MASKS)} (full)",
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help=f"the same question, smaller; unless others are named, it leaves out {LEFT_OUT}",
    )


def sized(args: argparse.Namespace) -> None:
    """Fills in what was not given: all of it, or with `--quick` little."""
    sizes = QUICK if args.quick else WHOLE
    args.dtypes = list(dict.fromkeys(args.dtypes or sizes.dtypes))
    args.tokens = args.tokens or sizes.tokens
    args.ranks = args.ranks or sizes.ranks


def points(args: argparse.Namespace) -> list[Point]:
    """Every ring to measure: those that share operands after each other."""
    rings = [1 << exponent for exponent in range(args.ranks.bit_length())]
    if args.quick:
        rings = [1, rings[-1]] if len(rings) > 1 else rings
    dtypes = args.dtypes
    return [
        (dtype, recipe, ranks)
        for dtype in dtypes
        for ranks in rings
        for recipe in RECIPES
    ]


def main(args: argparse.Namespace, output: Output) -> None:
    """Measures every ring and prints the table; after Ctrl-C, that of the rings measured so far."""
    sized(args)
    if args.ranks > args.tokens:
        raise UsageError(
            f"--ranks is {args.ranks}, must be at most the {args.tokens} tokens"
        )
    console = output.console(WIDTH)
    started = time.perf_counter()
    asked, rows = points(args), []
    if args.quick:
        told = f"--quick, a smaller question; left out: {LEFT_OUT}"
        console.print(told, highlight=False, soft_wrap=True)
    else:
        durations.tell("ring_precision", len(asked), Console(stderr=True))

    def found() -> str:
        if rows:
            table.show(rows, args.tokens, args.mask, console)
        return f"{len(rows)} of {len(asked)} rings measured"

    output.on_interruption(found)
    measure(asked, args, rows)
    table.show(rows, args.tokens, args.mask, console)
    wall_s = time.perf_counter() - started
    left_out = LEFT_OUT if args.quick else None
    figures = table.as_json(rows, args.tokens, args.mask, wall_s, left_out)
    output.figures("ring_precision", figures)
    output.table("ring_precision", table.COLUMNS, table.lines(rows))
    if output.folder is not None:
        # matplotlib takes a second to import.
        from experiments.ring_precision.picture import draw

        name = "ring_precision.png"
        output.file(name, lambda path: draw(rows, args.tokens, args.mask, path))


def measure(asked: list[Point], args: argparse.Namespace, rows: list[Row]) -> None:
    """Appends a row for each ring."""
    with Progress(len(asked), Console(stderr=True)) as progress:
        bench = Bench(args.tokens, args.mask)
        for dtype, recipe, ranks in asked:
            progress.begin(f"{dtype}, {recipe}, {ranks} rank{'s' * (ranks > 1)}")
            rows.append(bench.measure(dtype, recipe, ranks))
            progress.done()


if __name__ == "__main__":
    cli.run("ring_precision", options, main)
