"""The command line of `experiments.variants`."""

import argparse
import dataclasses
from collections.abc import Sequence

from rich.console import Console

from emu.trainium import TRN3
from experiments.shared import cli
from experiments.shared.output import Output
from experiments.shared.progress import Progress
from experiments.variants import table
from experiments.variants.measure import Row, check, errors, measure, tiles_of
from experiments.variants.request import BASE, Asked, asked
from experiments.variants.values import beside
from kernels.variants import Sizes

WIDTH = 160  # of a table that no terminal cuts
USAGE = """
  trn-wse variants                              the whole catalogue
  trn-wse variants --only alibi --only causal   some of it
  trn-wse variants --file mine.py:gated         a function of your own: score(s, b, h, q, k), or a
                                                mask(b, h, q, k), beside full attention
  trn-wse variants --only tree --out DIR        also a picture of its live tiles, over the sequence
                                                and over chips
"""


def options(parser: cli.Parser) -> None:
    """Adds what this experiment takes."""
    parser.epilog = USAGE
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "--only", action="append", default=[], metavar="NAME", help="of the catalogue"
    )
    parser.add_argument(
        "--file",
        action="append",
        default=[],
        metavar="FILE.py:NAME",
        help="a function or a variant of your own",
    )
    sizes = {
        "tokens": ("of the sequence, a multiple of 16", 2**17),
        "chips": ("Trainium3 chips that the sequence is spread over", 64),
        "heads": ("of queries", 32),
        "kv-heads": ("of keys and values", 8),
        "head-dim": ("features of a head", 128),
    }
    for name, (what, default) in sizes.items():
        parser.add_argument(
            f"--{name}",
            type=cli.whole_number(name, 1),
            default=default,
            help=f"{what} ({default})",
        )
    parser.add_argument(
        "--no-values",
        action="store_true",
        help="leaves out the error against the dense oracle",
    )


def main(args: argparse.Namespace, output: Output) -> None:
    """Measures the variants that were asked for, and full attention to compare with."""
    sizes = Sizes(args.tokens, args.heads, args.kv_heads, args.head_dim)
    wanted = asked(args.only, args.file)
    names = [one.name for one in wanted]
    if BASE not in names:
        wanted = [*asked([BASE], []), *wanted]
    for one in wanted:
        check(one, sizes)
    cores = _cores(args.heads)
    title = (
        f"Attention of one layer on {args.chips} {TRN3.name} chips of {cores} cores, by the clock: "
        f"{args.tokens:,} tokens, {args.heads} heads over {args.kv_heads} KV heads of "
        f"{args.head_dim}, bfloat16 (predicted, not measured)"
    )
    rows: list[Row] = []

    def base_s() -> float | None:
        found = [row for row in rows if row.name == BASE]
        return found[0].clock.prefill.seconds["nominal"] if found else None

    def found_so_far() -> str:
        show()
        return f"{len(rows)} of {len(wanted)} variants measured"

    def show() -> None:
        table.show(rows, base_s(), title, output.console(WIDTH))
        lines = [table.line(row, base_s()) for row in rows]
        output.table("variants", table.HEADING, lines)
        figures = [dict(zip(table.HEADING, one, strict=True)) for one in lines]
        output.figures("variants", {"variants": figures})

    output.on_interruption(found_so_far)
    with_values = [] if args.no_values else wanted
    in_catalogue = [one.name for one in with_values if one.in_catalogue]
    points = len(wanted) + len(with_values)
    with (
        Progress(points, Console(stderr=True)) as progress,
        beside(in_catalogue) as values,
    ):
        for one in wanted:
            progress.begin(one.name)
            rows.append(measure(one, sizes, chips=args.chips, cores=cores))
            progress.done()
        # The last first: `beside` has begun with the first.
        for place, one in reversed([*enumerate(with_values)]):
            progress.begin(f"values of {one.name}")
            found = values.take(one.name) if one.in_catalogue else None
            found = errors(one) if found is None else found
            rows[place] = dataclasses.replace(rows[place], errors=found)
            progress.done()
    show()
    base = base_s()
    if output.folder is not None and base is not None:
        # matplotlib takes a second to import.
        from experiments.variants.picture import draw

        output.file("variants.png", lambda path: draw(rows, base, title, path))
        if args.only or args.file:
            _tiles(asked(args.only, args.file), sizes, args.chips, output)


def _tiles(wanted: Sequence[Asked], sizes: Sizes, chips: int, output: Output) -> None:
    """A picture of the live tiles of each variant that was named."""
    from experiments.variants.tiles_picture import TilesPicture

    for one in wanted:
        tiles = tiles_of(one, sizes, chips=chips)
        if tiles is None:
            what = "its operands are not queries, keys and values"
            output.console(WIDTH).print(f"{one.name}: no picture of tiles, as {what}")
        else:
            picture = TilesPicture(one.name, tiles)
            output.file(f"{one.name}_tiles.png", picture.save)


def _cores(heads: int) -> int:
    """Cores of a chip among which heads can be dealt out."""
    most = int(TRN3.cores_per_chip.value)
    return max(cores for cores in range(1, most + 1) if heads % cores == 0)


if __name__ == "__main__":
    cli.run("variants", options, main)
