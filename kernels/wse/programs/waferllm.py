"""WaferLLM's published wafer kernels (arXiv 2502.04563): GEMV and one decode layer on P x P PEs.

A vector is split along one axis of the mesh and repeated along the other; a product with a resident
tile leaves partial sums, and an all-reduce along the first axis leaves the result split along the
second and repeated along the first. So nothing is broadcast but sums. Everything is of one dtype,
float16 as published, and all vector operations are synchronous.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from emu import Program, release
from emu.wse import (
    exp,
    fmac_map,
    fold,
    multicast,
    reciprocal,
    reduce,
    rope,
    rsqrt_mean,
    silu,
    sram_tile,
    trees,
    vector,
    vector_scale,
)
from kernels.wse.decode.sums import zeros

PE = ("row", "col")


@dataclasses.dataclass(frozen=True)
class Mesh:
    """P x P PEs whose lines are summed in `groups` groups."""

    pes: int
    groups: int
    dtype: str = "float16"

    @property
    def axes(self) -> dict[str, int]:
        return {"row": self.pes, "col": self.pes}

    @property
    def itemsize(self) -> int:
        return jnp.dtype(self.dtype).itemsize

    def share(self, elements: int) -> int:
        """Elements of a vector on one PE, of the vector padded to a multiple of P."""
        return -(-elements // self.pes)

    def tile(self, *shape: int) -> jax.Array:
        return sram_tile(shape=shape, dtype=self.dtype)

    def all_reduce(self, x: jax.Array, axis: str, op: str = "add") -> jax.Array:
        """Chains inward in each group, then over the groups' roots; multicast from the middle.

        As published, the outermost roots store their group's sum before they send it; those of
        `collective.all_reduce` do not.
        """
        tree = trees.two_tree(self.pes, self.groups, stores=True)
        x = reduce(x, x, axis=axis, tree=tree, op=op)
        return multicast(x, x, axis=axis, root=tree.root, call=False)

    def product(self, w: jax.Array, x: jax.Array) -> jax.Array:
        """This PE's part of `x @ w`, in one hardware loop for each of the leading dimension."""
        return fmac_map(zeros((*w.shape[:-2], w.shape[-1]), self.dtype), w, x)


def gemv_program(m: Mesh) -> Program:
    """`x @ w`: arguments `w` `[P, P, k, n]` and `x` `[P, k]`, result `[P, n]` on every row."""
    return Program(
        lambda w, x: m.all_reduce(m.product(w, x), "row"), m.axes, (PE, ("row",))
    )


def gemv_arguments(m: Mesh, n: int) -> tuple[Any, ...]:
    """Shapes of `[1, n] @ [n, n]` for `gemv_program`."""
    k = m.share(n)
    dtype = jnp.dtype(m.dtype)
    w = jax.ShapeDtypeStruct((m.pes, m.pes, k, k), dtype)
    return w, jax.ShapeDtypeStruct((m.pes, k), dtype)


# --- a decode layer ---


