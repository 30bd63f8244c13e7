"""A layer's decode step as a table, and as rows of a file."""

from collections.abc import Iterator, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from emu.datasheet import BANDS
from experiments.model_layer.decode import Decoded
from experiments.shared.units import count, duration

KINDS_OF_BYTES = ("weights", "cache", "tables", "buffers", "code")
HEADING = (
    "model",
    "layer",
    "context",
    "held",
    "rows",
    "columns",
    *(f"{band}_cycles" for band in BANDS),
    *(f"{band}_seconds" for band in BANDS),
    "work_cycles",
    "flops",
    "product_flops",
    *(f"{kind}_bytes_a_pe" for kind in KINDS_OF_BYTES),
    "refusal",
)
LEGEND = """\
decode: one token through one layer on a WSE-3 that holds nothing else, the cache full; time: low /
nominal / high of the datasheet's numbers; at work: of the cycles, those in which the PE that works
most does, in the others it waits; FLOPs: of products with weights and cache, padding included;
bytes: of the fullest PE, of 48 KiB; code and a variant's tables come to the total besides"""


def show(layers: Sequence[Decoded], console: Console) -> None:
    """Prints all layers of a model, and below them why some do not fit."""
    model = layers[0].decode.config
    table = Table(
        title=f"{model.name}, decode: a layer on a wafer of its own",
        title_justify="left",
        box=box.SIMPLE_HEAD,
    )
    table.add_column("layer", no_wrap=True)
    for name in ("context", "held in", "PEs", "cycles", "time", "at work", "FLOPs"):
        table.add_column(name, justify="right", no_wrap=True)
    for name in ("weights", "cache", "buffers", "total"):
        table.add_column(name, justify="right", no_wrap=True)
    for each in layers:
        table.add_row(*_cells(each))
    console.print(table)
    for each in layers:
        if each.refusal:
            told = f"layer {each.decode.layer}: {each.refusal}{_remedy(each)}"
            console.print(told, highlight=False)


def _remedy(each: Decoded) -> str:
    """What may help a layer whose weights are nearly all of its bytes."""
    if not each.decode.precision.is_plain:
        return ""
    return "; --dtype mxfp8 halves its weights' bytes, mxfp4 quarters them"


def _cells(each: Decoded) -> Iterator[str]:
    decode = each.decode
    yield f"{decode.layer} ({each.layers} alike)"
    yield f"{decode.context:,}"
    yield each.held
    if each.time is None:
        yield "does not fit"
        return
    placed, time = decode.placed, each.time
    yield f"{placed.map.rows:,} x {placed.map.cols:,}"
    yield f"{time.cycles['nominal']:,}"
    yield " / ".join(duration(time.seconds[band]) for band in BANDS)
    yield f"{time.work_cycles / time.cycles['nominal']:.0%}"
    yield count(time.product_flops)
    for kind in ("weights", "cache", "buffers"):
        yield f"{placed.bytes[kind]:,}"
    yield f"{sum(placed.bytes.values()):,}"


def lines(layers: Sequence[Decoded]) -> Iterator[list[Any]]:
    """Rows of `model_layer_decode.csv`, in the order of `HEADING`."""
    for each in layers:
        decode, time = each.decode, each.time
        known = [decode.config.name, decode.layer, decode.context, each.held]
        if time is None:
            unknown = [None] * (len(HEADING) - len(known) - 1)
            yield [*known, *unknown, each.refusal]
            continue
        placed = decode.placed
        yield [
            *known,
            placed.map.rows,
            placed.map.cols,
            *(time.cycles[band] for band in BANDS),
            *(time.seconds[band] for band in BANDS),
            time.work_cycles,
            time.flops,
            time.product_flops,
            *(placed.bytes.get(kind, 0) for kind in KINDS_OF_BYTES),
            each.refusal,
        ]


__all__ = ["HEADING", "LEGEND", "lines", "show"]
