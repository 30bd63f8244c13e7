"""The command line of `experiments.decode_scaling`."""

import argparse
from collections.abc import Iterator, Sequence
from typing import Any

from experiments.decode_scaling import causes, grids, table
from experiments.decode_scaling.published import published_speeds
from experiments.decode_scaling.resident import Resident
from experiments.decode_scaling.speeds import Compared, Speed, speed
from experiments.shared import cli, machine_options, plans
from experiments.shared.output import Figures, Output
from experiments.shared.progress import Progress
from models.configurations import published
from models.precision import precision

WIDTH = 190  # of a table that no terminal cuts
CONTEXT = 8192


def options(parser: cli.Parser) -> None:
    """Adds what this experiment takes."""
    machine_options.add_model(parser, "all whose speed was published", several=True)
    parser.add_argument(
        "--context",
        action="append",
        default=[],
        type=cli.whole_number("context", 1, 2**24),
        help="tokens of each user's cache, which is full (8192); may be given several times",
    )
    machine_options.add_users(parser, several=True)
    parser.add_argument(
        "--dtype",
        metavar="PRECISION",
        type=plans.plan_of,
        help="what weights and cache are held in (as published, see the table; bfloat16)",
    )
    machine_options.add_wafers(parser)
    parser.add_argument(
        "--causes",
        action="store_true",
        help="tells where a token's cycles go; reads the clock eight times more",
    )
    parser.add_argument(
        "--grids",
        action="store_true",
        help="reads a layer over sizes of its grid, WaferLLM's and ours",
    )


def main(args: argparse.Namespace, output: Output) -> None:
    """Prints speeds, published ones beside them, and what else is asked for."""
    console = output.console(WIDTH)
    figures: Figures = {}
    residents = list(_residents(args))
    speeds: list[Speed] = []
    with Progress(len(residents), console) as progress:
        for resident in residents:
            progress.begin(f"{resident.config.name}, {resident.context:,} tokens")
            speeds.append(speed(resident))
            progress.done()
    table.show_speeds(speeds, console)
    lines = list(table.speed_lines(speeds))
    output.table("decode_scaling", table.SPEED_HEADING, lines)
    figures["speeds"] = _named(table.SPEED_HEADING, lines)
    compared = list(_compared(speeds))
    if compared:
        table.show_published(compared, console)
        rows = list(table.published_lines(compared))
        output.table("decode_scaling_published", table.PUBLISHED_HEADING, rows)
        figures["published"] = _named(table.PUBLISHED_HEADING, rows)
    found: dict[str, dict[str, int]] = {}
    if args.causes:
        for each in speeds:
            if not each.refusal:
                found[each.name] = causes.of_token(each.model)
        table.show_causes(found, console)
        figures["causes"] = found
    if args.grids:
        layers = [*grids.published_layers(), *grids.own_layers()]
        table.show_grids(layers, console)
        rows = list(table.grid_lines(layers))
        output.table("decode_scaling_grids", table.GRID_HEADING, rows)
        figures["grids"] = _named(table.GRID_HEADING, rows)
    output.figures("decode_scaling", figures)
    if output.folder is not None:
        # matplotlib takes a second to import.
        from experiments.decode_scaling import picture

        output.file(
            "decode_scaling.png", lambda path: picture.draw_speeds(speeds, path)
        )
        if compared:
            output.file(
                "decode_scaling_published.png",
                lambda path: picture.draw_published(compared, path),
            )
        if found:
            output.file(
                "decode_scaling_causes.png",
                lambda path: picture.draw_causes(found, path),
            )


def _residents(args: argparse.Namespace) -> Iterator[Resident]:
    """Every model with every context and number of users, each in what it is published in."""
    held = {each.model: each.held for each in published_speeds()}
    for name in args.model or held:
        plan = args.dtype or precision(held.get(name, "bfloat16"))
        for context in args.context or (CONTEXT,):
            for users in args.users or (1,):
                yield Resident(
                    published(name).config, context, plan, users, args.wafers
                )


def _compared(speeds: Sequence[Speed]) -> Iterator[Compared]:
    """Published speeds of the models that are here, with the first of their contexts and users."""
    first: dict[str, Speed] = {}
    for each in speeds:
        first.setdefault(each.model.config.name, each)
    for told in published_speeds():
        name = published(told.model).config.name
        if name in first:
            yield Compared(told, first[name])


def _named(heading: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[Figures]:
    """Rows of a table as figures by name."""
    return [dict(zip(heading, row, strict=True)) for row in rows]


if __name__ == "__main__":
    cli.run("decode_scaling", options, main)
