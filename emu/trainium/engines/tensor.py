"""The Tensor Engine: matmul accumulated in PSUM, and transpose.

`m` is columns of the stationary tile, `n` of the moving one. The distance between two instructions
is AWS's published initiation interval (NKI ISA reference, SDK 2.26.1); what it leaves out, the part
of a weight load that stays exposed and the fixed latency, is fitted to profiles (datasheets).

Where its operands may start is checked with all other rules of tiles, `emu.checks.rules`.
"""

from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np
from jax import lax

from emu import given, numerics
from emu.annotations import KnownInt, Tile
from emu.checks import precision
from emu.datasheet import Device
from emu.errors import LimitExceeded
from emu.instruction import Cost, Operand, instruction, limit
from emu.tracing import side_by_side
from emu.trainium.engines.cost import needs
from emu.trainium.engines.memory import f32
from emu.trainium.spaces import Psum, Sbuf, Stationary

F32 = np.dtype(np.float32)
BF16 = np.dtype(jnp.bfloat16)
# The stationary tile's place among a matmul's operands, destination first.
STATIONARY = 1


def stream_cost(
    device: Device,
    columns: int,
    interval: float,
    flops: int,
    *,
    instructions: int = 1,
    loads: bool = True,
    counts: Mapping[str, int] | None = None,
) -> Cost:
    """A moving tile streamed in `interval` cycles by `columns` columns of the array.

    The weight load runs behind the instruction before if its operand was ready early enough; the
    rest of it, in each of the `instructions` that make this one, is lost time.

    Example: 128 stationary columns, 512 moving ones, bfloat16, on Trainium2. The stationary tile
    enters at 4 columns a cycle, 128/4 = 32 cycles. The running matmul hides all of them but 8, if
    the tile was there 32 cycles before this matmul starts (`lead_cycles`); a tile that comes later
    delays the start by what is missing. The engine is busy 512 + 8 = 520 cycles, 8 of them lost to
    `weight_load`; the result is written 512 + 128 (a cycle a column) + 389 (fixed) = 1,029 cycles
    after the start. In a chain of such matmuls 512/520 = 98.5 % of the peak is left.

    Args:
      device: the machine.
      columns: of the stationary tile.
      interval: cycles of all instructions together, without weight loads.
      flops: issued.
      instructions: how many the profiler shows.
      loads: whether a stationary tile is loaded.
      counts: further counters.
    """
    exposed = device.weight_load_exposed_cycles if loads else 0
    # The last moving column passes the stationary columns one a cycle before its sum is out.
    fixed = columns + device.tensor_latency_cycles
    load_cycles = columns / device.weight_load_columns_per_cycle
    return Cost(
        engine="tensor",
        busy_cycles=interval + instructions * exposed,
        # An exposed load holds up what follows it, not the result before it: of two instructions
        # one load lies before the last result, and both keep the engine busy.
        latency_cycles=interval + (instructions - 1) * exposed + fixed,
        flops=flops,
        counts=counts or {},
        handover_cycles=device.handover_cycles,
        lead_cycles={STATIONARY: load_cycles} if loads else {},
        lost={"weight_load": instructions * exposed} if loads else {},
        # Of rows and columns left idle only the columns lower the utilisation that throttles:
        # counting rows too would slow T2-TE-2's half-empty tiles 20 % more than was measured.
        duty=columns / device.partitions,
    )


def _check_matmul(
    device: Device, name: str, dst: Operand, k: int, m: int, n: int
) -> None:
    allowed = device.matmul_result_dtypes
    if dst.dtype.name not in allowed:
        raise LimitExceeded(
            f"{name}: destination is {dst.dtype}, must be {' or '.join(allowed)} in the PSUM of "
            f"{device.name}"
        )
    limit(name, "stationary rows", k, device.partitions)
    limit(name, "stationary columns", m, device.partitions)
    # The sheet's limit counts float32 columns: up to Trainium2 512, a bank; on Trainium3 4,096, the
    # 16 KiB of a partition, which hold 8,192 sums in bfloat16.
    columns = device.moving_free_limit * F32.itemsize // dst.dtype.itemsize
    limit(name, "moving columns", n, columns)


