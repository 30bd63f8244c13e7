"""Experts' weights in codes of 8 bits, a scale for every PE's slice of every expert's matrix.

A slice of one of DeepSeek-V3's experts on 552 x 512 PEs is 13 x 8 numbers of gate and up and 4 x 13
of down; the largest of each is the largest code. Two scales of 4 bytes are 5 % of its 156 bytes.
"""

import dataclasses

import numpy as np

from kernels.formats.coding import coded
from kernels.formats.formats import FORMATS, Format
from kernels.wse.decode.dealing import Tiles

_WHOLE = (None, None)
HELD: dict[str, Format] = {
    held.element: dataclasses.replace(held, block=_WHOLE)
    for held in (FORMATS["int8"], FORMATS["fp8"])
}
"""By dtype of the codes, the format of a PE's slice: all of it shares a scale."""

MATRICES = ("experts_gate_up", "experts_down")


def in_codes(tiles: dict[str, Tiles], held: str) -> dict[str, Tiles]:
    """The tiles of a mixture with its experts' as codes, and with their scales.

    Args:
      tiles: of `layout.expert_tiles`.
      held: dtype of the codes, one of `HELD`.

    Returns:
      `experts_gate_up` and `experts_down` in that dtype, and float32 `[..., tiles]` for each that a
      code is multiplied by.
    """
    made = dict(tiles)
    for name in MATRICES:
        found = coded(tiles[name], HELD[held])
        assert found.scales is not None
        made[name] = np.asarray(found.elements)
        made[f"{name}_scale"] = np.asarray(found.scales)[..., 0, 0]
    return made


__all__ = ["HELD", "in_codes"]
