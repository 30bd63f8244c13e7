"""Predicted and measured latencies of whole kernels: the table, worst first, and its statistics."""

import dataclasses
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from emu.trainium.nki.compilers_choices import FACTOR, factor
from experiments.calibration.kernels import (
    Measured,
    Predicted,
    median_error_percent,
    share_inside,
    swaps,
)
from experiments.shared.output import Figures

COLUMNS = (
    "id,device,use,measured_ms,compiled_ms,low_ms,high_ms,error_percent,literal_ms,"
    "literal_error_percent,status"
).split(",")


def show(rows: Sequence[Predicted], console: Console) -> None:
    """Prints the table and the statistics."""
    ok = _ok(rows)
    if ok:
        console.print(_table(ok))
    for row in rows:
        if row.why:
            console.print(
                f"{row.measured.id}: {row.why}", highlight=False, markup=False
            )
    for line in lines(ok):
        console.print(line, highlight=False)


def _ok(rows: Sequence[Predicted]) -> list[Predicted]:
    """Rows that could be predicted, worst first."""
    return sorted(
        (row for row in rows if row.compiled_ms),
        key=lambda row: -abs(row.error_percent),
    )


def _table(rows: Sequence[Predicted]) -> Table:
    table = Table(
        title="Kernels, predicted and measured, worst first; one core, compiled reading"
    )
    for name in ("id", "machine", "use"):
        table.add_column(name, no_wrap=True)
    for name in ("measured ms", "predicted", "error", "band", "literal", "HBM MB r/w"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        measured = row.measured
        published = "" if measured.hbm_read_mb is None else _published(measured)
        inside = "" if row.is_inside else " (outside)"
        table.add_row(
            measured.id,
            measured.device,
            measured.use,
            f"{measured.latency_ms:.4g}",
            f"{row.compiled_ms['nominal']:.4g}",
            f"{row.error_percent:+.1f} %",
            f"{row.compiled_ms['low']:.4g} - {row.compiled_ms['high']:.4g}{inside}",
            _literal(row),
            f"{row.hbm_read_mb:,.0f} / {row.hbm_write_mb:,.0f}{published}",
        )
    return table


def _literal(row: Predicted) -> str:
    if not row.literal_ms:
        return "does not fit"
    return f"{row.literal_ms['nominal']:.4g} ({row.literal_error_percent:+.0f} %)"


def _published(measured: Measured) -> str:
    read = measured.hbm_read_mb or 0
    write = measured.hbm_write_mb or 0
    return f" ({read:,.0f} / {write:,.0f} counted)"


def lines(rows: Sequence[Predicted]) -> list[str]:
    """Statistics of the kernels that were fitted to, of those only predicted, and of ladders."""
    told: list[str] = []
    for use in ("fitted", "predicted"):
        own = [row for row in rows if row.measured.use == use]
        if not own:
            continue
        told.append(
            f"{use}: median error {median_error_percent(own):.1f} % (literal reading "
            f"{median_error_percent(own, literal=True):.1f} %), {share_inside(own):.0%} of "
            f"{len(own)} kernels inside the band"
        )
        if use == "fitted":
            ratios = (
                row.measured.latency_ms / row.compiled_ms["nominal"] for row in own
            )
            told.append(
                f"fitted: the compiler's choices are x/÷ {factor(ratios):.2f} of nominal by these "
                f"kernels; x/÷ {FACTOR:.2f} is in the band"
            )
    if rows:
        widest = max(_factor(row) for row in rows)
        told.append(f"the widest band is a factor of {widest:.2f} from nominal")
    for ladder, swapped in swaps(rows).items():
        pairs = ", ".join(f"{slower} before {faster}" for slower, faster in swapped)
        order = f"{len(swapped)} swapped: {pairs}" if swapped else "as measured"
        told.append(f"ladder {ladder}: {order}")
    return told


def _factor(row: Predicted) -> float:
    """How far the band reaches from nominal, up or down."""
    low, nominal, high = (row.compiled_ms[band] for band in ("low", "nominal", "high"))
    return max(nominal / low, high / nominal)


def as_line(row: Predicted) -> tuple[object, ...]:
    """A row's values of `COLUMNS`."""
    measured = row.measured
    head = (measured.id, measured.device, measured.use, measured.latency_ms)
    if row.why:
        return (*head, *[""] * 6, row.why)
    return (
        *head,
        row.compiled_ms["nominal"],
        row.compiled_ms["low"],
        row.compiled_ms["high"],
        row.error_percent,
        row.literal_ms.get("nominal", ""),
        row.literal_error_percent if row.literal_ms else "",
        "ok",
    )


def as_json(rows: Sequence[Predicted]) -> Figures:
    """Every kernel, and the statistics by use."""
    ok = _ok(rows)
    uses = {row.measured.use for row in ok}
    groups = {use: [row for row in ok if row.measured.use == use] for use in uses}
    return {
        "kernels": [dataclasses.asdict(row) for row in rows],
        "statistics": {
            use: {
                "median_error_percent": median_error_percent(own),
                "literal_median_error_percent": median_error_percent(own, literal=True),
                "share_inside_band": share_inside(own),
            }
            for use, own in sorted(groups.items())
        },
        "swaps": swaps(ok),
    }


__all__ = ["COLUMNS", "as_json", "as_line", "lines", "show"]
