"""Which columns of a table are equal."""

import numpy as np

# Any odd numbers that have nothing to do with one another.
_FACTORS = np.random.default_rng(0).integers(-(2**62), 2**62, 1 << 16) | 1


def distinct(columns: np.ndarray) -> tuple[list[int], np.ndarray]:
    """The first of equal columns, in their order, and by number which of these each column is.

    Args:
      columns: int64 `[rows, columns]`.
    """
    rows, count = columns.shape
    if count == 1:
        return [0], np.zeros(1, np.int64)
    # Sorting columns compares them row by row. Sums that depend on every row tell nearly for
    # certain which may be equal, and then one comparison tells whether they are.
    factors = np.resize(_FACTORS, rows)
    _, first, which = np.unique(
        factors @ columns, return_index=True, return_inverse=True
    )
    if not (columns == columns[:, first[which]]).all():
        _, first, which = np.unique(
            columns, axis=1, return_index=True, return_inverse=True
        )
    # From the order of sums to that of the columns.
    order = np.argsort(first)
    return first[order].tolist(), np.argsort(order)[which.reshape(-1)]


__all__ = ["distinct"]
