"""The variants as a table, and as rows of a file."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from experiments.variants.measure import Row

HEADING = (
    "variant",
    "prefill_error",
    "decode_error",
    "prefill_low_s",
    "prefill_s",
    "prefill_high_s",
    "over_full",
    "flops",
    "hbm_bytes",
    "link_bytes",
    "tiles",
    "live_tiles",
    "full_tiles",
    "placement",
    "hops",
    "bound",
    "bound_busy",
    "decode_low_s",
    "decode_s",
    "decode_high_s",
    "decode_pes",
    "decode_flops",
)
LEGEND = """\
error: the prefill's or the decode's, whichever is larger, of the output against dense float64
attention, over the largest value, at a small size; prefill: one layer, low - nominal - high; x
full: over full attention of the same size; live: pairs of tiles that are worked on, and of them
those that need a mask; bound: the busiest engine; decode: attention of the token behind so long a
cache, on the fastest region of a WSE-3"""


def show(
    rows: Sequence[Row], base_s: float | None, title: str, console: Console
) -> None:
    """Prints the variants."""
    console.print(title, highlight=False, soft_wrap=True)
    table = Table(box=box.SIMPLE_HEAD)
    for name in ("variant", "placement", "bound"):
        table.add_column(name, no_wrap=True)
    for name in (
        "error",
        "prefill ms",
        "x full",
        "TFLOP",
        "HBM GB",
        "live",
        "masked",
        "decode us",
    ):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        clock, decode = row.clock.prefill, row.clock.decode
        live = clock.live_tiles / clock.tiles
        masked = (clock.live_tiles - clock.full_tiles) / max(1, clock.live_tiles)
        table.add_row(
            row.name,
            clock.placed,
            f"{clock.bound} {clock.busy[clock.bound]:.0%}",
            "" if row.errors is None else f"{np.max(row.errors):.1e}",
            " - ".join(f"{seconds * 1e3:.2f}" for seconds in clock.seconds.values()),
            "" if base_s is None else f"{clock.seconds['nominal'] / base_s:.3f}",
            f"{clock.flops / 1e12:.2f}",
            f"{clock.hbm_bytes / 1e9:.1f}",
            f"{live:.1%}",
            f"{masked:.0%}",
            " - ".join(f"{seconds * 1e6:.1f}" for seconds in decode.seconds.values()),
        )
    console.print(table)
    console.print(LEGEND, highlight=False)


def line(row: Row, base_s: float | None) -> list[Any]:
    """A row of `variants.csv`, in the order of `HEADING`."""
    clock = row.clock.prefill
    decode = row.clock.decode
    nominal = clock.seconds["nominal"]
    return [
        row.name,
        *(row.errors or (None, None)),
        clock.seconds["low"],
        nominal,
        clock.seconds["high"],
        None if base_s is None else nominal / base_s,
        clock.flops,
        clock.hbm_bytes,
        clock.link_bytes,
        clock.tiles,
        clock.live_tiles,
        clock.full_tiles,
        clock.placed,
        clock.hops,
        clock.bound,
        clock.busy[clock.bound],
        decode.seconds["low"],
        decode.seconds["nominal"],
        decode.seconds["high"],
        decode.rows * decode.cols,
        decode.flops,
    ]


__all__ = ["HEADING", "line", "show"]
