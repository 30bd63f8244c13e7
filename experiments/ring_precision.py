"""How the error of ring attention grows with the ring, by dtype and by how sums are carried.

Values are those of the emulated kernel, held against attention in float64. Queries are normal with
a standard deviation of 3, keys and values of 1, so softmax is peaked; two heads of 128 features;
tokens are dealt out one by one, as AWS's ring kernel deals them. Key tiles are the largest that
fit, 512 keys at most, so they shrink with a rank's share.

Three errors are told apart: of the sums that the last hop leaves, against attention on the operands
as rounded to the dtype, which is what the recipe and the rounded weights cost; of the kernel's
result, which is rounded once more to the output's dtype; and the same against the operands as
drawn, which is mostly the rounding of operands.

What to expect. `bf16-o` grows with the ring whatever the operands, since every hop rounds the
output once more. 8-bit weights are the exception at first: that recipe begins each hop's softmax
anew, so weights are rounded beside their own hop's largest and not far below the sequence's.
float32 with `fp32` sums is flat: from hop to hop the factor of a row whose maximum stays is exactly
1, as maxima are subtracted before they are scaled.

All of it takes five minutes of CPU, mostly compilation of 56 rings; name a dtype for a quarter.
"""

import argparse
import time

from rich.console import Console

from experiments import cli, ring_precision_table
from experiments.ring_precision_measure import MASKS, Bench, Row
from experiments.ring_precision_progress import Progress
from kernels.trainium.context.sizes import RECIPES

DTYPES = ("float32", "bfloat16", "float8_e4m3fn", "mxfp8")
WIDTH = 130  # of a table that no terminal cuts

Point = tuple[str, str, int]  # dtype, recipe, ranks


def arguments() -> argparse.Namespace:
    """The command line."""
    p = cli.parser("experiments.ring_precision", (__doc__ or "").splitlines()[0])
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
            raise cli.UsageError(
                f"no dtype {given!r}, must be one of {', '.join(DTYPES)}"
            )
    if args.mask not in MASKS:
        raise cli.UsageError(
            f"--mask is {args.mask!r}, must be one of {', '.join(MASKS)}"
        )
    if args.ranks > args.tokens:
        raise cli.UsageError(
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
            ring_precision_table.show(rows, args.tokens, args.mask, console)
        raise cli.Interrupted(f"{len(rows)} of {len(asked)} rings measured") from None
    ring_precision_table.show(rows, args.tokens, args.mask, console)
    if folder is not None:
        from experiments.ring_precision_picture import (
            draw,  # matplotlib takes a second to import
        )

        wall_s = time.perf_counter() - started
        ring_precision_table.write_csv(rows, folder / "ring_precision.csv")
        written = ring_precision_table.as_json(rows, args.tokens, args.mask, wall_s)
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
