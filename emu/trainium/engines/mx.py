"""Microscaled (MX) data on NeuronCore-v4: quantised on the Vector Engine, multiplied on Tensor.

A tile of elements is `[p, n, 4]`, p a multiple of 32: the four elements of a partition belong to
the contracted dimension and enter the array at once, so 128 partitions contract 512. A group of
8 partitions x 4 elements shares one E8M0 scale; scales are a tile `uint8[p / 8, n]`, or, as the
hardware has them, `uint8[p, n]` with the 4 of each quadrant of 32 partitions in its first 4 rows,
which takes the same bytes of every partition. MXFP8
elements are float8_e4m3fn or float8_e5m2; MXFP4 ones are packed two to a byte, `uint8[p, n, 2]`,
as `emu.numerics.fp4_pack` does.

Sources: NKI ISA reference and architecture guide of NeuronCore-v4, SDK 2.32. No formulas are
published: quantize_mx takes four elements a partition and cycle, N/4; nc_matmul_mx has the cycles
of a bfloat16 matmul with four times the FLOPs, MXFP4 as MXFP8.
"""

import jax
import jax.numpy as jnp
import numpy as np

from emu import numerics
from emu.annotations import KnownInt
from emu.checks import precision
from emu.datasheet import Device
from emu.errors import LimitExceeded
from emu.instruction import Cost, Operand, instruction, limit
from emu.trainium.datasheets.limits import (
    MX_DESTINATION_BYTES,
    MX_PARTITIONS,
    MX_QUAD,
    MX_ROWS,
)
from emu.trainium.engines.cost import compute, needs
from emu.trainium.engines.memory import f32
from emu.trainium.engines.tensor import stream_cost
from emu.trainium.spaces import Psum, Sbuf

FP8 = tuple(np.dtype(x) for x in (jnp.float8_e4m3fn, jnp.float8_e5m2))
UINT8 = np.dtype(np.uint8)
# The hardware's scale is twice that of the specification's sample conversion.
# 480 has the exponent of E4M3's largest value, 448: at the sample's scale, 1, it saturates to 448;
# at scale 2 it is 240 and comes back whole.
HEADROOM = 1


def _groups(tile: jax.Array) -> jax.Array:
    """`[p, n, 4]` to `[p / 8, n, 32]`, a group in the last dimension."""
    partitions, columns, _ = tile.shape
    groups = partitions // MX_PARTITIONS
    # Element q of partition 8 g + r is number 4 r + q of group g: a group lies across 8 partitions,
    # where a reshape alone would take 32 elements of one.
    blocks = tile.reshape(groups, MX_PARTITIONS, columns, MX_QUAD)
    return jnp.swapaxes(blocks, 1, 2).reshape(groups, columns, numerics.GROUP)


def _tile(grouped: jax.Array) -> jax.Array:
    """The inverse of `_groups`."""
    groups, columns, _ = grouped.shape
    blocks = grouped.reshape(groups, columns, MX_PARTITIONS, MX_QUAD)
    partitions = groups * MX_PARTITIONS
    return jnp.swapaxes(blocks, 1, 2).reshape(partitions, columns, MX_QUAD)


def _is_spread(partitions: int, scale: tuple[int, ...]) -> bool:
    """Whether scales lie in the first rows of quadrants, not one behind the other."""
    return scale[0] == partitions


