"""Rings, thresholds and schemes as tables."""

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table

from experiments.ring_scaling.measure import Row
from experiments.ring_scaling.schemes import closed_bytes, least_sent, winner
from experiments.ring_scaling.threshold import HIDDEN, LEAST, MOST, Threshold

ALL_CORES = "all cores of every chip run"
FIGURES = ("time", "exposed", "balance", "MFU", "issued", "link", "hops", "tiles")
LEGEND = """\
time: of the slowest core, every chip running all its cores; exposed: time less that of the same
program over links that take no time; balance: mean over busiest core of the Tensor Engine's work;
MFU: of allowed pairs; issued: FLOPs of live tiles over those of allowed pairs; link: MB that one
core of every chip sends; tiles: replicated ahead of the ring; auto: the placement `auto` chooses;
static: one program for all ranks, which cannot skip tiles by rank as the others do; x8: the mesh
has all cores of each chip instead of one that stands for all"""


def show_sweep(rows: Sequence[Row], console: Console) -> None:
    """Prints the rings."""
    table = Table(
        title=f"Ring attention of one layer, by the clock; {ALL_CORES}",
        box=box.SIMPLE_HEAD,
    )
    left, right = ("machine", "mask"), ("tokens", "chips")
    for name in (*left, *right, "placement", "program", "auto", *FIGURES):
        side = "right" if name in (*right, *FIGURES) else "left"
        table.add_column(name, justify=side, no_wrap=True)
    for number, row in enumerate(rows):
        point = row.point
        last = number + 1 == len(rows) or _kind(rows[number + 1]) != _kind(row)
        program = "static" * point.static + f"x{point.cores}" * (point.cores > 1)
        table.add_row(
            point.machine,
            point.mask,
            f"{point.tokens:,}",
            str(point.ranks),
            row.placed,
            program,
            row.auto,
            duration(row.time_s),
            exposed(row),
            f"{row.balance:.2f}",
            f"{row.mfu:.1%}",
            f"{row.issued:.2f}",
            f"{row.link_bytes / point.cores / 1e6:,.0f}",
            str(row.hops),
            str(row.replicated or ""),
            end_section=last,
        )
    console.print(table)
    for row in rows:
        if row.low_s is not None and row.high_s is not None:
            ends = f"{duration(row.low_s)} - {duration(row.high_s)}"
            told = f"band of {row.point.machine}, {row.point.mask}, {row.point.tokens:,} tokens, "
            console.print(f"{told}{row.point.ranks} chip: {ends}", highlight=False)
    console.print(LEGEND, highlight=False, soft_wrap=True)


def _kind(row: Row) -> tuple[object, ...]:
    point = row.point
    return point.machine, point.ranks, point.static, point.cores


def show_thresholds(found: Sequence[Threshold], console: Console) -> None:
    """Prints from how many tokens per rank hops hide."""
    ranks = found[0].question.point.ranks
    table = Table(
        title=f"Tokens per rank from which a hop's transfer hides, on {ranks} chips; {ALL_CORES}"
    )
    for name in ("machine", "mask", "heads", "links"):
        table.add_column(name)
    for name in (
        "link of a core",
        "reached",
        "by the clock",
        "closed form",
        "and latency",
        "at the peak",
    ):
        table.add_column(name, justify="right")
    for threshold in found:
        point = threshold.question.point
        table.add_row(
            point.machine,
            point.mask,
            f"{point.heads} over {point.kv_heads}",
            f"x {threshold.question.link_times:g}",
            f"{threshold.link_bytes_per_s / 1e9:.1f} GB/s",
            f"{threshold.flops_per_s / 1e12:.1f} TFLOP/s",
            least(threshold),
            f"{threshold.closed:,.0f}",
            f"{threshold.with_latency:,.0f}",
            f"{threshold.at_peak:,.0f}",
        )
    console.print(table)
    told = (
        f"hides: exposed at most {HIDDEN:.0%} of the time over free links; reached: FLOP/s of a "
        "core there, which the closed form takes;\nthe last column takes the peak; "
        "causal in zigzag; looked for from above, as small hops hide behind a hop's least time"
    )
    console.print(told, highlight=False, soft_wrap=True)


def least(threshold: Threshold) -> str:
    """The threshold in words."""
    if threshold.least is None:
        return f"> {MOST:,}"
    return f"always (from {LEAST})" if threshold.always else f"{threshold.least:,}"


def show_schemes(groups: Sequence[list[Row]], console: Console) -> None:
    """Prints every scheme beside the others of its sizes."""
    machine = groups[0][0].point.machine
    table = Table(title=f"Schemes: which wins where, on {machine}; {ALL_CORES}")
    for name in ("mask", "tokens", "queries", "chips", "heads", "scheme", "placement"):
        right = name in ("tokens", "queries", "chips")
        table.add_column(name, justify="right" if right else "left", no_wrap=True)
    for name in ("time", "exposed", "MFU", "MB sent", "closed form", "ratio"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("")
    for group in groups:
        best, few = winner(group), least_sent(group)
        for row in group:
            _scheme(
                table,
                row,
                "fastest" * (row is best),
                "fewest bytes" * (row is few),
                row is group[-1],
            )
    console.print(table)
    told = (
        "MB sent and its closed form: of one core of every chip; a ratio below 1 is blocks that "
        "nobody further on needs, above 1 padding"
    )
    console.print(told, highlight=False, soft_wrap=True)


def _scheme(table: Table, row: Row, fastest: str, fewest: str, last: bool) -> None:
    point, closed = row.point, closed_bytes(row.point)
    scheme = point.scheme
    if scheme in ("tiles", "ulysses-ring"):
        scheme += f" {point.ranks // point.inner}x{point.inner}"
    table.add_row(
        point.mask,
        f"{point.tokens:,}",
        f"{point.queries or point.tokens:,}",
        str(point.ranks),
        f"{point.heads} over {point.kv_heads}",
        scheme,
        row.placed,
        duration(row.time_s),
        exposed(row),
        f"{row.mfu:.1%}",
        f"{row.link_bytes / 1e6:,.1f}",
        f"{closed / 1e6:,.1f}",
        f"{row.link_bytes / closed:.2f}" if closed else "",
        ", ".join(filter(None, (fastest, fewest))),
        end_section=last,
    )


# --- figures ---


def duration(seconds: float) -> str:
    """Microseconds, or milliseconds from ten of them on."""
    return f"{seconds * 1e6:,.1f} us" if seconds < 0.01 else f"{seconds * 1e3:,.2f} ms"


def exposed(row: Row) -> str:
    """Exposed communication as a share of the time."""
    return f"{row.exposed_s / row.time_s:.1%}" if row.link_bytes else "-"
