"""The parts of a layer between its collectives: GEMV on resident weights, RMSNorm, SwiGLU."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from emu.wse import (
    copy,
    copy_into,
    fmac_map,
    rsqrt_mean,
    silu,
    square_sum,
    sram_tile,
    vector,
    vector_scale,
)
from kernels.wse.decode.mapping import LayerMap
from kernels.wse.decode.sums import all_reduce, zeros


def gemv(w: jax.Array, x: jax.Array) -> jax.Array:
    """This PE's part of `x @ w`, float32 `[n]`; the sum over PEs is still to be taken.

    Dimensions: `w` `[k, n]` resident in SRAM, `x` `[k]`.
    """
    return fmac_map(zeros((w.shape[1],)), w, x)


def rms_norm(
    x: jax.Array, weight: jax.Array, *, n: int, eps: float, dtype: Any
) -> jax.Array:
    """RMSNorm of a vector that is split over rows and repeated along columns.

    Dimensions: `x` float32 `[n / rows]`, `weight` alike; padding is zero in both.

    Pseudocode:
      y = x / sqrt(all_reduce(sum x^2) / n + eps) * weight
    """
    total = all_reduce(square_sum(sram_tile(shape=(1,), dtype="float32"), x), "row")
    scale = rsqrt_mean(total, total, n=n, eps=eps)
    y = vector_scale(sram_tile(shape=x.shape, dtype="float32"), x, scale)
    return vector(sram_tile(shape=x.shape, dtype=dtype), y, weight, op="mul")


def swiglu(gate_up: jax.Array, share: int, dtype: Any) -> jax.Array:
    """`silu(gate) * up`, `[f]`, of a float32 `[2 f]` that holds gate, then up, on every row.

    SiLU is scalar code, about a hundred cycles an element, so each row does `share` elements and
    a sum over rows, in which all others are zero, puts them together.

    Dimensions: `gate_up` repeated along rows; `share` divides `f`.
    """
    f = gate_up.shape[0] // 2
    row = lax.axis_index("row")

    def mine(out: jax.Array, gate_up: jax.Array, at: jax.Array) -> jax.Array:
        gate = lax.dynamic_slice_in_dim(gate_up, at, share)
        up = lax.dynamic_slice_in_dim(gate_up, at + jnp.int32(f), share)
        act = silu(sram_tile(shape=(share,), dtype="float32"), gate)
        act = vector(act, act, up, op="mul")
        return copy_into(out, act, at, axis=0)

    at = row * jnp.int32(share)
    out = lax.cond(at < f, mine, lambda out, *_: out, zeros((f,)), gate_up, at)
    out = all_reduce(out, "row")
    return out if dtype == "float32" else copy(sram_tile(shape=(f,), dtype=dtype), out)


def mlp(m: LayerMap, x: jax.Array, w: dict[str, jax.Array]) -> jax.Array:
    """Adds the gated MLP of the normalised residual stream to it, in place.

    Dimensions: `x` float32 `[depth]`. Gate and up go from rows to columns, down goes back.
    """
    h = rms_norm(x, w["mlp_norm"], n=m.hidden, eps=m.eps, dtype=m.dtype)
    gate_up = all_reduce(gemv(w["gate_up"], h), "row")
    act = swiglu(gate_up, m.width_share, m.dtype)
    y = all_reduce(gemv(w["down"], act), "col")
    return vector(x, x, y, op="add")


__all__ = ["gemv", "mlp", "rms_norm", "swiglu"]
