"""Names for annotations: what an array over PEs, words or cycles holds.

They are aliases of `np.ndarray`, so nothing is checked by them; they tell a reader.
"""

from typing import TypeAlias

import numpy as np

Grid: TypeAlias = np.ndarray
"""`[height, width]`, or `[positions, height, width]`: an entry for each PE where it stands."""

PEs: TypeAlias = np.ndarray
"""Integers: flat indices `y * width + x` of some PEs."""

PerPE: TypeAlias = np.ndarray
"""`[PEs]`: an entry for every PE, by flat index."""

Mask: TypeAlias = np.ndarray
"""Bools: which entries of another array are meant."""

CycleArray: TypeAlias = np.ndarray
"""`int64`: cycles in which things happen, of PEs `[PEs]` or of their words `[PEs, words]`."""

WordArray: TypeAlias = np.ndarray
"""`uint32[PEs, words]`: what wavelets carry."""

WordPlaces: TypeAlias = np.ndarray
"""`int64[PEs, words]`: where words lie in the arrays of a stream."""

Elements: TypeAlias = np.ndarray
"""`[PEs, elements]`: what a buffer holds, or a part of it."""

Codes: TypeAlias = np.ndarray
"""Integers: numbers of instructions, or the codes below zero of `events.py`."""

Counts: TypeAlias = np.ndarray
"""Integers: how many of something, for each of some PEs."""

__all__ = [
    "Codes",
    "Counts",
    "CycleArray",
    "Elements",
    "Grid",
    "Mask",
    "PEs",
    "PerPE",
    "WordArray",
    "WordPlaces",
]
