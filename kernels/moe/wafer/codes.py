"""Experts' weights in codes of 8 bits, a scale for every PE's slice of every expert's matrix.

A slice of one of DeepSeek-V3's experts on 552 x 512 PEs is 13 x 8 numbers of gate and up and 4 x 13
of down; the largest of each is the largest code. Two scales of 4 bytes are 5 % of its 156 bytes.
"""

import ml_dtypes
import numpy as np

from kernels.wse.decode.dealing import Tiles

GREATEST = {"int8": 127.0, "float8_e4m3fn": 448.0}
"""The largest number of each dtype of codes."""

HELD = tuple(GREATEST)
MATRICES = ("experts_gate_up", "experts_down")


def in_codes(tiles: dict[str, Tiles], held: str) -> dict[str, Tiles]:
    """The tiles of a mixture with its experts' as codes, and with their scales.

    Args:
      tiles: of `layout.expert_tiles`.
      held: dtype of the codes.

    Returns:
      `experts_gate_up` and `experts_down` in that dtype, and float32 `[..., tiles]` for each that a
      code is multiplied by.
    """
    coded = dict(tiles)
    for name in MATRICES:
        numbers = np.asarray(tiles[name], np.float32)
        greatest = np.abs(numbers).max((-2, -1))
        # Of nothing but zeros, any scale will do.
        scales = np.where(greatest > 0, greatest / GREATEST[held], 1).astype(np.float32)
        quotients = numbers / scales[..., None, None]
        if held == "int8":
            coded[name] = np.rint(quotients).astype(np.int8)
        else:
            # Rounding may take the largest past the format's end, where it has no number.
            most = GREATEST[held]
            within = np.clip(quotients, -most, most)
            coded[name] = within.astype(ml_dtypes.float8_e4m3fn)
        coded[f"{name}_scale"] = scales
    return coded


__all__ = ["GREATEST", "HELD", "in_codes"]
