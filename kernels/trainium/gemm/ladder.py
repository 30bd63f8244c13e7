"""Tiled matmul with its loop nest as a parameter: the optimisation ladder, step by step."""

import re
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from emu.annotations import DType
from emu.trainium.spaces import Hbm
from kernels.refusal import refuse
from kernels.trainium.gemm.blocks import all_dims
from kernels.trainium.gemm.nest import nest
from kernels.trainium.gemm.sizes import Blocking, Sizes, held
from kernels.trainium.tiles import PARTITIONS


class Blocks(NamedTuple):
    """Tiles of an m-block and an n-block, and whether a DMA loads a whole row of a block."""

    m_tiles: int
    n_tiles: int
    row_loads: bool


# 24 MiB over 128 partitions.
SBUF_PARTITION_BYTES = 192 * 2**10  # of the smallest SBUF, Trainium1's
_BLOCK = re.compile(
    r"block_mn_(?P<mn_m>\d+)x(?P<mn_n>\d+)"
    r"|block_bm(?P<bm>\d+)_bn(?P<bn>\d+)(?P<row_loads>_row_loads)?"
)
# Steps of AWS's tutorial that have names of their own.
_BY_NAME = {
    "hoist_loads": Blocks(1, 1, row_loads=False),
    "block_free_dims": Blocks(2, 2, row_loads=False),
}
_TILED = ("tiled", "tiled_lhs_pretransposed", "tiled_transposing_lhs")


def gemm(
    lhs: Hbm,
    rhs: Hbm,
    *,
    variant: str = "block_bm8_bn2_row_loads",
    lhs_loads: int | None = None,
    buffers: int = 8,
    sbuf_partition_bytes: int = SBUF_PARTITION_BYTES,
    turned_dtype: DType | None = None,
) -> tuple[Hbm, ...]:
    """`lhsᵀ · rhs`, or `lhs · rhs` in the variant that transposes, by the nest of `variant`.

    Dimensions:
      m, k: multiples of 128: rows and columns of a stationary tile.
      n: a multiple of 512: the columns of one PSUM bank.

    Args:
      lhs: HBM `[k, m]`, transposed already; `[m, k]` for `tiled_transposing_lhs`.
      rhs: HBM `[k, n]`, of lhs' dtype.
      variant: outermost loop first, blocks counted in tiles:
        `tiled`, `tiled_lhs_pretransposed`: m, n, k; both tiles are loaded for each matmul.
        `tiled_transposing_lhs`: the same, and each lhs tile is transposed before its matmul.
        `hoist_loads`: m, n, k; lhs is loaded once per m.
        `block_mn_AxB`, `block_bmA_bnB`, `block_free_dims` (2 by 2): m-block of A, n-block of B,
        then m, n, k inside them; lhs is loaded once per m-block, rhs once per m- and n-block.
        `block_bmA_bnB_row_loads`: the same, one DMA for all of a block's columns of a k tile.
        `block_all_dims`: n-block of 2, k-block of 8, m-block of 16 (fewer where none could be
        loaded ahead); sums live in SBUF.
      lhs_loads: of `tiled`: how often each lhs tile is loaded, where some reloads are removed; None
        as often as written, n/512 times.
      buffers: depth of the rings of tiles that are loaded for each matmul.
      sbuf_partition_bytes: room on each partition: what is left is used to load ahead, and a block
        of rhs that does not fit is loaded again for each of the block's m.
      turned_dtype: of a transposed tile in PSUM: float32 on Trainium1, by default the operands'.

    Returns:
      The result in HBM, by column block: arrays `[m/128, blocks, 128, columns]`; see `untile`.

    Raises:
      LimitExceeded: no such variant, or sizes that are not multiples.

    Source: the loop nests of AWS's matmul tutorials (aws-neuron-sdk, NKI guides).
    """
    turned = variant == "tiled_transposing_lhs"
    sizes = Sizes.of(lhs, rhs, turned, buffers, sbuf_partition_bytes, turned_dtype)
    _check_lhs_loads(variant, lhs_loads, sizes)
    if variant == "block_all_dims":
        return all_dims(lhs, rhs, sizes)
    if variant not in _TILED:
        blocks = _blocks(variant)
        blocking = held(
            sizes, blocks.m_tiles, blocks.n_tiles, row_loads=blocks.row_loads
        )
    # As often as written: nothing is held from one matmul to the next.
    elif lhs_loads is None or lhs_loads == sizes.columns:
        blocking = Blocking(turned=turned)
    else:
        blocking = held(sizes, 1, 1, lhs_loads=lhs_loads)
    return nest(lhs, rhs, sizes, blocking)


def _check_lhs_loads(variant: str, lhs_loads: int | None, sizes: Sizes) -> None:
    if lhs_loads is None:
        return
    not_turning = _TILED[:2]
    if variant not in not_turning or not 1 <= lhs_loads <= sizes.columns:
        refuse(
            f"gemm: lhs_loads is {lhs_loads}, must be 1 to n/512 = {sizes.columns}, "
            f"of a variant {' or '.join(not_turning)}"
        )


def _blocks(variant: str) -> Blocks:
    """The blocks that a variant's name tells."""
    if variant in _BY_NAME:
        return _BY_NAME[variant]
    found = _BLOCK.fullmatch(variant)
    if found is None:
        patterns = ("block_mn_AxB", "block_bmA_bnB[_row_loads]", "block_all_dims")
        names = ", ".join([*_TILED, *_BY_NAME, *patterns])
        refuse(f"gemm: no variant {variant!r}, must be one of {names}")
    m_tiles = int(found["mn_m"] or found["bm"])
    n_tiles = int(found["mn_n"] or found["bn"])
    if not m_tiles or not n_tiles:
        refuse(f"gemm: {variant} has a block of no tiles, must be at least 1 by 1")
    return Blocks(m_tiles, n_tiles, found["row_loads"] is not None)


def untile(
    parts: tuple[jax.Array, ...] | tuple[np.ndarray, ...],
) -> jax.Array | np.ndarray:
    """The matrix `[m, n]` of what `gemm` returns; on the host, the layout costs no time.

    Args:
      parts: arrays `[m/128, blocks, 128, columns]`; the result is NumPy's if all of them are.
    """
    on_host = all(isinstance(part, np.ndarray) for part in parts)
    xp = np if on_host else jnp
    matrices = []
    for part in parts:
        rows = part.shape[0] * PARTITIONS
        # `[m/128, blocks, 128, columns]`: a matrix row is one row of all blocks, so rows go before
        # blocks.
        by_row = part.transpose(0, 2, 1, 3)
        matrices.append(by_row.reshape(rows, -1))
    return xp.concatenate(matrices, axis=1)
