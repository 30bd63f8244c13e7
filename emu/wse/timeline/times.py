"""What the arrays of arrival formulas hold.

They are aliases of `np.ndarray`, so nothing is checked by them; they tell a reader. A tick of a
wafer is a cycle.
"""

from typing import TypeAlias

import numpy as np

Times: TypeAlias = np.ndarray
"""`int64[groups, pes, lines]` ticks, of the PEs of each group on each line of the mesh, or what
broadcasts to that; groups and lines do the same at once."""

Lengths: TypeAlias = np.ndarray
"""`[groups or 1, 1, lines or 1]`: wavelets of each line's streams."""

__all__ = ["Lengths", "Times"]
