"""The command line of `experiments.quickstart`."""

import argparse
import contextlib
import time
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console

from emu.trainium.datasheets import SYSTEMS, TRN3, systems_of
from experiments.quickstart import picture, report
from experiments.quickstart.coded import (
    CodedRun,
    generate_wide,
    machine_of,
    measure_text,
    read_wide,
)
from experiments.quickstart.run import Run
from experiments.quickstart.stages import Stages
from experiments.shared import cli, plans, systems
from experiments.shared.errors import UsageError
from experiments.shared.output import Output, flat
from experiments.shared.own_variant import OwnVariant, own_variant
from kernels.formats.formats import FORMATS
from kernels.tokens.placement import PLACEMENTS
from models.attention_pattern import as_pattern, read_variants
from models.loading.load import load
from models.machines.disaggregated import Disaggregated, check_context
from models.machines.prefill import PrefillResult
from models.plain import oracle
from models.plain.held import held_weights
from models.plain.transformer import from_weights

PROMPTS = {
    "tiny": "Return the",
    "smollm2": "What is the capital of France?",
    "gemma3": "Once upon a time, there was a little",  # it continues texts
}
CORES = (1, 2, 4, 8)
PLACED = (*PLACEMENTS, "auto")
OWN_SYSTEMS = systems_of(TRN3, SYSTEMS)
LARGEST = max(OWN_SYSTEMS, key=lambda system: system.chips)


def options(parser: cli.Parser) -> None:
    """Adds what this experiment takes."""
    parser.add_argument(
        "--model",
        default="smollm2",
        help="tiny, smollm2, gemma3, a .gguf file or a HF folder",
    )
    parser.add_argument(
        "--prompt", help="text; a chat model sees it as the user's message"
    )
    parser.add_argument(
        "--tokens",
        default="12",
        type=cli.whole_number("tokens", 1),
        help="most tokens to generate (12)",
    )
    parser.add_argument(
        "--chips",
        default="4",
        type=cli.whole_number("chips", 1),
        help=f"Trainium3 chips in the ring, at most {LARGEST.chips} (4)",
    )
    systems.add_option(
        parser, OWN_SYSTEMS, "none: each chip one hop from the next in the ring"
    )
    parser.add_argument(
        "--cores",
        default="1",
        type=cli.whole_number("cores", 1),
        help="NeuronCores of each chip: 1, 2, 4 or 8 (1)",
    )
    parser.add_argument(
        "--placement",
        default="contiguous",
        type=cli.one_of("--placement", PLACED),
        help=f"of the prompt on the chips: {', '.join(PLACED)} (contiguous)",
    )
    parser.add_argument(
        "--attention",
        metavar="FILE.py:NAME",
        help="an attention variant of your own: score(s, b, h, q, k), mask(b, h, q, k), a variant, "
        "or a list of them that is repeated over the layers (causal)",
    )
    parser.add_argument(
        "--dtype",
        default="float32",
        type=plans.plan_of,
        help=f"one of {', '.join(FORMATS)}, or parts with theirs, as weights=mxfp4,cache=bfloat16 "
        "(float32)",
    )
    parser.add_argument(
        "--thinking",
        type=cli.one_of("--thinking", ("on", "off")),
        help="of a chat template that can switch it: on or off (the template's own)",
    )
    parser.add_argument(
        "--show-prompt",
        action="store_true",
        help="print the prompt as the chat template gives it to the model",
    )
    parser.add_argument(
        "--ignore-eos", action="store_true", help="generate exactly --tokens tokens"
    )


def main(args: argparse.Namespace, output: Output) -> None:
    """Runs the quickstart."""
    if args.cores not in CORES:
        allowed = ", ".join(map(str, CORES))
        raise UsageError(f"--cores is {args.cores}, must be one of {allowed}")
    system = systems.BY_WORD.get(args.system, LARGEST)
    systems.check_chips("--chips", args.chips, system, OWN_SYSTEMS)
    if args.prompt is None:
        args.prompt = PROMPTS.get(args.model, PROMPTS["tiny"])
    if not args.prompt.strip():
        raise UsageError("--prompt is empty; give at least one character of text")
    answer(args, output, Stages(output.console(), wall_s={}))