def _scale_rows(partitions: int) -> np.ndarray:
    """The rows of spread scales: of 64 partitions 0, 1, 2, 3, 32, 33, 34, 35."""
    groups = np.arange(partitions // MX_PARTITIONS)
    per_quadrant = MX_ROWS // MX_PARTITIONS
    return groups // per_quadrant * MX_ROWS + groups % per_quadrant


def _check(name: str, what: str, elements: Operand, scale: Operand) -> None:
    """Raises `LimitExceeded` unless these are a tile of MX elements and its scales."""
    packed = elements.dtype == UINT8
    partitions, columns, last = (
        elements.shape if len(elements.shape) == 3 else (0, 0, 0)
    )
    # Two MXFP4 elements to a byte: the four of a quad are two bytes.
    expected = MX_QUAD // 2 if packed else MX_QUAD
    if last != expected or not (packed or elements.dtype in FP8):
        raise LimitExceeded(
            f"{name}: {what} is {elements.dtype}{list(elements.shape)}, must be "
            f"{' or '.join(map(str, FP8))} [p, n, {MX_QUAD}], or packed MXFP4 uint8 [p, n, 2]"
        )
    if partitions % MX_ROWS:
        raise LimitExceeded(
            f"{name}: {what} has {partitions} partitions, must be a multiple of {MX_ROWS}"
        )
    groups = partitions // MX_PARTITIONS
    allowed = (groups, columns), (partitions, columns)
    if scale.dtype != UINT8 or scale.shape not in allowed:
        raise LimitExceeded(
            f"{name}: scale of {what} is {scale.dtype}{list(scale.shape)}, must be "
            f"uint8{list(allowed[0])}, or {list(allowed[1])} with 4 rows of each {MX_ROWS} used"
        )


def _quantize_cost(device: Device, dst: Operand, scale: Operand, src: Operand) -> Cost:
    name = "trn.quantize_mx"
    needs(name, device)
    _check(name, "destination", dst, scale)
    if dst.dtype == UINT8 or src.dtype.itemsize != 2 or src.shape != dst.shape:
        raise LimitExceeded(
            f"{name}: {src.dtype}{list(src.shape)} to {dst.dtype}{list(dst.shape)}, must be a "
            "16-bit float to MXFP8 of the same shape"
        )
    cycles = src.free / MX_QUAD
    flops = 2 * src.size
    writes = dst, scale
    return compute(
        device, name, "vector", cycles, writes, (src,), flops=flops, across=True
    )


@instruction(
    "trn.quantize_mx", cost=_quantize_cost, reads=("sbuf",), writes=("sbuf", "sbuf")
)
def quantize_mx(dst: Sbuf, scale: Sbuf, src: Sbuf) -> tuple[Sbuf, Sbuf]:
    """MXFP8 elements and scales of `src`, all in SBUF; NeuronCore-v4.

    The scale is twice that of the OCP specification's sample conversion, so that a group's largest
    value rounds rather than saturates.

    Args:
      dst: `[p, n, 4]`, float8_e4m3fn or float8_e5m2.
      scale: `uint8[p / 8, n]`, or `uint8[p, n]`, of which 4 rows of each 32 are written.
      src: `[p, n, 4]`, bfloat16 or float16.
    """
    precision.refuse_exact("trn.quantize_mx", "a scale shared by rounded elements")
    elements, scales = numerics.mx_quantize(_groups(src), dst.dtype, headroom=HEADROOM)
    if _is_spread(src.shape[0], scale.shape):
        scales = scale.at[_scale_rows(src.shape[0])].set(scales)
    return _tile(elements), scales


def _matmul_cost(
    device: Device,
    dst: Operand,
    stationary: Operand,
    moving: Operand,
    stationary_scale: Operand,
    moving_scale: Operand,
    accumulate: Operand,
) -> Cost:
    name = "trn.nc_matmul_mx"
    needs(name, device)
    _check(name, "stationary", stationary, stationary_scale)
    _check(name, "moving", moving, moving_scale)
    k, m, _ = stationary.shape
    n = moving.shape[1]
    limit(name, "partitions", k, device.partitions)
    limit(name, "stationary columns", m, device.partitions)
    if m % 2:
        raise LimitExceeded(
            f"{name}: stationary has {m} columns, must be an even number"
        )
    # A bank of PSUM: 512 sums in float32, 1,024 in bfloat16.
    limit(name, "moving columns", n, MX_DESTINATION_BYTES // dst.dtype.itemsize)
    # Four elements of a partition enter at once: 4 · k · m · n multiply-adds in the n cycles in
    # which a bfloat16 matmul does k · m · n. Of 128 partitions, 128 and 512 columns: 2 · 4 · 128 ·
    # 128 · 512 = 67.1 MFLOPs in 512 cycles of 2.4 GHz, which is the sheet's peak of 315 TFLOP/s.
    return stream_cost(
        device,
        m,
        max(min(device.min_interval_cycles, m), n),
        2 * MX_QUAD * k * m * n,
        counts={"adjusted_flops": 2 * k * m * n},
    )


@instruction(
    "trn.nc_matmul_mx",
    cost=_matmul_cost,
    reads=("sbuf", "sbuf", "sbuf", "sbuf", "register"),
    writes="psum",
    partial=True,
    adds_if=4,
)
def nc_matmul_mx(
    dst: Psum,
    stationary: Sbuf,
    moving: Sbuf,
    stationary_scale: Sbuf,
    moving_scale: Sbuf,
    accumulate: KnownInt,
) -> Psum:
    """`dst[m, n] (+)= Σ stationary[k, m, q] · moving[k, n, q]` with scales applied; NeuronCore-v4.

    Args:
      dst: PSUM `[m, n]`, float32 (n ≤ 512) or bfloat16 (n ≤ 1024); sums are float32.
      stationary: SBUF, MXFP8 `[k, m, 4]` or packed MXFP4 `[k, m, 2]`, k ≤ 128, m ≤ 128 and even.
      moving: SBUF, likewise `[k, n, ...]`; its format may differ.
      stationary_scale: SBUF `uint8[k / 8, m]`, or `uint8[k, m]` with 4 rows of each 32 used.
      moving_scale: SBUF `uint8[k / 8, n]`, or `uint8[k, n]`.
      accumulate: a known integer: 0 overwrites `dst`, else adds to it.
    """
    precision.refuse_exact("trn.nc_matmul_mx", "a tile of MX elements")
    left = _values(stationary, stationary_scale)
    right = _values(moving, moving_scale)
    product = jnp.einsum("kmq,knq->mn", left, right, precision="highest")
    added = f32(dst) + product
    return numerics.cast(jnp.where(accumulate != 0, added, product), dst.dtype)


def _values(elements: jax.Array, scale: jax.Array) -> jax.Array:
    """What MX elements stand for, float32 `[p, n, 4]`."""
    values = numerics.fp4_unpack(elements) if elements.dtype == UINT8 else f32(elements)
    if _is_spread(len(elements), scale.shape):
        scale = scale[_scale_rows(len(elements))]
    return _tile(numerics.mx_dequantize(_groups(values), scale))
