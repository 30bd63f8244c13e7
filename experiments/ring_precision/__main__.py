"""The command line of `experiments.ring_precision`."""

import argparse
import time

from rich.console import Console

from experiments.ring_precision import table
from experiments.ring_precision.measure import MASKS, Bench, Row
from experiments.shared import cli
from experiments.shared.errors import Interrupted, UsageError
from experiments.shared.progress import Progress
from kernels.trainium.context.sizes import RECIPES

DTYPES = ("float32", "bfloat16", "float8_e4m3fn", "mxfp8")
WIDTH = 130  # of a table that no terminal cuts

Point = tuple[str, str, int]  # dtype, recipe, ranks


def arguments() -> argparse.Namespace:
    """The command line."""
    p = cli.parser("ring_precision")
    p.add_argument(
        "dtypes", nargs="*", metavar="DTYPE", help=f"{', '.join(DTYPES)} (all)"
    )
    p.add_argument("--tokens", default="2048", help="length of the sequence (2048)")
    p.add_argument(
        "--ranks", default="64", help="of the largest ring: 1, 2, 4, ... (64)"
    )
    p.add_argument("--mask", default="full", help=f"{' or '.join(MASKS)} (full)")
    p.add_argument("--out", help="folder for ring_precision.csv, .json and .png")
    args = p.parse_args()
    args.tokens = cli.whole_number("tokens", 1)(args.tokens)
    args.ranks = cli.whole_number("ranks", 1)(args.ranks)
    args.dtypes = list(dict.fromkeys(args.dtypes)) or DTYPES
    for given in args.dtypes:
        if given not in DTYPES:
            raise UsageError(f"no dtype {given!r}, must be one of {', '.join(DTYPES)}")
    if args.mask not in MASKS:
        raise UsageError(f"--mask is {args.mask!r}, must be one of {', '.join(MASKS)}")
    if args.ranks > args.tokens:
        raise UsageError(
            f"--ranks is {args.ranks}, must be at most the {args.tokens} tokens"
        )
    return args


def points(args: argparse.Namespace) -> list[Point]:
    """Every ring to measure: those that share operands after each other."""
    rings = [1 << n for n in range(args.ranks.bit_length())]
    return [
        (dtype, recipe, n) for dtype in args.dtypes for n in rings for recipe in RECIPES
    ]


def main() -> None:
    """Measures every ring and prints the table; after Ctrl-C, that of the rings measured so far."""
    args = arguments()
    folder = cli.output_folder(args.out)
    console = Console()
    started = time.perf_counter()
    if not console.is_terminal:
        console = Console(width=WIDTH)
    asked, rows = points(args), []
    try:
        measure(asked, args, rows)
    except KeyboardInterrupt:
        if rows:
            table.show(rows, args.tokens, args.mask, console)
        raise Interrupted(f"{len(rows)} of {len(asked)} rings measured") from None
    table.show(rows, args.tokens, args.mask, console)
    if folder is not None:
        from experiments.ring_precision.picture import (
            draw,  # matplotlib takes a second to import
        )

        wall_s = time.perf_counter() - started
        table.write_csv(rows, folder / "ring_precision.csv")
        written = table.as_json(rows, args.tokens, args.mask, wall_s)
        cli.write_json(folder, "ring_precision.json", written)
        draw(rows, args.tokens, args.mask, folder / "ring_precision.png")
        console.print(
            f"wrote {folder}/ring_precision.csv, .json and .png", highlight=False
        )


def measure(asked: list[Point], args: argparse.Namespace, rows: list[Row]) -> None:
    """Appends a row for each ring."""
    with Progress(len(asked), Console(stderr=True)) as progress:
        bench = Bench(args.tokens, args.mask)
        for dtype, recipe, ranks in asked:
            progress.begin(f"{dtype}, {recipe}, {ranks} rank{'s' * (ranks > 1)}")
            rows.append(bench.measure(dtype, recipe, ranks))
            progress.done()


if __name__ == "__main__":
    cli.run(main)
