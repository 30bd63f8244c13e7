"""Tiled matmul with its loop nest as a parameter: the optimisation ladder, step by step."""

import re
from typing import Any

import jax.numpy as jnp
import numpy as np

from kernels.trainium.gemm.blocks import all_dims
from kernels.trainium.gemm.nest import nest
from kernels.trainium.gemm.sizes import Plan, Sizes, held

SBUF_PARTITION_BYTES = 192 * 2**10  # of the smallest SBUF, Trainium1's
_BLOCK = re.compile(r"block_mn_(\d+)x(\d+)|block_bm(\d+)_bn(\d+)(_row_loads)?")
_BY_NAME = {"hoist_loads": (1, 1, False), "block_free_dims": (2, 2, False)}
_TILED = ("tiled", "tiled_lhs_pretransposed", "tiled_transposing_lhs")


def gemm(
    lhs: Any,
    rhs: Any,
    *,
    variant: str = "block_bm8_bn2_row_loads",
    lhs_loads: int | None = None,
    buffers: int = 8,
    sbuf_partition_bytes: int = SBUF_PARTITION_BYTES,
    turned_dtype: Any = None,
) -> tuple[Any, ...]:
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
      ValueError: no such variant, or sizes that are not multiples.

    Source: the loop nests of AWS's matmul tutorials (aws-neuron-sdk, NKI guides).
    """
    turned = variant == "tiled_transposing_lhs"
    s = Sizes.of(lhs, rhs, turned, buffers, sbuf_partition_bytes, turned_dtype)
    if lhs_loads is not None and not (
        variant in _TILED[:2] and 1 <= lhs_loads <= s.columns
    ):
        raise ValueError(
            f"gemm: lhs_loads is {lhs_loads}, must be 1 to n/512 = {s.columns}, "
            f"of a variant {' or '.join(_TILED[:2])}"
        )
    if variant == "block_all_dims":
        return all_dims(lhs, rhs, s)
    if variant in _TILED:
        if lhs_loads is None or lhs_loads == s.columns:
            return nest(lhs, rhs, s, Plan(turned=turned))
        return nest(lhs, rhs, s, held(s, 1, 1, lhs_loads=lhs_loads))
    a, b, row_loads = _blocks(variant)
    return nest(lhs, rhs, s, held(s, a, b, row_loads=row_loads))


def _blocks(variant: str) -> tuple[int, int, bool]:
    """Tiles of an m-block and an n-block, and whether a DMA loads a whole row of a block."""
    if (found := _BLOCK.fullmatch(variant)) is None:
        if variant not in _BY_NAME:
            names = ", ".join(
                [
                    *_TILED,
                    *_BY_NAME,
                    "block_mn_AxB",
                    "block_bmA_bnB[_row_loads]",
                    "block_all_dims",
                ]
            )
            raise ValueError(f"gemm: no variant {variant!r}, must be one of {names}")
        return _BY_NAME[variant]
    a, b = (int(x or y) for x, y in (found.group(1, 3), found.group(2, 4)))
    if not a or not b:
        raise ValueError(
            f"gemm: {variant} has a block of no tiles, must be at least 1 by 1"
        )
    return a, b, found.group(5) is not None


def untile(parts: tuple[Any, ...]) -> Any:
    """The matrix `[m, n]` of what `gemm` returns; on the host, the layout costs no time."""
    xp = np if all(isinstance(p, np.ndarray) for p in parts) else jnp
    return xp.concatenate(
        [p.transpose(0, 2, 1, 3).reshape(p.shape[0] * 128, -1) for p in parts], axis=1
    )
