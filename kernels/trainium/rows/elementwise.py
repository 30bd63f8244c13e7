"""RMSNorm, RoPE and SwiGLU from HBM to HBM: row tiles streamed through Vector and Scalar Engine."""

import jax.numpy as jnp

from emu.trainium.engines.memory import sbuf
from emu.trainium.isa import activation, tensor_tensor
from emu.trainium.spaces import Hbm, Sbuf
from kernels.refusal import refuse
from kernels.trainium.layer.heads import rope
from kernels.trainium.layer.norm import rms_norm
from kernels.trainium.streaming import fetch, over_rows, row_count
from kernels.trainium.tiles import largest_divisor


def rms_norm_rows(
    x: Hbm,
    weight: Hbm,
    *,
    eps: float = 1e-6,
    buffers: int = 2,
) -> Hbm:
    """RMSNorm of every row: `x · rsqrt(mean(x²) + eps) · weight`.

    Dimensions:
      R: rows, in tiles of at most 128. N: elements of a row.

    Args:
      x: HBM `[R, N]`.
      weight: HBM `[1, N]`, loaded once.
      eps: added to the mean square.
      buffers: depth of every ring of tiles.

    Returns:
      HBM `[R, N]`, dtype of `x`; sums in float32.

    Pseudocode:
      for rows: load x; s = sum of squares; store x · rsqrt(s / N + eps) · weight
    """
    rows = row_count(x)
    size = x.shape[1]
    # Loaded outside the loop over rows, once for all tiles, and into every partition, as an
    # engine's lane reads its own only.
    repeated = jnp.broadcast_to(weight, (rows, size))
    in_every_row = fetch(repeated)

    def normalised(x: Sbuf) -> Sbuf:
        return rms_norm(
            x,
            in_every_row,
            size=size,
            eps=eps,
            buffers=buffers,
        )

    return over_rows(normalised, x, buffers=buffers)


def rope_rows(
    x: Hbm,
    cos: Hbm,
    sin: Hbm,
    *,
    buffers: int = 2,
) -> Hbm:
    """Rotary embedding: turns the pairs `(i, i + D/2)` of every head by their token's angles.

    Dimensions:
      R: tokens, in tiles of at most 128. H: heads. D: head_dim.

    Args:
      x: HBM `[R, H, D]`.
      cos, sin: HBM float32 `[R, D/2]`.
      buffers: depth of every ring of tiles.

    Returns:
      HBM `[R, H, D]`, dtype of `x`; products in float32.

    Pseudocode:
      for rows: load x, cos, sin; store (a cos - b sin, b cos + a sin) of each pair (a, b)
    """
    *_, head_dim = x.shape
    if head_dim % 2:
        refuse(f"rope_rows: head_dim is {head_dim}, must be even")

    def turned(x: Sbuf, cos: Sbuf, sin: Sbuf) -> Sbuf:
        return rope(x, cos, sin, buffers=buffers)

    return over_rows(turned, x, cos, sin, buffers=buffers)


def swiglu_rows(
    gate: Hbm,
    up: Hbm,
    *,
    piece: int = 2048,
    buffers: int = 2,
) -> Hbm:
    """The gate of an MLP: `silu(gate) · up`, elementwise.

    Dimensions:
      R, N: rows and their elements; rows are cut into pieces, which then count as rows.

    Args:
      gate, up: HBM `[R, N]`.
      piece: most elements of a partition in one tile.
      buffers: depth of every ring of tiles.

    Returns:
      HBM `[R, N]`, dtype of `gate`; `silu(gate)` is rounded to that dtype too, with which the
      Vector Engine multiplies twice as fast.

    Pseudocode:
      for tiles: load gate, up; store silu(gate) · up
    """
    # 4096 rows of 14336 elements in pieces of at most 2048 are 28672 rows of 2048.
    columns = largest_divisor(gate.shape[1], piece)

    def gated(gate: Sbuf, up: Sbuf) -> Sbuf:
        # Two engines, one after the other on a tile, but on two tiles at once: Scalar activates the
        # next while Vector multiplies this one.
        activated = sbuf(*gate.shape, dtype=gate.dtype, buffers=buffers)
        activated = activation(activated, gate, op="silu")
        product = sbuf(*gate.shape, dtype=gate.dtype, buffers=buffers)
        return tensor_tensor(product, activated, up, op="multiply")

    # Element by element a row's pieces have nothing to do with each other.
    gate_pieces = gate.reshape(-1, columns)
    up_pieces = up.reshape(-1, columns)
    products = over_rows(
        gated,
        gate_pieces,
        up_pieces,
        buffers=buffers,
    )
    return products.reshape(gate.shape)
