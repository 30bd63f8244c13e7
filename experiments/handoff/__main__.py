"""The command line of `experiments.handoff`."""

import argparse
from collections.abc import Iterator

from emu.wse import WSE3
from emu.wse.placement.regions import DoesNotFit
from experiments.handoff import table
from experiments.handoff.measure import Moved, Prompt, moved
from experiments.handoff.ways import others
from experiments.shared import cli, machine_options, plans
from experiments.shared.output import Figures, Output
from kernels.tokens.placement import PLACEMENTS
from models.configurations import published
from models.machines.handoff import Way
from models.machines.handoff.conversion import ORDERS
from models.precision import precision

WIDTH = 190  # of a table that no terminal cuts
MODELS = ("llama-3.1-8b",)
TOKENS = 8_192, 131_072, 1_048_576
LINKS = int(WSE3.io_links.value)


def options(parser: cli.Parser) -> None:
    """Adds what this experiment takes."""
    machine_options.add_model(parser, ", ".join(MODELS), several=True)
    parser.add_argument(
        "--tokens",
        action="append",
        default=[],
        type=cli.whole_number("tokens", 1, 2**24),
        help="of the prompt (8192, 131072 and 1048576); may be given several times",
    )
    parser.add_argument(
        "--dtype",
        action="append",
        default=[],
        metavar="PRECISION",
        type=plans.plan_of,
        help="what wafers hold weights and cache in (weights=mxfp8,cache=fp8); may be given "
        "several times",
    )
    parser.add_argument(
        "--links",
        action="append",
        default=[],
        type=cli.whole_number("links", 1, LINKS),
        help=f"of each wafer ({LINKS} and 1); may be given several times",
    )
    machine_options.add_wafers(parser)
    machine_options.add_chips(parser, 64)
    machine_options.add_cores(parser)
    parser.add_argument(
        "--placement",
        default="contiguous",
        type=cli.one_of("placement", PLACEMENTS),
        help="of the prompt on the chips (contiguous)",
    )
    parser.add_argument(
        "--prefill-us",
        type=cli.whole_number("prefill-us", 1, 2**40),
        help="microseconds that prefill takes (its FLOPs at a share of the peak)",
    )
    parser.add_argument(
        "--reused",
        type=cli.whole_number("reused", 0, 2**24),
        default=0,
        help="tokens at the prompt's beginning that the wafers have from before (0)",
    )
    parser.add_argument(
        "--order",
        default="chip",
        type=cli.one_of("order", ORDERS),
        help="which end brings words into the wafer's order (chip)",
    )
    parser.add_argument(
        "--ways",
        action="store_true",
        help="also hands the first prompt over on other ways",
    )


def main(args: argparse.Namespace, output: Output) -> None:
    """Prints hand-offs, and what they say of the claim."""
    rows = list(_rows(args))
    moves = [each for each in rows if isinstance(each, Moved)]
    console = output.console(WIDTH)
    title = f"Hand-off from {args.chips} Trainium3 chips to WSE-3 wafers (predicted)"
    table.show(title, rows, console)
    further: list[Moved] = []
    if args.ways and moves:
        first = moves[0]
        further = list(others(first.prompt, first.plan, first.way))
        table.show("The first of these on other ways", further, console)
    console.print(table.LEGEND, highlight=False)
    told = list(table.verdict(moves))
    for line in told:
        console.print(line, highlight=False)
    lines = list(table.lines([*moves, *further]))
    refused = [
        [*[None] * (len(table.HEADING) - 1), x] for x in rows if isinstance(x, str)
    ]
    output.table("handoff", table.HEADING, [*lines, *refused])
    figures: list[Figures] = [
        dict(zip(table.HEADING, one, strict=True)) for one in lines
    ]
    refusals = [each for each in rows if isinstance(each, str)]
    output.figures("handoff", {"moves": figures, "refusals": refusals, "claim": told})
    if output.folder is not None and moves:
        # matplotlib takes a second to import.
        from experiments.handoff.picture import draw

        output.file("handoff.png", lambda path: draw(moves, path))


def _rows(args: argparse.Namespace) -> Iterator[Moved | str]:
    """Hand-offs, or in place of one why it has no regions."""
    held = args.dtype or [precision("weights=mxfp8,cache=fp8")]
    for model in args.model or MODELS:
        for plan in held:
            for tokens in args.tokens or TOKENS:
                prompt = Prompt(
                    published(model).config,
                    tokens,
                    plan,
                    args.chips,
                    args.cores,
                    args.placement,
                    None if args.prefill_us is None else args.prefill_us / 1e6,
                    min(args.reused, tokens),
                )
                yield from _of_links(prompt, args)


def _of_links(prompt: Prompt, args: argparse.Namespace) -> Iterator[Moved | str]:
    try:
        plan = prompt.planned(args.wafers)
    except DoesNotFit as refused:
        yield str(refused)
        return
    for links in args.links or (LINKS, 1):
        yield moved(prompt, plan, Way(links=links, order=args.order))


if __name__ == "__main__":
    cli.run("handoff", options, main)
