"""Rings, thresholds and schemes as tables."""

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table

from experiments.ring_scaling.measure import Row
from experiments.ring_scaling.schemes import closed_bytes, least_sent, winner
from experiments.ring_scaling.threshold import HIDDEN, LEAST, MOST, Threshold

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
        title="Ring attention of one layer, by the clock", box=box.SIMPLE_HEAD
    )
    left, right = ("machine", "mask"), ("tokens", "chips")
    for name in (*left, *right, "placement", "program", "auto", *FIGURES):
        side = "right" if name in (*right, *FIGURES) else "left"
        table.add_column(name, justify=side, no_wrap=True)
    for n, r in enumerate(rows):
        p = r.point
        last = n + 1 == len(rows) or _kind(rows[n + 1]) != _kind(r)
        program = "static" * p.static + f"x{p.cores}" * (p.cores > 1)
        table.add_row(
            p.machine,
            p.mask,
            f"{p.tokens:,}",
            str(p.ranks),
            r.placed,
            program,
            r.auto,
            duration(r.time_s),
            exposed(r),
            f"{r.balance:.2f}",
            f"{r.mfu:.1%}",
            f"{r.issued:.2f}",
            f"{r.link_bytes / p.cores / 1e6:,.0f}",
            str(r.hops),
            str(r.replicated or ""),
            end_section=last,
        )
    console.print(table)
    for r in rows:
        if r.low_s is not None and r.high_s is not None:
            ends = f"{duration(r.low_s)} - {duration(r.high_s)}"
            told = f"band of {r.point.machine}, {r.point.mask}, {r.point.tokens:,} tokens, "
            console.print(f"{told}{r.point.ranks} chip: {ends}", highlight=False)
    console.print(LEGEND, highlight=False, soft_wrap=True)


def _kind(r: Row) -> tuple[object, ...]:
    p = r.point
    return p.machine, p.ranks, p.static, p.cores


def show_thresholds(found: Sequence[Threshold], console: Console) -> None:
    """Prints from how many tokens per rank hops hide."""
    table = Table(title="Tokens per rank from which a hop's transfer hides")
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
    for t in found:
        p = t.question.point
        table.add_row(
            p.machine,
            p.mask,
            f"{p.heads} over {p.kv_heads}",
            f"x {t.question.link_times:g}",
            f"{t.link_bytes_per_s / 1e9:.1f} GB/s",
            f"{t.flops_per_s / 1e12:.1f} TFLOP/s",
            least(t),
            f"{t.closed:,.0f}",
            f"{t.with_latency:,.0f}",
            f"{t.at_peak:,.0f}",
        )
    console.print(table)
    told = (
        f"hides: exposed at most {HIDDEN:.0%} of the time over free links; reached: FLOP/s of a "
        "core there, which the closed form takes;\nthe last column takes the peak; 4 chips, "
        "causal in zigzag; looked for from above, as small hops hide behind a hop's least time"
    )
    console.print(told, highlight=False, soft_wrap=True)


def least(t: Threshold) -> str:
    """The threshold in words."""
    if t.least is None:
        return f"> {MOST:,}"
    return f"always (from {LEAST})" if t.always else f"{t.least:,}"


def show_schemes(groups: Sequence[list[Row]], console: Console) -> None:
    """Prints every scheme beside the others of its sizes."""
    table = Table(title="Schemes: which wins where")
    for name in ("mask", "tokens", "queries", "chips", "heads", "scheme", "placement"):
        right = name in ("tokens", "queries", "chips")
        table.add_column(name, justify="right" if right else "left", no_wrap=True)
    for name in ("time", "exposed", "MFU", "MB sent", "closed form", "ratio"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("")
    for group in groups:
        best, few = winner(group), least_sent(group)
        for r in group:
            _scheme(
                table,
                r,
                "fastest" * (r is best),
                "fewest bytes" * (r is few),
                r is group[-1],
            )
    console.print(table)
    told = (
        "MB sent and its closed form: of one core of every chip; a ratio below 1 is blocks that "
        "nobody further on needs, above 1 padding"
    )
    console.print(told, highlight=False, soft_wrap=True)


def _scheme(table: Table, r: Row, fastest: str, fewest: str, last: bool) -> None:
    p, closed = r.point, closed_bytes(r.point)
    scheme = p.scheme
    if scheme in ("tiles", "ulysses-ring"):
        scheme += f" {p.ranks // p.inner}x{p.inner}"
    table.add_row(
        p.mask,
        f"{p.tokens:,}",
        f"{p.queries or p.tokens:,}",
        str(p.ranks),
        f"{p.heads} over {p.kv_heads}",
        scheme,
        r.placed,
        duration(r.time_s),
        exposed(r),
        f"{r.mfu:.1%}",
        f"{r.link_bytes / 1e6:,.1f}",
        f"{closed / 1e6:,.1f}",
        f"{r.link_bytes / closed:.2f}" if closed else "",
        ", ".join(filter(None, (fastest, fewest))),
        end_section=last,
    )


# --- figures ---


def duration(seconds: float) -> str:
    """Microseconds, or milliseconds from ten of them on."""
    return f"{seconds * 1e6:,.1f} us" if seconds < 0.01 else f"{seconds * 1e3:,.2f} ms"


def exposed(r: Row) -> str:
    """Exposed communication as a share of the time."""
    return f"{r.exposed_s / r.time_s:.1%}" if r.link_bytes else "-"
