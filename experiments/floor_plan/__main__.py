"""The command line of `experiments.floor_plan`."""

import argparse

from emu.datasheet import BANDS
from emu.report.bands import banded
from emu.wse import WSE3
from experiments.floor_plan import table
from experiments.floor_plan.placed import Placed
from experiments.shared import cli, machine_options
from experiments.shared.output import Output
from models.configurations import published
from models.machines.wafer_shapes import clock_of, plan_of

WIDTH = 160  # of a table that no terminal cuts


def options(parser: cli.Parser) -> None:
    """Adds what this experiment takes."""
    machine_options.add_model(parser, "llama-3.1-8b")
    machine_options.add_tokens(
        parser, "--context", 8192, "tokens that each user's cache has room for"
    )
    machine_options.add_users(parser)
    machine_options.add_precision(
        parser, "bfloat16", "what weights and cache are held in"
    )
    machine_options.add_wafers(parser)


def main(args: argparse.Namespace, output: Output) -> None:
    """Prints where the regions lie and what a token takes there."""
    config = published(args.model).config
    plan = plan_of(
        config, args.context, args.dtype, users=args.users, wafers=args.wafers
    )
    # All bands' programs are read for the last token, which sees the whole context.
    clock = clock_of(plan)
    last = args.context - 1
    steps = {band: clock.read(last, band) for band in BANDS}
    placed = Placed(
        name=config.name,
        context=args.context,
        held=args.dtype.name,
        plan=plan,
        sram_bytes=int(WSE3.sram_bytes.value),
        stages=clock.stages(last),
        seconds=banded(lambda band: steps[band].seconds),
        wafer_seconds=banded(lambda band: steps[band].wafer_seconds),
    )
    console = output.console(WIDTH)
    table.show(placed, console)
    output.table("floor_plan", table.HEADING, table.lines(placed))
    output.figures("floor_plan", table.figures(placed))
    if output.folder is not None:
        # matplotlib takes a second to import.
        from experiments.floor_plan.picture import draw

        output.file("floor_plan.png", lambda path: draw(placed, path))


if __name__ == "__main__":
    cli.run("floor_plan", options, main)
