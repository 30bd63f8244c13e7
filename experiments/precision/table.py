"""Errors and times of plans of precision as tables, and as rows of files."""

from collections.abc import Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from emu.datasheet import BANDS
from experiments.precision.times import Time
from experiments.precision.values import Errors
from experiments.shared.units import count, duration

ERRORS = (
    "plan",
    "source",
    "positions",
    "rms",
    "largest",
    "agreement",
    "margin",
    "lost_margin",
)
TIMES = (
    "plan",
    "tokens",
    *(f"{band}_seconds" for band in BANDS),
    "speedup",
    "useful_flops",
    "peak_share",
    "weight_bytes",
    "hbm_bytes",
    "sbuf_bytes",
    "tensor_share",
    "else_mostly",
    "else_share",
)
OF_ERRORS = """\
differences from float32: rms over that of the logits; largest: absolute; same: positions whose
greatest logit is the same token's; margin: of float32's greatest to its second, median; lost: the
largest margin where the greatest is another token's. Formats alone: weights and what products take
are what formats make of them, all else is float32. Emulated: on the chip, the last token's"""
OF_TIMES = """\
time: low / nominal / high of the datasheet's numbers; x: of the first plan's; peak: useful FLOPs
over what the Tensor Engines could do in the products' format; weights: of layers, as they stand in
HBM; working: share of the time in which the Tensor Engine works at its rate, and what else takes
most of it"""


def show_errors(errors: Sequence[Errors], model: str, console: Console) -> None:
    """Prints the errors of plans."""
    table = Table(
        title=f"{model}: logits beside float32's",
        title_justify="left",
        box=box.SIMPLE_HEAD,
    )
    table.add_column("precision", overflow="fold")
    table.add_column("", no_wrap=True)
    for name in ("positions", "rms", "largest", "same", "margin", "lost"):
        table.add_column(name, justify="right", no_wrap=True)
    for each in errors:
        table.add_row(
            each.plan,
            each.source,
            f"{each.positions}",
            f"{each.rms:.2%}",
            f"{each.largest:.3g}",
            f"{each.agreement:.0%}",
            f"{each.margin:.3g}",
            f"{each.lost:.3g}",
        )
    console.print(table)
    console.print(OF_ERRORS, highlight=False)


def show_times(
    times: Sequence[Time], model: str, chips: int, cores: int, console: Console
) -> None:
    """Prints the times of plans."""
    table = Table(
        title=f"{model}: prefill on {chips} Trainium3 of {cores} cores (predicted, not measured)",
        title_justify="left",
        box=box.SIMPLE_HEAD,
    )
    table.add_column("tokens", justify="right", no_wrap=True)
    table.add_column("precision", overflow="fold")
    for name in ("time", "x", "of peak", "weights", "HBM", "working"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("else mostly", overflow="fold")
    for each in times:
        told, share = each.waits
        table.add_row(
            f"{each.tokens:,}",
            each.plan,
            " / ".join(duration(each.seconds[band]) for band in BANDS),
            f"{speedup(each, times):.2f}",
            f"{each.peak_share:.1%}",
            count(each.weight_bytes, "B"),
            count(each.hbm_bytes, "B"),
            f"{each.working:.0%}",
            f"{told} {share:.0%}",
        )
    console.print(table)
    console.print(OF_TIMES, highlight=False)


def speedup(own: Time, times: Sequence[Time]) -> float:
    """How often a prefill fits into that of the first plan, of as many tokens."""
    first = next(each for each in times if each.tokens == own.tokens)
    return first.seconds["nominal"] / own.seconds["nominal"]


def error_lines(errors: Sequence[Errors]) -> list[list[Any]]:
    """Rows of `errors.csv`, in the order of `ERRORS`."""
    return [
        [
            each.plan,
            each.source,
            each.positions,
            each.rms,
            each.largest,
            each.agreement,
            each.margin,
            each.lost,
        ]
        for each in errors
    ]


def time_lines(times: Sequence[Time]) -> list[list[Any]]:
    """Rows of `times.csv`, in the order of `TIMES`."""
    return [
        [
            each.plan,
            each.tokens,
            *(each.seconds[band] for band in BANDS),
            speedup(each, times),
            each.useful_flops,
            each.peak_share,
            each.weight_bytes,
            each.hbm_bytes,
            each.sbuf_bytes,
            each.working,
            *each.waits,
        ]
        for each in times
    ]


__all__ = [
    "ERRORS",
    "TIMES",
    "error_lines",
    "show_errors",
    "show_times",
    "speedup",
    "time_lines",
]
