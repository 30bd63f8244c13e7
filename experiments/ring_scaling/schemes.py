"""What each context parallel scheme sends, in closed form, to hold what was counted against."""

import jax.numpy as jnp

from experiments.ring_scaling.cases import HEAD_DIM, Point
from experiments.ring_scaling.measure import DTYPE, Row

FLOAT32 = 4  # bytes of partial outputs, maxima, sums, log-sum-exps, which stay float32


def closed_bytes(point: Point) -> float:
    """Bytes that all cores send if every block visits every rank and nothing is padded.

    With c tokens and n queries of each rank, per rank:

    - ring, all-gather: (P - 1) · 2·c·h_kv·d·e;
    - ulysses: (P - 1)/P · c·(2·h_q + 2·h_kv)·d·e, and c·h_q log-sum-exps likewise;
    - ulysses-ring: that within U inner ranks, then a ring of P/U of their tokens and heads;
    - tiles, a rows by b columns: (b - 1)·n·h_q·d·e of queries, (a - 1)·2·c·h_kv·d·e, and
      (b - 1)·n·h_q·(d + 2) partial outputs, maxima and sums in float32;
    - pass-q: as tiles of one row.
    """
    itemsize = jnp.dtype(DTYPE).itemsize
    queries = (point.queries or point.tokens) / point.ranks
    kv_bytes = 2 * point.share * point.kv_heads * HEAD_DIM * itemsize
    query_bytes = queries * point.heads * HEAD_DIM * itemsize
    partial = queries * point.heads * (HEAD_DIM + 2) * FLOAT32
    if point.scheme in ("ring", "all-gather"):
        each = (point.ranks - 1) * kv_bytes
    elif point.scheme in ("ulysses", "ulysses-ring"):
        inner = point.ranks if point.scheme == "ulysses" else point.inner
        swapped = 2 * query_bytes + kv_bytes + queries * point.heads * FLOAT32
        each = (inner - 1) / inner * swapped + (point.ranks // inner - 1) * kv_bytes
    else:
        columns = point.inner if point.scheme == "tiles" else point.ranks
        rows = point.ranks // columns
        each = (columns - 1) * (query_bytes + partial) + (rows - 1) * kv_bytes
    return each * point.ranks * point.cores


def winner(group: list[Row]) -> Row:
    """The fastest of rows that differ in their scheme only."""
    return min(group, key=lambda row: row.time_s)


def least_sent(group: list[Row]) -> Row:
    """The one that sends the fewest bytes."""
    return min(group, key=lambda row: row.link_bytes)
