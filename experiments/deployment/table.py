"""Requests as a table, and as rows of a file."""

from collections.abc import Iterator, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from emu.datasheet import BANDS
from experiments.deployment.asked import Asked
from experiments.shared.units import count, duration

HEADING = (
    "model",
    "held",
    "prompt_tokens",
    "new_tokens",
    "users",
    "chips",
    "prefill_plan",
    "prefill_held",
    "wafers",
    "hbm_bytes_of_fullest_chip",
    "sram_bytes_of_fullest_pe",
    *(f"{band}_prefill_s" for band in BANDS),
    *(f"{band}_exposed_s" for band in BANDS),
    *(f"{band}_ttft_s" for band in BANDS),
    *(f"{band}_tpot_s" for band in BANDS),
    "prefill_bound",
    "handoff_bound",
    "handoff_bytes",
    "refusal",
)
LEGEND = """\
TTFT: the prefill, and what of the hand-off its end does not hide; TPOT: a token of decode by way of
the host; low / nominal / high time of the datasheets' numbers. Prefill is the best plan that was
read; fullest: bytes of the fullest chip's HBM, of 144 GiB, and of the fullest PE, of 48 KiB"""


def show(each_asked: Sequence[Asked], console: Console) -> None:
    """Prints the requests, and below why some cannot be."""
    table = Table(box=box.SIMPLE_HEAD)
    for name in ("model", "held in", "prefill"):
        table.add_column(name, no_wrap=True)
    for name in (
        *("wafers", "fullest chip, PE", "TTFT", "exposed", "TPOT", "tokens/s"),
    ):
        table.add_column(name, justify="right", no_wrap=True)
    for each in each_asked:
        table.add_row(*_cells(each))
    console.print(table)
    for each in each_asked:
        if each.refusal:
            console.print(f"{each.name}: {each.refusal}", highlight=False)
    console.print(LEGEND, highlight=False)


def _cells(each: Asked) -> Iterator[str]:
    yield each.name
    yield each.deployment.precision.name
    request = each.request
    if request is None:
        yield "cannot be"
        return
    yield str(request.prefill.plan)
    yield f"{each.deployment.regions.wafers}"
    yield f"{count(each.hbm_bytes, 'B')}, {each.sram_bytes:,}"
    bands = [band for band in BANDS if band in request.first]
    yield " / ".join(duration(request.ttft_s(band)) for band in bands)
    yield duration(request.handoffs["nominal"].exposed_s)
    yield " / ".join(duration(request.tpot_s(band)) for band in bands)
    yield f"{1 / request.tpot_s():,.0f}"


def lines(each_asked: Sequence[Asked]) -> Iterator[list[Any]]:
    """Rows of `deployment.csv`, in the order of `HEADING`."""
    for each in each_asked:
        own = each.deployment
        known = [
            own.config.name,
            own.precision.name,
            own.tokens,
            own.new_tokens,
            own.users,
            own.chips * own.racks,
        ]
        request = each.request
        if request is None:
            unknown = [None] * (len(HEADING) - len(known) - 1)
            yield [*known, *unknown, each.refusal]
            continue
        times = [
            [request.prefill.ttft_s.get(band) for band in BANDS],
            [_of(request.handoffs.get(band), "exposed_s") for band in BANDS],
            [request.ttft_s(b) if b in request.first else None for b in BANDS],
            [request.tpot_s(b) if b in request.first else None for b in BANDS],
        ]
        moved = request.handoffs["nominal"]
        yield [
            *known,
            str(request.prefill.plan),
            own.setting.precision.name,
            own.regions.wafers,
            each.hbm_bytes,
            each.sram_bytes,
            *(value for of_bands in times for value in of_bands),
            request.prefill.bound,
            moved.bound,
            moved.nbytes,
            "",
        ]


def _of(thing: Any, name: str) -> Any:
    return None if thing is None else getattr(thing, name)


__all__ = ["HEADING", "LEGEND", "lines", "show"]
