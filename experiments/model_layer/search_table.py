"""Regions that were tried for a layer's decode step, as a table, and as rows of a file."""

from collections.abc import Iterator, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from experiments.model_layer.decode import Decoded

HEADING = (
    "model",
    "layer",
    "context",
    "held",
    "rows",
    "columns",
    "estimated_cycles",
    "cycles",
    "chosen",
)


def show(layers: Sequence[Decoded], console: Console) -> None:
    """Prints what was tried for each layer, and why one was chosen."""
    for each in layers:
        if each.time is None:
            continue
        decode, found = each.decode, each.decode.found
        table = Table(
            title=f"layer {decode.layer}, {decode.context:,} tokens in the cache: regions tried",
            title_justify="left",
            box=box.SIMPLE_HEAD,
        )
        for name in ("PEs", "estimate", "clock", "of the least"):
            table.add_column(name, justify="right", no_wrap=True)
        table.add_column("")
        best = found.tried[found.chosen].cycles
        for place, tried in enumerate(found.tried):
            table.add_row(
                f"{tried.rows:,} x {tried.groups * tried.parts:,}",
                f"{tried.estimated_cycles:,.0f}",
                f"{tried.cycles:,}",
                f"{tried.cycles / best - 1:+.1%}",
                "chosen" if place == found.chosen else "",
            )
        console.print(table)
        saved = found.tried[0].cycles - best
        before = ", as read before" if found.known else ""
        console.print(
            f"chosen: the least clock{before}, the first by estimate if several have it; "
            f"{saved:,} cycles less than the first by estimate\n",
            highlight=False,
        )


def lines(layers: Sequence[Decoded]) -> Iterator[list[Any]]:
    """Rows of `model_layer_search.csv`, in the order of `HEADING`."""
    for each in layers:
        if each.time is None:
            continue
        decode, found = each.decode, each.decode.found
        for place, tried in enumerate(found.tried):
            yield [
                decode.config.name,
                decode.layer,
                decode.context,
                each.held,
                tried.rows,
                tried.groups * tried.parts,
                tried.estimated_cycles,
                tried.cycles,
                place == found.chosen,
            ]


__all__ = ["HEADING", "lines", "show"]
