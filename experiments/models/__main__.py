"""The command line of `experiments.models`."""

import argparse

from experiments.models import table
from experiments.models.sizes import Sizes
from experiments.shared import cli
from experiments.shared.output import Output
from models.configurations import published_models

WIDTH = 190  # of a table that no terminal cuts


def options(parser: cli.Parser) -> None:
    """Adds what this experiment takes."""
    parser.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="NAME",
        type=cli.one_of("model", tuple(published_models())),
        help="one of the models (all); may be given several times",
    )
    parser.add_argument(
        "--context",
        type=cli.whole_number("context", 1, 2**24),
        default=131_072,
        help="tokens of the sequence whose cache is held beside the weights (131072)",
    )


def main(args: argparse.Namespace, output: Output) -> None:
    """Prints the models."""
    names = args.only or list(published_models())
    models = [Sizes(published_models()[name], args.context) for name in names]
    table.show(models, output.console(WIDTH))
    lines = [table.line(each) for each in models]
    output.table("models", table.HEADING, lines)
    figures = [dict(zip(table.HEADING, one, strict=True)) for one in lines]
    output.figures("models", {"models": figures})
    if output.folder is not None:
        # matplotlib takes a second to import.
        from experiments.models.picture import draw

        output.file("models.png", lambda path: draw(models, path))


if __name__ == "__main__":
    cli.run("models", options, main)
