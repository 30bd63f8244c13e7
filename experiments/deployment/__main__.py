"""The command line of `experiments.deployment`."""

import argparse
from collections.abc import Iterator

from emu.datasheet import BANDS
from emu.trainium import TRN3
from emu.trainium.datasheets import SYSTEMS, TRN3_GEN2, NeuronCoreSheet, systems_of
from emu.wse import WSE3
from experiments.deployment import table
from experiments.deployment.asked import Asked, asked
from experiments.shared import cli, machine_options, systems
from experiments.shared.output import Output
from experiments.shared.progress import Progress
from models.configurations import published
from models.deployment import Deployment
from models.machines.handoff import Way

WIDTH = 190  # of a table that no terminal cuts
MODELS = ("kimi-k2",)
ALL_BANDS = "all"


def options(parser: cli.Parser) -> None:
    """Adds what this experiment takes."""
    machine_options.add_model(parser, ", ".join(MODELS), several=True)
    machine_options.add_tokens(parser, "--tokens", 131_072, "of the prompt")
    machine_options.add_tokens(parser, "--new-tokens", 512, "of the answer")
    machine_options.add_precision(
        parser,
        "mxfp8",
        "what both machines hold numbers in, prefill what it has kernels for",
    )
    machine_options.add_chips(parser, 144)
    machine_options.add_racks(parser)
    machine_options.add_cores(parser)
    parser.add_argument(
        "--cached",
        type=cli.whole_number("cached", 0, 2**21),
        default=0,
        help="tokens at the prompt's beginning whose cache HBM has already (0)",
    )
    machine_options.add_users(parser)
    machine_options.add_wafers(parser)
    parser.add_argument(
        "--links",
        type=cli.whole_number("links", 1, int(WSE3.io_links.value)),
        help="of 100 GbE into each wafer (all)",
    )
    parser.add_argument(
        "--plans",
        type=cli.whole_number("plans", 1, 1000),
        default=1,
        help="most plans of prefill whose clocks are read, of the shortest bounds first (1)",
    )
    parser.add_argument(
        "--band",
        default=ALL_BANDS,
        type=cli.one_of("--band", (ALL_BANDS, "nominal")),
        help="all, or nominal alone in a third of the time (all)",
    )
    systems.add_option(parser, systems_of(TRN3, SYSTEMS), TRN3_GEN2.name)


def main(args: argparse.Namespace, output: Output) -> None:
    """Prints what a request takes, model by model."""
    sheet = systems.joined(TRN3, args.system or systems.word(TRN3_GEN2))
    assert sheet.system is not None
    systems.check_chips("--chips", args.chips, sheet.system, systems_of(TRN3, SYSTEMS))
    console = output.console(WIDTH)
    deployments = list(_deployments(args, sheet))
    bands = BANDS if args.band == ALL_BANDS else (args.band,)
    found: list[Asked] = []
    with Progress(len(deployments), console) as progress:
        for each in deployments:
            name = each.config.name
            progress.begin(name)
            told = lambda plan, name=name: progress.begin(f"{name}: {plan}")  # noqa: E731
            found.append(asked(each, bands=bands, most=args.plans, tell=told))
            progress.done()
    table.show(found, console)
    lines = list(table.lines(found))
    output.table("deployment", table.HEADING, lines)
    named = [dict(zip(table.HEADING, line, strict=True)) for line in lines]
    output.figures("deployment", {"requests": named})
    if output.folder is not None:
        # matplotlib takes a second to import.
        from experiments.deployment import picture

        output.file("deployment.png", lambda path: picture.draw(found, path))


def _deployments(
    args: argparse.Namespace, sheet: NeuronCoreSheet
) -> Iterator[Deployment]:
    for name in args.model or MODELS:
        yield Deployment(
            published(name).config,
            args.tokens,
            args.new_tokens,
            args.dtype,
            sheet,
            args.chips,
            racks=args.racks,
            cores=args.cores,
            cached=args.cached,
            users=args.users,
            wafers=args.wafers,
            way=Way(links=args.links),
        )


if __name__ == "__main__":
    cli.run("deployment", options, main)
