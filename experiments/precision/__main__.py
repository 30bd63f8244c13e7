"""The command line of `experiments.precision`."""

import argparse

from emu.trainium import TRN3
from experiments.precision import table
from experiments.precision.times import Time, time_of
from experiments.precision.values import Errors, Prompt, compared
from experiments.shared import cli
from experiments.shared.errors import UsageError
from experiments.shared.output import Output
from kernels.formats.formats import FORMATS
from models.config import ModelConfig
from models.configurations import published, published_models
from models.errors import ModelError
from models.loading.load import NAMES, Loaded, load
from models.loading.packages import SMOLLM2
from models.machines.precisions import PREFILLED, of_prefill
from models.precision import Precision, precision

WIDTH = 150  # of a table that no terminal cuts
_CARRIED_OUT = (f"weights={w},activations={a}" if w != a else w for w, a in PREFILLED)
PLANS = tuple(dict.fromkeys(("bfloat16", *_CARRIED_OUT, "int8", "int4")))
TEXT = (
    "The mass of the Earth is about six thousand billion billion tonnes. It was first worked out "
    "from the pull between two lead balls, which hung from a wire in a closed room. How was that "
    "done, and why is it that nobody had to weigh the Earth itself?"
)


def options(parser: cli.Parser) -> None:
    """Adds what this experiment takes."""
    parser.add_argument(
        "plans",
        nargs="*",
        metavar="PRECISION",
        help=f"formats, or plans as weights=mxfp4,activations=mxfp8; of {', '.join(FORMATS)} "
        f"(all of {', '.join(PLANS)}); times are compared with the first one's",
    )
    parser.add_argument(
        "--model",
        metavar="NAME",
        help=f"one of {', '.join(NAMES)}, a .gguf file or a Hugging Face folder; of one that "
        "`models` lists times only (smollm2 where it has been fetched, else tiny)",
    )
    parser.add_argument(
        "--tokens",
        nargs="+",
        type=cli.whole_number("tokens", 1, 2**20),
        default=[512, 2048],
        help="of prompts that are timed (512 2048)",
    )
    parser.add_argument(
        "--chips",
        type=cli.whole_number("chips", 1, 1024),
        default=1,
        help="of the ring that is timed (1)",
    )
    parser.add_argument(
        "--cores",
        type=cli.whole_number("cores", 1, int(TRN3.cores_per_chip.value)),
        default=8,
        help="of each chip (8); values are computed on one",
    )
    parser.add_argument("--prompt", default=TEXT, help="text whose logits are compared")
    parser.add_argument(
        "--no-values", action="store_true", help="times only: no weights are looked at"
    )


def main(args: argparse.Namespace, output: Output) -> None:
    """Prints errors and times."""
    plans = [precision(words) for words in args.plans or PLANS]
    config, loaded = _model(args.model)
    console = output.console(WIDTH)
    carried_out, refused = _carried_out(plans, config, args.cores)
    if refused:
        # The first reason; of most the others are the same but for the name.
        reason = next(iter(refused.values()))
        console.print(f"not timed: {', '.join(refused)}; {reason}", highlight=False)
    errors: list[Errors] = []
    if loaded is not None and not args.no_values:
        prompt = Prompt(loaded.config, loaded.weights, _ids(loaded, args.prompt))
        on_one_core, _ = _carried_out(plans, config, 1)
        errors = list(compared(prompt, plans, on_one_core, cores=1))
        table.show_errors(errors, config.name, console)
    times: list[Time] = []
    for tokens in args.tokens:
        for plan in carried_out:
            size = {"tokens": tokens, "chips": args.chips, "cores": args.cores}
            times.append(time_of(config, plan, **size))
    if times:
        table.show_times(times, config.name, args.chips, args.cores, console)
    error_lines, time_lines = table.error_lines(errors), table.time_lines(times)
    output.table("errors", table.ERRORS, error_lines)
    output.table("times", table.TIMES, time_lines)
    output.figures(
        "precision",
        {
            "errors": [dict(zip(table.ERRORS, x, strict=True)) for x in error_lines],
            "times": [dict(zip(table.TIMES, x, strict=True)) for x in time_lines],
        },
    )
    if output.folder is not None:
        # matplotlib takes a second to import.
        from experiments.precision.picture import draw

        title = f"{config.name}, Trainium3 (predicted, not measured)"
        output.file("precision.png", lambda path: draw(errors, times, title, path))


def _model(name: str | None) -> tuple[ModelConfig, Loaded | None]:
    """Sizes, and weights if there are any to be had."""
    if name is None:
        name = "tiny" if SMOLLM2.cached is None else "smollm2"
    if name in published_models():
        return published(name).config, None
    loaded = load(name)
    return loaded.config, loaded


def _ids(loaded: Loaded, text: str) -> list[int]:
    if not text.strip():
        raise UsageError("--prompt is empty; give at least one character of text")
    most = loaded.config.max_position_embeddings
    ids = loaded.tokenizer.encode(text)
    if len(ids) > most:
        raise UsageError(
            f"--prompt has {len(ids)} tokens, {loaded.config.name} takes {most} at most"
        )
    return ids


def _carried_out(
    plans: list[Precision], config: ModelConfig, cores: int
) -> tuple[list[Precision], dict[str, str]]:
    """The plans that prefill has kernels for, and why not for each other one."""
    found, refused = [], {}
    for plan in plans:
        try:
            of_prefill(plan, config, cores)
        except ModelError as error:
            refused[plan.name] = str(error)
        else:
            found.append(plan)
    return found, refused


if __name__ == "__main__":
    cli.run("precision", options, main)
