"""The command line of `experiments.prefill_scaling`."""

import argparse
from typing import get_args

from emu.trainium import TRN3
from emu.trainium.datasheets import SYSTEMS, TRN3_GEN2, systems_of
from experiments.prefill_scaling import table
from experiments.prefill_scaling.measure import Planned, Point, planned, points
from experiments.shared import cli, machine_options, systems
from experiments.shared.errors import UsageError
from experiments.shared.output import Output
from experiments.shared.progress import Progress
from models.precision import precision
from models.prefill_plans.search import Aim

WIDTH = 190  # of a table that no terminal cuts
MODELS = ("llama-3.1-8b",)
TOKENS = (131_072,)
CHIPS = (16, 64, 144)
LONGEST = 2**21


def options(parser: cli.Parser) -> None:
    """Adds what this experiment takes."""
    machine_options.add_model(parser, ", ".join(MODELS), several=True)
    parser.add_argument(
        "--tokens",
        action="append",
        default=[],
        type=cli.whole_number("tokens", 1, LONGEST),
        help="of the prompt, cached ones included (131072); may be given several times",
    )
    machine_options.add_chips(parser, "16, 64 and 144", several=True)
    machine_options.add_racks(parser)
    machine_options.add_cores(parser)
    parser.add_argument(
        "--cached",
        default=0,
        type=cli.whole_number("cached", 0, LONGEST),
        help="tokens at the prompt's beginning whose keys and values HBM has already (0)",
    )
    parser.add_argument(
        "--dtype",
        default="bfloat16",
        metavar="PRECISION",
        help="what weights and activations are held in: a dtype, mxfp8, or a plan as "
        "experts=mxfp4,activations=mxfp8 (bfloat16)",
    )
    parser.add_argument(
        "--aim",
        default="ttft",
        type=cli.one_of("aim", get_args(Aim)),
        help="what plans are chosen by: ttft, the time to the first token, or tokens, the rate of "
        "prompts that follow one another (ttft)",
    )
    parser.add_argument(
        "--plans",
        default=2,
        type=cli.whole_number("plans", 1, 1000),
        help="most plans a point whose clocks are read, those of the shortest bounds first (2)",
    )
    systems.add_option(parser, systems_of(TRN3, SYSTEMS), TRN3_GEN2.name)


def main(args: argparse.Namespace, output: Output) -> None:
    """Plans every point, and prints them."""
    sheet = systems.joined(TRN3, args.system or systems.word(TRN3_GEN2))
    assert sheet.system is not None
    chips = args.chips or CHIPS
    others = systems_of(TRN3, SYSTEMS)
    for count in chips:
        systems.check_chips("--chips", count, sheet.system, others)
    tokens = args.tokens or TOKENS
    if args.cached >= min(tokens):
        raise UsageError(
            f"--cached is {args.cached}, must be less than --tokens, {min(tokens)}"
        )
    each = list(
        points(
            args.model or MODELS,
            tokens,
            chips,
            racks=args.racks,
            cached=args.cached,
            aim=args.aim,
            cores=args.cores,
        )
    )
    console = output.console(WIDTH)
    rows: list[Planned] = []
    held = precision(args.dtype)

    def best(point: Point, progress: Progress) -> Planned:
        return planned(
            point,
            precision=held,
            sheet=sheet,
            most=args.plans,
            tell=lambda plan: progress.begin(f"{point}: {plan}"),
        )

    with Progress(len(each), console) as progress:
        for point in each:
            progress.begin(str(point))
            rows.append(best(point, progress))
            progress.done()
    table.show(rows, console)
    console.print(table.LEGEND, highlight=False)
    lines = list(table.lines(rows))
    output.table("prefill_scaling", table.HEADING, lines)
    named = [dict(zip(table.HEADING, line, strict=True)) for line in lines]
    output.figures("prefill_scaling", {"points": named})
    if output.folder is not None:
        # matplotlib takes a second to import.
        from experiments.prefill_scaling import picture

        output.file("prefill_scaling.png", lambda path: picture.draw(rows, path))


if __name__ == "__main__":
    cli.run("prefill_scaling", options, main)
