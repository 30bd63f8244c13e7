"""The command line of `experiments.model_layer`."""

import argparse
import pathlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from emu.trainium import TRN3
from emu.trainium.datasheets import SYSTEMS, systems_of
from experiments.model_layer import decode_table, search_table, table
from experiments.model_layer.decode import decoded
from experiments.model_layer.measure import Measured, layers_of, measured
from experiments.shared import cli, machine_options, systems
from experiments.shared.errors import UsageError
from experiments.shared.output import Figures, Output
from kernels.attention.latent import FORMS
from models.config import ModelConfig
from models.configurations import published
from models.machines.layer_stages import LayerStages
from models.precision import precision

WIDTH = 160  # of a table that no terminal cuts
CONTEXTS = 8_192, 131_072  # of decode steps


def options(parser: cli.Parser) -> None:
    """Adds what this experiment takes."""
    machine_options.add_model(parser, "deepseek-v3")
    parser.add_argument(
        "--layer",
        type=cli.whole_number("layer", 0, 10_000),
        help="which layer (one of each form that the model has)",
    )
    machine_options.add_tokens(
        parser, "--tokens", 8192, "of the prompt, dealt out to the chips"
    )
    machine_options.add_chips(parser, 64)
    machine_options.add_cores(parser)
    parser.add_argument(
        "--tensor",
        default=1,
        type=cli.whole_number("tensor", 1, 64),
        help="of the chips so many each stand at one place of the ring and share heads (1)",
    )
    parser.add_argument(
        "--prefill-dtype",
        default="bfloat16",
        metavar="PRECISION",
        help="what prefill holds weights and activations in: a dtype, mxfp8, or a plan as "
        "experts=mxfp4,activations=mxfp8 (bfloat16)",
    )
    parser.add_argument(
        "--latent",
        default="expanded",
        type=cli.one_of("latent", FORMS),
        help="how attention to latents is computed: expanded or absorbed (expanded)",
    )
    parser.add_argument(
        "--context",
        action="append",
        default=[],
        type=cli.whole_number("context", 1, 2**24),
        help="tokens in the cache of a decode step (8192 and 131072); may be given several times",
    )
    machine_options.add_precision(
        parser, "bfloat16", "what decode holds weights and cache in"
    )
    parser.add_argument(
        "--search",
        default=1,
        metavar="REGIONS",
        type=cli.whole_number("search", 1, 1000),
        help="of a decode step read the clock of so many regions, the first by estimate, and take "
        "the fastest (1: the first, unread)",
    )
    parser.add_argument(
        "--searches",
        metavar="FILE.json",
        type=pathlib.Path,
        help="what was read before, and what is read now",
    )
    systems.add_option(parser, systems_of(TRN3, SYSTEMS), "the chip's own links")


def main(args: argparse.Namespace, output: Output) -> None:
    """Prints the stages of prefill, and a decode step."""
    config = published(args.model).config
    layers = layers_of(config) if args.layer is None else [args.layer]
    if layers[-1] >= config.num_hidden_layers:
        raise UsageError(
            f"--layer is {args.layer}, {config.name} has layers 0 to {config.num_hidden_layers - 1}"
        )
    if args.searches is not None and args.search == 1:
        raise UsageError(
            "--searches keeps what --search reads, which is 1: no clock is read; "
            "let --search be 2 or more"
        )
    console = output.console(WIDTH)
    rows: list[list[Any]] = []
    timed: list[Measured] = []
    for stages in _stages(args, config, layers):
        for each in measured(stages):
            table.show(each, console)
            rows += table.lines(each)
            timed.append(each)
    console.print(table.LEGEND, highlight=False)
    contexts = args.context or CONTEXTS
    found = decoded(config, layers, contexts, args.dtype, args.search, args.searches)
    steps = list(found)
    decode_table.show(steps, console)
    console.print(decode_table.LEGEND, highlight=False)
    lines = list(decode_table.lines(steps))
    output.table("model_layer", table.HEADING, rows)
    output.table("model_layer_decode", decode_table.HEADING, lines)
    figures = {
        "stages": _named(table.HEADING, rows),
        "decode": _named(decode_table.HEADING, lines),
    }
    if args.search > 1:
        search_table.show(steps, console)
        tried = list(search_table.lines(steps))
        output.table("model_layer_search", search_table.HEADING, tried)
        figures["search"] = _named(search_table.HEADING, tried)
    output.figures("model_layer", figures)
    if output.folder is not None:
        # matplotlib takes a second to import.
        from experiments.model_layer import decode_picture, picture

        output.file("model_layer.png", lambda path: picture.draw(timed, path))
        output.file(
            "model_layer_decode.png", lambda path: decode_picture.draw(steps, path)
        )


def _stages(
    args: argparse.Namespace, config: ModelConfig, layers: Sequence[int]
) -> Iterator[LayerStages]:
    if args.chips % args.tensor:
        raise UsageError(
            f"--tensor is {args.tensor}, must divide the {args.chips} of --chips"
        )
    sheet, plan = systems.joined(TRN3, args.system), precision(args.prefill_dtype)
    for number in layers:
        yield LayerStages(
            config,
            number,
            args.tokens,
            args.chips // args.tensor,
            args.cores,
            plan,
            latent_form=args.latent,
            sheet=sheet,
            tensor=args.tensor,
        )


def _named(heading: Sequence[str], rows: Iterable[Sequence[Any]]) -> list[Figures]:
    """Rows of a table as figures by name."""
    return [dict(zip(heading, row, strict=True)) for row in rows]


if __name__ == "__main__":
    cli.run("model_layer", options, main)
