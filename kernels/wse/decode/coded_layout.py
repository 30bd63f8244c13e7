"""Matrices brought into codes as wholes, and their codes and scales dealt to PEs as numbers are.

A matrix is brought into codes before it is dealt, so that its codes do not depend on the region. A
scale is first repeated for each element of its block and then dealt as the elements are, of which
so many as a `MatrixTile` says have the same one. Of a column of 64 rows in MXFP8, in slices of 16,

    rows    0 to 15    16 to 31    32 to 47    48 to 63
    scale   a          a           b           b
"""

from collections.abc import Callable, Collection, Mapping

import numpy as np

from emu.wse.pe.nibbles import pack_nibbles
from kernels.formats.coding import coded, spread
from kernels.formats.formats import POWER_OF_TWO, Format
from kernels.wse.decode.dealing import Array, Tiles
from kernels.wse.decode.held import MatrixTile, scale_of

Dealt = Callable[[Mapping[str, Array]], dict[str, Tiles]]
"""A model's matrices, by name, as the tiles that a layer has of them, `[..., rows, columns]`."""


def coded_tiles(
    layers: Mapping[str, Array],
    names: Collection[str],
    tiles: Mapping[str, MatrixTile],
    held: Format,
    dealt: Dealt,
) -> dict[str, Tiles]:
    """Codes of matrices on their PEs, with the scales of those blocks that a PE's tile touches.

    Args:
      layers: a model's stacked weights.
      names: which of them are brought into codes, `[..., rows that are contracted, columns]`.
      tiles: sizes of what `dealt` makes of them.
      held: the format.
      dealt: how the matrices are dealt, whatever their elements are.

    Returns:
      For each of `tiles` its codes, of 4 bits in words, and its scales, as `MatrixTile.shapes` and
      `.dtypes` say, behind the dimensions that count layers and PEs.
    """
    elements: dict[str, Array] = {}
    scales: dict[str, Array] = {}
    for name in names:
        whole = np.asarray(layers[name])
        codes = coded(whole, held)
        assert codes.scales is not None
        elements[name] = np.asarray(codes.elements)
        scales[name] = np.asarray(spread(codes.scales, whole.shape[-2:], held))
    found: dict[str, Tiles] = {}
    of_each = dealt(scales)
    for name, own in dealt(elements).items():
        down, across = tiles[name].alike(held)
        of_blocks = np.ascontiguousarray(of_each[name][..., ::down, ::across])
        if held.scale == POWER_OF_TWO:
            of_blocks = of_blocks.view(POWER_OF_TWO)
        found[scale_of(name)] = of_blocks
        found[name] = pack_nibbles(own) if held.element_bits == 4 else own
    return found


__all__ = ["coded_tiles"]
