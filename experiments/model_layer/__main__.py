"""The command line of `experiments.model_layer`."""

import argparse
from typing import Any

from emu.trainium import TRN3
from emu.trainium.datasheets import SYSTEMS, systems_of
from experiments.model_layer import table
from experiments.model_layer.measure import Measured, layers_of, measured
from experiments.shared import cli, systems
from experiments.shared.errors import UsageError
from experiments.shared.output import Output
from kernels.attention.latent import FORMS
from models.configurations import published, published_models
from models.machines.layer_stages import LayerStages

WIDTH = 150  # of a table that no terminal cuts


def options(parser: cli.Parser) -> None:
    """Adds what this experiment takes."""
    parser.add_argument(
        "--model",
        default="deepseek-v3",
        metavar="NAME",
        type=cli.one_of("model", tuple(published_models())),
        help="one of those that `models` lists (deepseek-v3)",
    )
    parser.add_argument(
        "--layer",
        type=cli.whole_number("layer", 0, 10_000),
        help="which layer (one of each form that the model has)",
    )
    parser.add_argument(
        "--tokens",
        type=cli.whole_number("tokens", 1, 2**24),
        default=8192,
        help="of the prompt, dealt out to the chips (8192)",
    )
    parser.add_argument(
        "--chips",
        type=cli.whole_number("chips", 1, 1024),
        default=64,
        help="of Trainium3 (64)",
    )
    parser.add_argument(
        "--cores",
        type=cli.whole_number("cores", 1, int(TRN3.cores_per_chip.value)),
        default=8,
        help="of each chip, which share its heads and weights (8)",
    )
    parser.add_argument(
        "--latent",
        default="expanded",
        type=cli.one_of("latent", FORMS),
        help="how attention to latents is computed: expanded or absorbed (expanded)",
    )
    systems.add_option(parser, systems_of(TRN3, SYSTEMS), "the chip's own links")


def main(args: argparse.Namespace, output: Output) -> None:
    """Prints the stages."""
    config = published(args.model).config
    layers = layers_of(config) if args.layer is None else [args.layer]
    if layers[-1] >= config.num_hidden_layers:
        raise UsageError(
            f"--layer is {args.layer}, {config.name} has layers 0 to {config.num_hidden_layers - 1}"
        )
    sheet = systems.joined(TRN3, args.system)
    console = output.console(WIDTH)
    rows: list[list[Any]] = []
    timed: list[Measured] = []
    for number in layers:
        stages = LayerStages(
            config,
            number,
            args.tokens,
            args.chips,
            args.cores,
            latent_form=args.latent,
            sheet=sheet,
        )
        for each in measured(stages):
            table.show(each, console)
            rows += table.lines(each)
            timed.append(each)
    console.print(table.LEGEND, highlight=False)
    output.table("model_layer", table.HEADING, rows)
    figures = [dict(zip(table.HEADING, one, strict=True)) for one in rows]
    output.figures("model_layer", {"stages": figures})
    if output.folder is not None:
        # matplotlib takes a second to import.
        from experiments.model_layer.picture import draw

        output.file("model_layer.png", lambda path: draw(timed, path))


if __name__ == "__main__":
    cli.run("model_layer", options, main)