@dataclasses.dataclass(frozen=True)
class Layer:
    """The layer that was timed: attention with one head as wide as the model, and a gated MLP.

    Attributes:
      mesh: where it runs.
      d_model, d_ff, context: its sizes, each padded to a multiple of P.
      eps: added to the mean square in RMSNorm.
      activated: elements of each PE's part of the up projection that pass through SiLU; the
        published kernel takes `d_model / P`, not `d_ff / P`.
    """

    mesh: Mesh
    d_model: int
    d_ff: int
    context: int
    eps: float = 1e-5
    activated: int | None = None

    @property
    def shares(self) -> tuple[int, int, int]:
        """One PE's elements of d_model, d_ff and context."""
        d, f, s = (self.mesh.share(n) for n in (self.d_model, self.d_ff, self.context))
        return d, f, s

    def shapes(self) -> dict[str, tuple[tuple[str, ...], tuple[int, ...]]]:
        """Every tile's axes and its shape on one PE."""
        d, f, s = self.shares
        return {
            "attn_norm": (("row",), (d,)),
            "qkv": (PE, (3, d, d)),
            "k": (PE, (d, s)),
            "v": (PE, (s, d)),
            "out": (PE, (d, d)),
            "mlp_norm": (("row",), (d,)),
            "up_gate": (PE, (2, d, f)),
            "down": (PE, (f, d)),
            "cos": (("col",), (d // 2,)),
            "sin": (("col",), (d // 2,)),
            "scale": ((), (1,)),
        }


def rms_norm(c: Layer, x: jax.Array, weight: jax.Array) -> jax.Array:
    """RMSNorm of a vector split over rows; the weight is multiplied in first."""
    m = c.mesh
    squares = vector(m.tile(*x.shape), x, x, op="mul")
    total = fold(m.tile(1), squares.reshape(1, -1), x.size, op="add")
    total = m.all_reduce(total, "row")
    y = vector(m.tile(*x.shape), x, weight, op="mul")
    scale = rsqrt_mean(total, total, n=c.d_model, eps=c.eps)
    return vector_scale(y, y, scale)


def softmax(m: Mesh, s: jax.Array) -> jax.Array:
    """Softmax over a column of scores `[1, slots]`: maximum, exponentials in scalar code, sum."""
    slots = s.shape[1]
    top = m.all_reduce(fold(m.tile(1), s, slots, op="max"), "row", op="max")
    p = exp(s, s, top, slots, scale=1.0)
    total = m.all_reduce(fold(m.tile(1), p, slots, op="add"), "row")
    return vector_scale(p, p, reciprocal(total, total))


def attention(c: Layer, x: jax.Array, w: dict[str, jax.Array]) -> jax.Array:
    """Adds attention over the resident cache to `x` `[d]`, split over rows; no token is appended.

    Pseudocode:
      q, k, v = all_reduce_row(norm(x) @ qkv);  turn q and k
      s = softmax(all_reduce_col(q @ K) * scale);  o = all_reduce_row(s @ V)
      x + all_reduce_col(o @ out)
    """
    m, (d, _, slots) = c.mesh, c.shares
    h = rms_norm(c, x, w["attn_norm"])
    qkv = m.all_reduce(m.product(w["qkv"], h), "row")
    q, k = qkv[:1], qkv[1:2]
    q = rope(m.tile(1, d), q, w["cos"], w["sin"])
    release(rope(m.tile(1, d), k, w["cos"], w["sin"]))
    s = m.all_reduce(m.product(w["k"], q.reshape(d)), "col")
    s = vector_scale(s, s, w["scale"]).reshape(1, slots)
    o = m.all_reduce(m.product(w["v"], softmax(m, s).reshape(slots)), "row")
    y = m.all_reduce(m.product(w["out"], o), "col")
    return vector(x, x, y, op="add")


def mlp(c: Layer, x: jax.Array, w: dict[str, jax.Array]) -> jax.Array:
    """Adds the gated MLP to `x` `[d]`, split over rows."""
    m, (_, f, _) = c.mesh, c.shares
    h = rms_norm(c, x, w["mlp_norm"])
    both = m.all_reduce(m.product(w["up_gate"], h), "row")
    both = both.reshape(2 * f)
    both = silu(both, both, f if c.activated is None else c.activated)
    act = vector(m.tile(f), both[:f], both[f:], op="mul")
    y = m.all_reduce(m.product(w["down"], act), "col")
    return vector(x, x, y, op="add")


def layer_program(c: Layer) -> Program:
    """One layer: arguments `x` `[P, d]` and the tiles of `c.shapes()`, each split over its axes."""

    def kernel(x: jax.Array, w: dict[str, jax.Array]) -> jax.Array:
        return mlp(c, attention(c, x, w), w)

    specs = {name: axes for name, (axes, _) in c.shapes().items()}
    return Program(kernel, c.mesh.axes, (("row",), specs))


def layer_arguments(c: Layer) -> tuple[Any, ...]:
    """Shapes in place of data for `layer_program(c).read` and `.memory`."""

    def struct(axes: tuple[str, ...], shape: tuple[int, ...]) -> jax.ShapeDtypeStruct:
        lead = (c.mesh.pes,) * len(axes)
        return jax.ShapeDtypeStruct((*lead, *shape), jnp.dtype(c.mesh.dtype))

    weights = {name: struct(*tile) for name, tile in c.shapes().items()}
    return struct(("row",), (c.shares[0],)), weights


__all__ = [
    "Layer",
    "Mesh",
    "gemv_arguments",
    "gemv_program",
    "layer_arguments",
    "layer_program",
]
