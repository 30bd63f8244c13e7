"""What each context parallel scheme sends, in closed form, to hold what was counted against."""

import jax.numpy as jnp

from experiments.ring_scaling.cases import HEAD_DIM, Point
from experiments.ring_scaling.measure import DTYPE, Row

FLOAT32 = (
    4  # bytes of partial outputs, maxima, sums and log-sum-exps, which stay float32
)


def closed_bytes(p: Point) -> float:
    """Bytes that all cores send if every block visits every rank and nothing is padded.

    With c tokens and n queries of each rank, per rank:

    - ring, all-gather: (P - 1) · 2·c·h_kv·d·e;
    - ulysses: (P - 1)/P · c·(2·h_q + 2·h_kv)·d·e, and c·h_q log-sum-exps likewise;
    - ulysses-ring: that within U inner ranks, then a ring of P/U of their tokens and heads;
    - tiles, a rows by b columns: (b - 1)·n·h_q·d·e of queries, (a - 1)·2·c·h_kv·d·e, and
      (b - 1)·n·h_q·(d + 2) partial outputs, maxima and sums in float32;
    - pass-q: as tiles of one row.
    """
    e = jnp.dtype(DTYPE).itemsize
    n = (p.queries or p.tokens) / p.ranks
    kv = 2 * p.share * p.kv_heads * HEAD_DIM * e
    q = n * p.heads * HEAD_DIM * e
    partial = n * p.heads * (HEAD_DIM + 2) * FLOAT32
    if p.scheme in ("ring", "all-gather"):
        each = (p.ranks - 1) * kv
    elif p.scheme in ("ulysses", "ulysses-ring"):
        inner = p.ranks if p.scheme == "ulysses" else p.inner
        swapped = 2 * q + kv + n * p.heads * FLOAT32
        each = (inner - 1) / inner * swapped + (p.ranks // inner - 1) * kv
    else:
        columns = p.inner if p.scheme == "tiles" else p.ranks
        each = (columns - 1) * (q + partial) + (p.ranks // columns - 1) * kv
    return each * p.ranks * p.cores


def winner(group: list[Row]) -> Row:
    """The fastest of rows that differ in their scheme only."""
    return min(group, key=lambda r: r.time_s)


def least_sent(group: list[Row]) -> Row:
    """The one that sends the fewest bytes."""
    return min(group, key=lambda r: r.link_bytes)
