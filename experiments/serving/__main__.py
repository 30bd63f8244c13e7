"""The command line of `experiments.serving`."""

import argparse
from collections.abc import Iterable, Sequence
from typing import Any

from emu.wse.placement.regions import DoesNotFit
from experiments.serving import acceptance, measure, pipelines, table
from experiments.shared import cli, machine_options, plans
from experiments.shared.errors import UsageError
from experiments.shared.output import Figures, Output
from models.config import ModelConfig
from models.configurations import published, published_models
from models.loading.load import NAMES, load

WIDTH = 140  # of a table that no terminal cuts
USERS = 1, 4, 16, 32
AHEAD = 4, 8
RATES = (0.8,)


def options(parser: cli.Parser) -> None:
    """Adds what this experiment takes."""
    known = cli.one_of("model", tuple(published_models()))
    parser.add_argument(
        "--model",
        default="llama-3.1-8b",
        metavar="NAME",
        type=known,
        help="one of those that `models` lists (llama-3.1-8b)",
    )
    parser.add_argument(
        "--draft",
        default="smollm2-135m",
        metavar="NAME",
        type=known,
        help="whose clock draft tokens take, on wafers of its own (smollm2-135m)",
    )
    parser.add_argument(
        "--context",
        type=cli.whole_number("context", 2, 2**24),
        default=4096,
        help="tokens in every user's cache, which is full (4096)",
    )
    machine_options.add_wafers(parser)
    parser.add_argument(
        "--users",
        action="append",
        default=[],
        type=cli.whole_number("users", 1, 4096),
        help="at once (1, 4, 16 and 32); may be given several times",
    )
    parser.add_argument(
        "--ahead",
        action="append",
        default=[],
        type=cli.whole_number("ahead", 1, 64),
        help="draft tokens a round (4 and 8); may be given several times",
    )
    parser.add_argument(
        "--right",
        action="append",
        default=[],
        metavar="PERCENT",
        type=cli.whole_number("right", 0, 100),
        help="of draft tokens, so many are the model's own (80); may be given several times",
    )
    parser.add_argument(
        "--no-host",
        action="store_true",
        help="wafers go on from their own token, which else goes by the host",
    )
    parser.add_argument(
        "--dtype",
        default="bfloat16",
        metavar="PRECISION",
        type=plans.plan_of,
        help="what the model holds weights and cache in (bfloat16); the draft is in bfloat16",
    )
    parser.add_argument(
        "--measure",
        metavar="NAME",
        type=cli.one_of("measure", NAMES),
        help="measure drafts on the numbers of a packaged model: tiny or smollm2 (none)",
    )
    parser.add_argument(
        "--tokens",
        type=cli.whole_number("tokens", 2, 512),
        default=48,
        help="of each of three answers that drafts are measured on (48)",
    )


def main(args: argparse.Namespace, output: Output) -> None:
    """Prints users' speeds, and how often drafts were right."""
    users, ahead = args.users or USERS, args.ahead or AHEAD
    rates = [percent / 100 for percent in args.right] or RATES
    target = _piped(args, published(args.model).config, args.dtype, max(users))
    own = args.dtype if args.draft == args.model else plans.plan_of("bfloat16")
    draft = _piped(args, published(args.draft).config, own, max(users), as_draft=True)
    rows = list(measure.served(target, draft, users, ahead, rates))
    console = output.console(WIDTH)
    table.show(target, draft, rows, console)
    console.print(table.LEGEND, highlight=False)
    lines = list(table.lines(target, draft, rows))
    output.table("serving", table.HEADING, lines)
    figures = {"speeds": _named(table.HEADING, lines)}
    if args.measure is not None:
        model = load(args.measure, console.print)
        found = list(acceptance.measured(model, ahead, args.tokens))
        table.show_measured(found, console)
        console.print(table.MEASURED_LEGEND, highlight=False)
        measured = list(table.measured_lines(found))
        output.table("serving_acceptance", table.MEASURED_HEADING, measured)
        figures["acceptance"] = _named(table.MEASURED_HEADING, measured)
    output.figures("serving", figures)
    if output.folder is not None:
        # matplotlib takes a second to import.
        from experiments.serving import picture

        output.file("serving.png", lambda path: picture.draw(target, rows, path))


def _piped(
    args: argparse.Namespace,
    config: ModelConfig,
    precision: Any,
    users: int,
    as_draft: bool = False,
) -> pipelines.Piped:
    # A draft's token goes on by the wafer itself; where it is checked, it is on its way already.
    through_host = not (args.no_host or as_draft)
    wafers = None if as_draft else args.wafers
    try:
        return pipelines.piped(
            config, args.context, precision, users, wafers, through_host
        )
    except DoesNotFit as refused:
        raise UsageError(f"{config.name}: {refused}") from None


def _named(heading: Sequence[str], rows: Iterable[Sequence[Any]]) -> list[Figures]:
    """Rows of a table as figures by name."""
    return [dict(zip(heading, row, strict=True)) for row in rows]


if __name__ == "__main__":
    cli.run("serving", options, main)
