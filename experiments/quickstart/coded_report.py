"""The figures of a run under a precision with codes: its error, its bytes and its time."""

from collections.abc import Callable
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from experiments.quickstart.coded import CodedRun
from experiments.quickstart.comparison import first_difference, logit_error, margin
from experiments.quickstart.run import Run
from experiments.shared.output import Figures
from experiments.shared.units import count, duration
from models.held_bytes import cache_bytes_a_token, weight_bytes
from models.machines.disaggregated import Clock
from models.precision import PARTS, Precision, precision


def figures(run: Run, coded: CodedRun) -> Figures:
    """The entry `precision` of the quickstart's JSON.

    Returns:
      `weights`, `activations`, `cache`, `wide`: what the plan has each in. `prefill`, `decode`:
      what each machine computes with, which has the weights' numbers in any case, and activations
      in codes only where it has products of such. `handoff`: what the cache is sent in; it is
      brought into codes as it arrives. `wide_tokens`: the plain float32 model's answer without
      codes. `first_divergence`, `margin_there`: the first generated token that differs from it,
      and the margin of its own over the second there; or None. `logit_error`: see
      `comparison.logit_error`. `perplexity`: of a fixed text, see `Perplexity`, and `difference`,
      the machines' less float32's. `weights_bytes`, `cache_bytes_a_token`: `held` under the plan,
      and `wide` with all in its wide dtype. `ttft_s`, `tpot_s`: nominal, of the median token, both
      likewise; None where the model does not fit the machines so.
    """
    plan, found = coded.plan, coded.perplexity
    at = first_difference(run.logits, coded.wide_logits)
    error = logit_error(run.logits, coded.wide_logits)
    prefilled = run.machine.prefill_precision
    return {
        **{part: held.name for part, held in plan.parts.items()},
        "wide": plan.wide,
        "prefill": {
            "weights": _weights(
                plan, "" if prefilled.weights == plan.weights else "dequantised to"
            ),
            "activations": prefilled.activations.name,
        },
        "handoff": {"cache": prefilled.cache.name},
        "decode": {
            "weights": _weights(plan, "on the PE made"),
            "activations": plan.wide,
        },
        "wide_tokens": coded.wide_tokens,
        "first_divergence": at,
        "margin_there": None if at is None else margin(coded.wide_logits[at]),
        "logit_error": error,
        "perplexity": {
            "tokens": found.tokens,
            "predicted": found.predicted,
            "machines": found.machines,
            "oracle": found.oracle,
            "float32": found.float32,
            "difference": found.machines - found.float32,
        },
        "weights_bytes": _both(run, coded, weight_bytes),
        "cache_bytes_a_token": _both(run, coded, cache_bytes_a_token),
        "ttft_s": _times(run.clock, coded.wide, lambda clock: clock.ttft_s("nominal")),
        "tpot_s": _times(run.clock, coded.wide, _median_step_s),
    }


def _weights(plan: Precision, made: str) -> str:
    """What products have weights in: `mxfp8`, or `mxfp8, on the PE made bfloat16`."""
    name = plan.weights.name
    return f"{name}, {made} {plan.wide}" if made and plan.weights.is_coded else name


def _both(run: Run, coded: CodedRun, bytes_of: Callable[..., int]) -> dict[str, int]:
    config, plan = run.model.config, coded.plan
    return {
        "held": bytes_of(config, plan),
        "wide": bytes_of(config, precision(plan.wide)),
    }


def _times(
    held: Clock, wide: Clock | None, time_of: Callable[[Clock], float | None]
) -> dict[str, float | None]:
    return {"held": time_of(held), "wide": None if wide is None else time_of(wide)}


def _median_step_s(clock: Clock) -> float | None:
    steps = clock.steps["nominal"]
    return float(np.median([step.seconds for step in steps])) if steps else None


# --- for people ---


def show(data: Figures, console: Console) -> None:
    """Prints what a plan costs and saves; `data` is as `figures` has it."""
    plan = ", ".join(f"{part} {data[part]}" for part in PARTS)
    console.print(f"precision: {plan}, all else {data['wide']}", highlight=False)
    for machine in ("prefill", "decode"):
        computes = data[machine]
        told = f"  {machine}: weights {computes['weights']}; activations "
        told += computes["activations"]
        if computes["activations"] != data["activations"]:
            told += f", not {data['activations']}: it has no such product"
        console.print(told, highlight=False)
    if data["cache"] != data["handoff"]["cache"]:
        console.print(
            f"  hand-off: the cache in {data['handoff']['cache']}, brought into {data['cache']} as "
            "it arrives",
            highlight=False,
        )
    at = data["first_divergence"]
    same = f"the same {len(data['wide_tokens'])} tokens as without codes"
    if at is not None:
        same = f"first other token than without codes: {at}, where the margin was "
        same += f"{data['margin_there']:.2g}"
    error = data["logit_error"]
    console.print(
        f"  {same}; logits off by {error['max_over_largest']:.2%} of the largest at most, "
        f"{error['rms_over_largest']:.2%} rms",
        highlight=False,
    )
    text = data["perplexity"]
    console.print(
        f"  perplexity of {text['predicted']} tokens of a text: {text['machines']:.4g}, the plain "
        f"model's on these weights {text['oracle']:.4g}, in float32 {text['float32']:.4g}",
        highlight=False,
    )
    console.print(_table(data))


def _table(data: Figures) -> Table:
    table = Table(title="What the codes save")
    for heading in ("", "held", data["wide"], "held / wide"):
        table.add_column(heading, justify="right" if heading else "left")

    def row(name: str, key: str, form: Callable[[Any], str]) -> None:
        held, wide = data[key]["held"], data[key]["wide"]
        ratio = "-" if held is None or wide is None else f"{held / wide:.2f}"
        shown = ["-" if each is None else form(each) for each in (held, wide)]
        if wide is None and held is not None:
            shown[1] = "does not fit"
        table.add_row(name, *shown, ratio)

    row("weights", "weights_bytes", lambda n: count(n, "B"))
    row("cache of a token", "cache_bytes_a_token", lambda n: count(n, "B"))
    row("TTFT", "ttft_s", duration)
    row("TPOT median", "tpot_s", duration)
    return table


__all__ = ["figures", "show"]