def answer(args: argparse.Namespace, output: Output, stages: Stages) -> None:
    """Loads the model, runs it, shows and writes what was learned."""
    console = stages.console
    # Before the model: what is wrong with a short file is told at once.
    own = None if args.attention is None else own_attention(args.attention)
    with stages("load", f"loading {args.model}") as stage:
        model = load(args.model, stage.update)
        thinking = None if args.thinking is None else args.thinking == "on"
        ids = model.tokenizer.chat(args.prompt, thinking)
        check_context(model.config, len(ids), args.tokens)
    if args.show_prompt:
        rendered = model.tokenizer.rendered(args.prompt, thinking)
        console.print(rendered, markup=False, highlight=False)
    run = Run(
        model,
        args.prompt,
        ids,
        args.chips,
        args.cores,
        args.placement,
        args.dtype.name,
        own=own,
        wall_s=stages.wall_s,
    )
    if not args.dtype.is_plain:
        with stages("load", f"bringing weights into {args.dtype.name}"):
            held = held_weights(model.config, model.weights, args.dtype)
        run.coded = CodedRun(args.dtype, held)
    output.on_interruption(lambda: report.partial(run))
    execute(run, args, console, stages)
    report.show(run, console)
    figures = report.as_json(run)
    output.figures("quickstart", figures)
    output.table("quickstart", ("figure", "value"), flat(figures))
    if output.folder is not None:
        with stages("picture", "drawing"):
            output.file("quickstart.png", lambda path: picture.draw(run, path))


def own_attention(word: str) -> OwnVariant:
    """The user's variant, read."""
    own = own_variant("--attention", word, sequences=True)
    with own.errors_in_one_line():
        read_variants(as_pattern(own.variant()))
    return own


def execute(
    run: Run, args: argparse.Namespace, console: Console, stages: Stages
) -> None:
    """Prefill, decode, the oracle's answer, then the clock."""
    config, tokens = run.model.config, len(run.prompt_ids)
    sizes = {"tokens": tokens, "new_tokens": args.tokens}
    attention = None if run.own is None else run.own.variant()
    # Where the user's functions are called.
    told = contextlib.nullcontext if run.own is None else run.own.errors_in_one_line
    with stages("load", "laying the weights out on both machines"), told():
        machine = machine_of(run.model, args, args.dtype, attention, **sizes)
        run.machine = machine
        run.placement = machine.prefill.placement
    with stages("compile", "compiling the prefill"), told():
        compiled = machine.prefill.compile(run.prompt_ids)
    with stages(
        "prefill",
        f"prefilling {tokens} tokens on {args.chips * args.cores} emulated cores",
    ):
        first = machine.prefill.run(run.prompt_ids, compiled)
        machine.prefill.release()
    with stages("compile", "compiling a decode step"):
        machine.decoder.compile()
    stops = frozenset() if args.ignore_eos else frozenset(run.model.tokenizer.eos_ids)
    started = time.perf_counter()
    decode(run, machine, first, args.tokens, stops, console)
    run.wall_s["decode"] = time.perf_counter() - started
    with stages("oracle", "asking the plain float32 model"), told():
        of_plan = run.model.weights if run.coded is None else run.coded.held
        weights = jax.tree.map(jnp.asarray, of_plan)
        plain = from_weights(config, weights, attention)
        answer, run.oracle_logits = oracle.generate(
            *(plain, run.prompt_ids, args.tokens, stops),
            held=machine.prefill_precision.taken,
            cached=machine.precision.cache,
        )
        run.oracle_tokens = [token for token in answer if token not in stops]
    with stages("timeline", "reading the clock") as stage:
        run.clock = machine.read(len(run.logits), stage.update, first.counts)
    if run.coded is not None:
        with told():
            compare(run, run.coded, args, stages, first.counts)


def compare(
    run: Run,
    coded: CodedRun,
    args: argparse.Namespace,
    stages: Stages,
    counts: np.ndarray | None,
) -> None:
    """What the plan's codes cost and save, against the same request without them."""
    model, ids = run.model, run.prompt_ids
    attention = None if run.own is None else run.own.variant()
    stops = frozenset() if args.ignore_eos else frozenset(model.tokenizer.eos_ids)
    with stages("oracle", "asking the plain float32 model without codes"):
        generate_wide(coded, model, attention, ids, args.tokens, stops)
    with stages("timeline", f"reading the clock in {coded.plan.wide}"):
        generated = len(run.logits)
        read_wide(coded, model, args, attention, len(ids), generated, counts)
    with stages("perplexity", "going through a text") as stage:
        measure_text(coded, model, args, attention, stage.update)


def decode(
    run: Run,
    machine: Disaggregated,
    first: PrefillResult,
    limit: int,
    stops: frozenset[int],
    console: Console,
) -> None:
    """Prints tokens as they come, up to `limit` or the end of sequence."""
    stream = run.model.tokenizer.stream()
    console.print(run.prompt, style="dim", markup=False, highlight=False)
    for token, logits in _tokens(machine, first, limit):
        run.logits.append(logits)
        if token in stops:
            break
        run.tokens.append(token)
        piece = stream.push(token)
        run.text += piece
        console.file.write(piece)
        console.file.flush()
    run.text += (rest := stream.finish())
    console.file.write(rest + "\n")
    console.file.flush()


def _tokens(
    machine: Disaggregated, first: PrefillResult, limit: int
) -> Iterator[tuple[int, np.ndarray]]:
    yield first.token, first.logits
    after = machine.decode(first.token, first.k, first.v)
    for _ in range(limit - 1):
        yield next(after)


if __name__ == "__main__":
    cli.run("quickstart", options, main)
