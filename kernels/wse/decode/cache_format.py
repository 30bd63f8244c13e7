"""What a layer's cache is held in that is in codes: formats, names, shapes and dtypes."""

from emu.annotations import DType, Shape
from kernels.formats.formats import FLOAT32, Format

SCALES = {"k": "k_scale", "v": "v_scale"}
"""What the scales of keys and of values are called."""

CACHED = ("fp8", "int8")
"""Formats that a layer's cache may be in."""


def is_cached(held: Format) -> bool:
    """Whether a cache may be in that format: a byte a number, a float32 for a token's head."""
    return held.name in CACHED and held.block == (None, 1) and held.scale == FLOAT32


def scale_shapes(slots: int, of_latents: bool) -> dict[str, Shape]:
    """Shapes of the scales in one PE: of keys and of values, or of latents and turned keys."""
    if of_latents:
        # Both lie in one key, the latent first.
        return {SCALES["k"]: (2, slots)}
    return {name: (1, slots) for name in SCALES.values()}


def cache_dtypes(held: Format) -> dict[str, DType]:
    """Dtypes of codes and scales."""
    codes = dict.fromkeys(SCALES, held.element)
    return {**codes, **dict.fromkeys(SCALES.values(), "float32")}


__all__ = ["CACHED", "SCALES", "cache_dtypes", "is_cached", "scale_shapes"]
