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
    ranks = point.ranks
    itemsize = jnp.dtype(DTYPE).itemsize
    # Of one rank, as the closed form counts; a fraction where they do not divide.
    queries = (point.queries or point.tokens) / ranks
    kv_bytes = 2 * point.share * point.kv_heads * HEAD_DIM * itemsize
    query_bytes = queries * point.heads * HEAD_DIM * itemsize
    log_sum_bytes = queries * point.heads * FLOAT32
    partial_bytes = queries * point.heads * (HEAD_DIM + 2) * FLOAT32
    if point.scheme in ("ring", "all-gather"):
        each = (ranks - 1) * kv_bytes
    elif point.scheme in ("ulysses", "ulysses-ring"):
        inner = ranks if point.scheme == "ulysses" else point.inner
        # Queries go out to their heads' ranks, and outputs of their size come back.
        swapped = 2 * query_bytes + kv_bytes + log_sum_bytes
        exchanged = (inner - 1) / inner * swapped
        around = (ranks // inner - 1) * kv_bytes
        # After the exchange a rank has a U-th of the heads of U times the tokens: a block's bytes
        # stay those of one rank's tokens with all heads.
        each = exchanged + around
    else:
        columns = point.inner if point.scheme == "tiles" else ranks
        rows = ranks // columns
        along_rows = (columns - 1) * (query_bytes + partial_bytes)
        along_columns = (rows - 1) * kv_bytes
        each = along_rows + along_columns
    return each * ranks * point.cores


def winner(group: list[Row]) -> Row:
    """The fastest of rows that differ in their scheme only."""
    return min(group, key=lambda row: row.time_s)


def least_sent(group: list[Row]) -> Row:
    """The one that sends the fewest bytes."""
    return min(group, key=lambda row: row.link_bytes)