def _moving_cost(
    device: Device,
    name: str,
    dst: Operand,
    stationary: Operand,
    moving: Operand,
    *,
    loads: bool,
    tf32: bool = False,
    onezero: bool = False,
) -> Cost:
    """A matmul of `[k, m]` and `[k, n]`, or of `[k, 2, m]` and `[k, 2, n]`."""
    k = stationary.shape[0]
    m = stationary.shape[-1]
    n = moving.shape[-1]
    _check_matmul(device, name, dst, k, m, n)
    # float32 takes 4 cycles a moving column. Profiles show them as two instructions of two cycles a
    # column each, so two weight loads are exposed.
    wide = not tf32 and F32 in (stationary.dtype, moving.dtype)
    passes = device.fp32_passes if wide else 1
    # Of a tile of ones and zeros the lower half of each float32 is nothing to pass again.
    halves = 2 if wide and onezero else 1
    passes = max(1, passes // halves)
    # Published as max(min(64, m), n). One moving column takes 64 cycles with 128 stationary ones,
    # and 16 with 16: a matrix times one vector reaches 1/64 of the peak at most.
    interval = max(min(device.min_interval_cycles, m), n) * passes
    return stream_cost(
        device,
        m,
        interval,
        2 * stationary.size * n,
        instructions=2 // halves if wide else 1,
        loads=loads,
        counts={"adjusted_flops": 2 * k * m * n * passes},
    )


def _matmul_cost(
    device: Device,
    dst: Operand,
    stationary: Operand,
    moving: Operand,
    accumulate: Operand,
    *,
    tf32: bool = False,
    onezero: bool = False,
) -> Cost:
    return _moving_cost(
        device,
        "trn.nc_matmul",
        dst,
        stationary,
        moving,
        loads=True,
        tf32=tf32,
        onezero=onezero,
    )


def _check_floats(name: str, dimensions: int, **operands: Tile) -> None:
    """Raises `LimitExceeded` for what the array cannot take: integers, or other dimensions."""
    # Side by side a host takes the products of several tiles as one, over a dimension more.
    in_order = side_by_side.is_of_a_machine()
    for what, operand in operands.items():
        is_float = jnp.issubdtype(operand.dtype, jnp.floating)
        if not is_float or (in_order and operand.ndim != dimensions):
            given.refuse(
                f"{name}: {what} is {given.described(operand)}, must be floats of {dimensions} "
                "dimensions"
            )


def _as_read(operand: Tile, tf32: bool) -> Tile:
    """An operand as the array takes it."""
    if operand.dtype.itemsize == 1:
        operand = f32(operand)
    if tf32 and not precision.is_exact():
        operand = lax.reduce_precision(f32(operand), exponent_bits=8, mantissa_bits=10)
    # In two halves: XLA multiplies bfloat16 as such on a CPU only where more than the first
    # dimension is summed over; else it widens both operands, or fails where one is batched.
    rows, *others = operand.shape
    halves = 2 - rows % 2
    return operand.reshape(halves, rows // halves, *others)


def _product(
    dst: Psum,
    stationary: Tile,
    moving: Tile,
    accumulate: KnownInt,
    tf32: bool = False,
) -> Psum:
    """`dst (+)=` the sum over every dimension of the operands but the last, in float32.

    Raises:
      ValueError: the operands have not the same dimensions to sum over.
    """
    # Here, where the tiles are still the kernel's own: JAX would name halves of them.
    if stationary.shape[:-1] != moving.shape[:-1]:
        raise ValueError(
            f"contraction of stationary {list(stationary.shape)} and moving {list(moving.shape)} "
            "differ: all dimensions but the last are summed over and must be the same"
        )
    left = _as_read(stationary, tf32)
    right = _as_read(moving, tf32)
    # Over the halves, the rows and, of double rows, t.
    summed = tuple(range(left.ndim - 1))
    product = lax.dot_general(
        left,
        right,
        ((summed, summed), ((), ())),
        precision="highest",
        preferred_element_type=precision.arithmetic_dtype(),
    )
    # Of one row it is a plain multiplication, which XLA would make one with the addition.
    if stationary[..., 0].size == 1:
        product = numerics.rounded(product)
    added = f32(dst) + product
    # Chosen, not multiplied by 0: a fresh PSUM tile holds NaN, and 0 · NaN would stay in the sum.
    return numerics.cast(jnp.where(accumulate != 0, added, product), dst.dtype)


@instruction(
    "trn.nc_matmul",
    cost=_matmul_cost,
    reads=("sbuf", "sbuf", "register"),
    writes="psum",
    partial=True,  # accumulation into a bank pipelines: it waits for readers, not for itself
    adds_if=2,
)
def nc_matmul(
    dst: Psum,
    stationary: Sbuf,
    moving: Sbuf,
    accumulate: KnownInt,
    *,
    tf32: bool = False,
    onezero: bool = False,
) -> Psum:
    """`dst[m, n] (+)= stationary[k, m]ᵀ · moving[k, n]`, accumulated in float32 in PSUM.

    Args:
      dst: PSUM, float32; on NeuronCore-v4 also bfloat16, to which each sum is rounded.
      stationary: SBUF, float32 (four times the cycles), bfloat16, float16 or an 8-bit float.
      moving: SBUF, likewise.
      accumulate: a known integer: 0 overwrites `dst`, else adds to it.
      tf32: takes float32 operands as TF32, 10 bits of mantissa, at bfloat16's rate.
      onezero: one of the tiles holds ones and zeros only, which halves the passes of float32 (NKI
        ISA reference: 2x better performance).
    """
    _check_floats("trn.nc_matmul", 2, stationary=stationary, moving=moving)
    return _product(dst, stationary, moving, accumulate, tf32)


def _double_row_cost(
    device: Device,
    dst: Operand,
    stationary: Operand,
    moving: Operand,
    accumulate: Operand,
) -> Cost:
    name = "trn.nc_matmul_double_row"
    needs(name, device)
    for x in (stationary, moving):
        if x.dtype.itemsize != 1 or x.shape[1] != 2:
            raise LimitExceeded(
                f"{name}: operand is {x.dtype}{list(x.shape)}, must be an 8-bit float [k, 2, ...]"
            )
    return _moving_cost(device, name, dst, stationary, moving, loads=True)


@instruction(
    "trn.nc_matmul_double_row",
    cost=_double_row_cost,
    reads=("sbuf", "sbuf", "register"),
    writes="psum",
    partial=True,
    adds_if=2,
)
def nc_matmul_double_row(
    dst: Psum, stationary: Sbuf, moving: Sbuf, accumulate: KnownInt
) -> Psum:
    """`dst[m, n] (+)= Σₜ stationary[k, t, m]ᵀ · moving[k, t, n]`, t < 2, 8-bit floats.

    Two rows a cycle from NeuronCore-v3 on: the cycles of a bfloat16 matmul, twice the FLOPs.
    `accumulate` as in `nc_matmul`.
    """
    _check_floats("trn.nc_matmul_double_row", 3, stationary=stationary, moving=moving)
    return _product(dst, stationary, moving, accumulate)


def _load_stationary_cost(device: Device, dst: Operand, stationary: Operand) -> Cost:
    name = "trn.nc_load_stationary"
    columns = stationary.shape[-1]
    limit(name, "stationary columns", columns, device.partitions)
    cycles = columns / device.weight_load_columns_per_cycle
    return Cost(
        engine="weight_load",
        busy_cycles=cycles,
        latency_cycles=cycles,
        moved_bytes={"sbuf_read": stationary.nbytes},
        # The part that nothing hides holds up the Tensor Engine, without this load waiting for it.
        taken={"tensor": device.weight_load_exposed_cycles},
    )


@instruction(
    "trn.nc_load_stationary",
    cost=_load_stationary_cost,
    reads=("sbuf",),
    writes="array",
)
def nc_load_stationary(dst: Stationary, stationary: Sbuf) -> Stationary:
    """Puts `stationary[k, m]` into the array, behind the matmul that is running.

    For a stationary tile that several moving tiles share: see `nc_matmul_moving`.

    Args:
      dst: in the array (`memory.array`), shape and dtype of `stationary`.
      stationary: SBUF `[k, m]`, k and m at most 128.
    """
    _check_floats("trn.nc_load_stationary", 2, stationary=stationary)
    return stationary


def _matmul_moving_cost(
    device: Device, dst: Operand, array: Operand, moving: Operand, accumulate: Operand
) -> Cost:
    return _moving_cost(device, "trn.nc_matmul_moving", dst, array, moving, loads=False)


@instruction(
    "trn.nc_matmul_moving",
    cost=_matmul_moving_cost,
    reads=("array", "sbuf", "register"),
    writes="psum",
    partial=True,
    adds_if=2,
)
def nc_matmul_moving(
    dst: Psum, array: Stationary, moving: Sbuf, accumulate: KnownInt
) -> Psum:
    """`nc_matmul` with a tile that is already in the array, from `nc_load_stationary`."""
    _check_floats("trn.nc_matmul_moving", 2, array=array, moving=moving)
    return _product(dst, array, moving, accumulate)


def _transpose_cost(device: Device, dst: Operand, src: Operand) -> Cost:
    name = "trn.nc_transpose"
    rows = src.shape[0]
    free = src.free
    limit(name, "free size", free, device.partitions)
    # The transpose mode moves elements as they are; without it they pass as a float32 product.
    moved = src.dtype if src.dtype.itemsize > 1 else BF16
    expected = moved if device.transposes_in_input_dtype else F32
    if dst.dtype != expected:
        raise LimitExceeded(
            f"{name}: destination is {dst.dtype}, must be {expected} on {device.name}"
        )
    passes = device.fp32_transpose_passes if src.dtype == F32 else 1
    # As a matmul: the tile is stationary, `free` columns, and an identity of `rows` columns streams
    # through it. So 2 · rows · rows · free are its FLOPs, useful ones none: a report of MFU takes
    # them out.
    interval = max(rows, min(device.min_interval_cycles, free)) * passes
    flops = 2 * rows * rows * free * passes
    return stream_cost(
        device,
        free,
        interval / device.transposes_at_once,
        0,
        counts={"transpose_flops": flops, "adjusted_flops": flops},
    )


@instruction("trn.nc_transpose", cost=_transpose_cost, reads=("sbuf",), writes="psum")
def nc_transpose(dst: Psum, src: Sbuf) -> Psum:
    """`dst[n, p] = src[p, n]ᵀ` on the Tensor Engine, the tile as stationary operand.

    From NeuronCore-v3 on in transpose mode: exact, float32 in two passes, and `dst` of the source's
    dtype (16 bits for 8-bit floats). On NeuronCore-v2 a product with the identity: `dst` float32.
    """
    _check_floats("trn.nc_transpose", 2, source=src)
    return numerics.cast(src.T, dst.dtype)
