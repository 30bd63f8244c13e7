"""Hand-offs as a table and as rows of a file, and what they say of *less than a millisecond*."""

from collections.abc import Iterator, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from emu.datasheet import BANDS
from emu.efa import EFA
from emu.wse import WSE3
from experiments.handoff.measure import PEAK_SHARE, Moved
from experiments.shared.units import count, duration
from models.machines.handoff.fields import token_bytes

CLAIM_S = 1e-3

HEADING = (
    "model",
    "tokens",
    "reused",
    "way",
    "stored",
    "sent",
    "held",
    "wafers",
    "links",
    "spread",
    "order",
    "mode",
    "cold",
    "page_tokens",
    "coalesced",
    "bytes",
    "taken_bytes",
    "operations",
    "prefill_seconds",
    "seconds",
    *(f"{band}_exposed_seconds" for band in BANDS),
    "bulk_exposed_seconds",
    "coding_seconds",
    "keeping_seconds",
    *(f"{name}_alone_seconds" for name in ("bytes", "operations", "gathering")),
    *(f"{name}_alone_seconds" for name in ("links", "fabric")),
    "pace",
    "bound",
    "refusal",
)
ALONE = (
    "NIC's bytes",
    "NIC's operations",
    "chip's gathering",
    "wafer's links",
    "wafer's fabric",
)
LEGEND = f"""\
sent: the cache as it leaves the chips; wafers: as few as decode's plan needs for weights and cache,
unless told; links: of each wafer, 100 GbE; exposed: from the end of prefill until the last PE has
its own, layer by layer, low / nominal / high of the datasheets' numbers; whole: the same, nominal,
if nothing is sent before; pace: what the busiest resource takes for all, over the prefill, of which
each layer has as long a part: from 1 on the hand-off falls behind; bound: that resource. A prefill
of which no time is given takes its FLOPs at {PEAK_SHARE:.0%} of the chips' peak in bfloat16"""


def show(title: str, moves: Sequence[Moved | str], console: Console) -> None:
    """Prints rows, and below them why some are missing."""
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("model", no_wrap=True)
    for name in ("tokens", "sent", "wafers", "links", "bytes", "operations"):
        table.add_column(name, justify="right", no_wrap=True)
    for name in ("prefill", "exposed, layer by layer", "whole", "pace"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("bound", no_wrap=True)
    table.add_column("way", no_wrap=True)
    for each in moves:
        if isinstance(each, Moved):
            table.add_row(*_cells(each))
    console.print(table)
    for each in moves:
        if isinstance(each, str):
            console.print(each, highlight=False)


def _cells(each: Moved) -> Iterator[str]:
    nominal = each.layered["nominal"]
    yield each.prompt.config.name
    yield f"{each.prompt.tokens:,}"
    yield each.sent.name
    yield f"{each.plan.wafers}"
    yield f"{each.links}"
    yield count(nominal.nbytes, "B")
    yield f"{nominal.operations:,}"
    yield duration(each.prompt.whole_prefill_s)
    yield " / ".join(duration(each.layered[band].exposed_s) for band in BANDS)
    yield duration(each.bulk.exposed_s)
    yield f"{each.pace:.2g}"
    yield nominal.bound
    yield each.name


def lines(moves: Sequence[Moved]) -> Iterator[list[Any]]:
    """Rows of `handoff.csv`, in the order of `HEADING`."""
    for each in moves:
        prompt, way, nominal = each.prompt, each.way, each.layered["nominal"]
        transfer = nominal.transfer
        alone = {} if transfer is None else transfer.alone_s
        yield [
            prompt.config.name,
            prompt.tokens,
            prompt.reused,
            each.name,
            prompt.stored.name,
            each.sent.name,
            prompt.plan.name,
            each.plan.wafers,
            each.links,
            way.spread,
            way.order,
            way.mode,
            way.is_cold,
            way.paging.tokens,
            way.paging.is_coalesced,
            nominal.nbytes,
            each.taken_bytes,
            nominal.operations,
            prompt.whole_prefill_s,
            nominal.time_s,
            *(each.layered[band].exposed_s for band in BANDS),
            each.bulk.exposed_s,
            nominal.coding_s,
            nominal.keeping_s,
            *(float(alone.get(name, 0)) for name in ALONE),
            each.pace,
            nominal.bound,
            None,
        ]


def verdict(moves: Sequence[Moved]) -> Iterator[str]:
    """What the hand-offs say of the claim that a hand-off takes less than a millisecond."""
    latency = duration(EFA.latency_s.value)
    yield (
        f"Less than a millisecond? A message travels {latency}. All of a cache is there so soon if "
        "it is small. What the user waits for, exposed layer by layer, is so where the hand-off "
        "keeps pace with prefill (pace < 1) and the last layer's part is small. Here:"
    )
    groups: dict[tuple[str, str, int, int], list[Moved]] = {}
    for each in moves:
        key = each.prompt.config.name, each.sent.name, each.plan.wafers, each.links
        groups.setdefault(key, []).append(each)
    for (model, sent, wafers, links), own in groups.items():
        rows = [
            f"{each.prompt.tokens:,} tokens "
            + ("yes" if each.layered["nominal"].exposed_s < CLAIM_S else "no")
            + ("" if each.pace < 1 else " (falls behind)")
            for each in own
        ]
        yield (
            f"  {model} in {sent}, {wafers} x {links} links: {', '.join(rows)}; a last layer of "
            f"up to {last_layer_tokens(own[0]):,} tokens enters in a millisecond"
        )


def last_layer_tokens(each: Moved) -> int:
    """Tokens of which one layer's cache goes through its wafer's links in the claim's time."""
    rate = WSE3.io_bytes_per_s.value / WSE3.io_links.value * each.links
    left_s = CLAIM_S - EFA.latency_s.value
    return int(left_s * rate / token_bytes(each.landings[-1].map, each.sent))


__all__ = [
    "CLAIM_S",
    "HEADING",
    "LEGEND",
    "last_layer_tokens",
    "lines",
    "show",
    "verdict",
]
