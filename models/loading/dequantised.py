"""The float32 values of quantised weights, as Hugging Face's folders store them.

Every product is rounded once: an element has at most 8 bits and a scale at most 24, so that their
exact product fits float64, and float32 is the nearest to it.
"""

import math

import numpy as np
from numpy.typing import NDArray

from models.errors import ModelError

Floats = NDArray[np.float32]

# E2M1, Open Compute Project, Microscaling Formats v1.0, table 5: a sign above these magnitudes.
FP4_MAGNITUDES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
FP4 = np.array([*FP4_MAGNITUDES, *(-each for each in FP4_MAGNITUDES)], dtype=np.float32)
# E8M0 (section 5.4.1): a power of two with a bias of 127; all ones is no number.
EXPONENT_BIAS, NO_NUMBER = 127, 255
MX_BLOCK = 32
NIBBLES_OF_INT32 = 8
INT4_ZERO = 8


def of_scales(
    elements: NDArray[np.generic],
    scale: NDArray[np.generic],
    block: tuple[int, int] | None,
    where: str,
) -> Floats:
    """A matrix of FP8 with a scale for each of its blocks, or one for all of it.

    Args:
        elements: `[outputs, inputs]`.
        scale: `[ceil(outputs / block[0]), ceil(inputs / block[1])]`; of one value where `block` is
            None, whatever its axes.
        block: Outputs and inputs that share a scale. A scale for each output is
            `(1, inputs)` or wider.
        where: What errors call the matrix.

    Raises:
        ModelError: The scales are not as many as the blocks.
    """
    values = elements.astype(np.float32)
    scales = scale.astype(np.float32)
    if block is None:
        if scales.size != 1:
            raise ModelError(
                f"{where}: its scale must be one value, got {list(scales.shape)}; the file is "
                "corrupt"
            )
        return values * scales.reshape(())
    if values.ndim != 2:
        raise ModelError(
            f"{where}: must be a matrix to have scales by block, got {list(values.shape)}; the "
            "file is corrupt"
        )
    # As long as the matrix at most: a block of a billion is one block.
    rows, columns = (min(size, each) for size, each in zip(values.shape, block))
    expected = math.ceil(values.shape[0] / rows), math.ceil(values.shape[1] / columns)
    if scales.shape != expected:
        raise ModelError(
            f"{where}: its scales must be {list(expected)}, one for each block of {list(block)}, "
            f"got {list(scales.shape)}; config.json and weights must belong together"
        )
    by_row = np.repeat(scales, rows, axis=0)[: values.shape[0]]
    values *= np.repeat(by_row, columns, axis=1)[:, : values.shape[1]]
    return values


def of_int4(
    packed: NDArray[np.int32],
    scale: NDArray[np.generic],
    shape: NDArray[np.integer],
    group: int | None,
    where: str,
) -> Floats:
    """A matrix of 4-bit integers, eight in an int32, with a scale for each group of inputs.

    The first of the eight is the lowest four bits, and stands for itself less 8: `0x...a1` holds
    -7 and then 2.

    Args:
        packed: `[outputs, ceil(inputs / 8)]`.
        scale: `[outputs, inputs / group]`.
        shape: Outputs and inputs, as the file states them.
        group: Inputs that share a scale; None: all of an output.
        where: What errors call the matrix.

    Raises:
        ModelError: The three contradict each other.
    """
    stated = [int(size) for size in shape.ravel()]
    held = (
        list(packed.shape[:1]) + [packed.shape[1] * NIBBLES_OF_INT32]
        if packed.ndim == 2
        else []
    )
    # Inputs may leave a part of the last int32 empty.
    fits = (
        len(stated) == 2 == len(held)
        and stated[0] == held[0]
        and 0 < stated[1] <= held[1] < stated[1] + NIBBLES_OF_INT32
    )
    if not fits:
        raise ModelError(
            f"{where}: packed {list(packed.shape)} must hold its shape, which says {stated[:4]}; "
            "the file is corrupt"
        )
    outputs, inputs = stated
    width = inputs if group is None else group
    scales = scale.astype(np.float32)
    if inputs % width or scales.shape != (outputs, inputs // width):
        raise ModelError(
            f"{where}: its scales must be {[outputs, inputs / width]}, one for each group of "
            f"{width}, got {list(scales.shape)}; config.json and weights must belong together"
        )
    bits = packed.view(np.uint32)[..., None] >> np.arange(0, 32, 4, dtype=np.uint32)
    nibbles = (bits & 0xF).reshape(outputs, -1)[:, :inputs].astype(np.float32)
    values = (nibbles - INT4_ZERO).reshape(outputs, -1, width)
    values *= scales[..., None]
    return values.reshape(outputs, inputs)


def of_mxfp4(
    blocks: NDArray[np.uint8], scales: NDArray[np.uint8], where: str
) -> Floats:
    """Matrices in MXFP4: blocks of 32 elements of four bits with a power of two.

    The lower four bits of a byte come first: `0x42` holds 1 and then 2.

    Args:
        blocks: `[..., outputs, inputs / 32, 16]`.
        scales: `[..., outputs, inputs / 32]`; 127 is 1.
        where: What errors call them.

    Returns:
        `[..., outputs, inputs]`.

    Raises:
        ModelError: There is not one scale a block, or one is no number.
    """
    if blocks.shape != (*scales.shape, MX_BLOCK // 2):
        raise ModelError(
            f"{where}: blocks must be {[*scales.shape, MX_BLOCK // 2]} for scales "
            f"{list(scales.shape)}, got {list(blocks.shape)}; the file is corrupt"
        )
    if (scales == NO_NUMBER).any():
        raise ModelError(
            f"{where}: scales must be below {NO_NUMBER}, which is no number; the file is corrupt"
        )
    nibbles = np.stack([blocks & 0xF, blocks >> 4], axis=-1)
    elements = FP4[nibbles.reshape(*scales.shape, MX_BLOCK)]
    exponents = scales.astype(np.int32) - EXPONENT_BIAS
    values = np.ldexp(elements, exponents[..., None])
    return values.reshape(*scales.shape[:-1], -1).astype(np.float32, copy=False)


__all__ = ["of_int4", "of_mxfp4", "of_scales"]
