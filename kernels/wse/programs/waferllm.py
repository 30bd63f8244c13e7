"""WaferLLM's published wafer kernels (arXiv 2502.04563): GEMV and one decode layer on P x P PEs.

A vector is split along one axis of the mesh and repeated along the other; a product with a resident
tile leaves partial sums, and an all-reduce along the first axis leaves the result split along the
second and repeated along the first. So nothing is broadcast but sums. Everything is of one dtype,
float16 as published, and all vector operations are synchronous.
"""

import dataclasses
from typing import Any

import jax.numpy as jnp
from jax import ShapeDtypeStruct

from emu import Program, release
from emu.annotations import Shape
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
from emu.wse.spaces import Sram
from kernels.wse.decode.mapping import PE, share_of
from kernels.wse.decode.sums import zeros

Weights = dict[str, Sram]
"""One PE's tiles; see `Layer.shapes`."""


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
        return share_of(elements, self.pes)

    def tile(self, *shape: int) -> Sram:
        return sram_tile(shape=shape, dtype=self.dtype)

    def all_reduce(self, x: Sram, axis: str, op: str = "add") -> Sram:
        """Chains inward in each group, then over the groups' roots; multicast from the middle.

        As published, the outermost roots store their group's sum before they send it; those of
        `sums.all_reduce` do not.
        """
        tree = trees.two_tree(self.pes, self.groups, stores=True)
        x = reduce(x, x, axis=axis, tree=tree, op=op)
        return multicast(x, x, axis=axis, root=tree.root, call=False)

    def summed_product(self, weight: Sram, x: Sram, axis: str) -> Sram:
        """`x @ weight`, summed along the axis that `x` is split over."""
        _, outputs = weight.shape
        # Of the weights' dtype: in float16 the published kernel rounds after every scalar.
        part = zeros((outputs,), self.dtype)
        part = fmac_map(part, weight, x)
        return self.all_reduce(part, axis)


def gemv_program(mesh: Mesh) -> Program:
    """`x @ w`: arguments `w` `[P, P, k, n]` and `x` `[P, k]`, result `[P, n]` on every row."""

    def kernel(w: Sram, x: Sram) -> Sram:
        return mesh.summed_product(w, x, "row")

    return Program(kernel, mesh.axes, (PE, ("row",)))


def gemv_arguments(mesh: Mesh, n: int) -> tuple[Any, ...]:
    """Shapes of `[1, n] @ [n, n]` for `gemv_program`."""
    share = mesh.share(n)
    dtype = jnp.dtype(mesh.dtype)
    w = ShapeDtypeStruct((mesh.pes, mesh.pes, share, share), dtype)
    x = ShapeDtypeStruct((mesh.pes, share), dtype)
    return w, x


# --- a decode layer ---


@dataclasses.dataclass(frozen=True)
class Layer:
    """The layer that was timed: attention with one head as wide as the model, and a gated MLP.

    Each product has an all-reduce of its own, 13 a layer. The source as it stands sums q, k and v
    in one, up and gate in one; its first version (f991a56 of MeshInfra/WaferLLM) shows that each
    was summed by itself before, and the layer's times were published before the change.

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
        share = self.mesh.share
        return share(self.d_model), share(self.d_ff), share(self.context)

    def shapes(self) -> dict[str, tuple[tuple[str, ...], Shape]]:
        """Every tile's axes and its shape on one PE."""
        model, ffn, slots = self.shares
        return {
            "attn_norm": (("row",), (model,)),
            "q": (PE, (model, model)),
            "k": (PE, (model, model)),
            "v": (PE, (model, model)),
            "keys": (PE, (model, slots)),
            "values": (PE, (slots, model)),
            "out": (PE, (model, model)),
            "mlp_norm": (("row",), (model,)),
            "up": (PE, (model, ffn)),
            "gate": (PE, (model, ffn)),
            "down": (PE, (ffn, model)),
            "cos": (("col",), (model // 2,)),
            "sin": (("col",), (model // 2,)),
            # `vector_scale` takes its scalar from SRAM.
            "scale": ((), (1,)),
        }


def rms_norm(layer: Layer, x: Sram, weight: Sram) -> Sram:
    """RMSNorm of a vector split over rows; the weight is multiplied in first."""
    mesh = layer.mesh
    squares = mesh.tile(*x.shape)
    squares = vector(squares, x, x, op="mul")
    total = mesh.tile(1)
    as_one_row = squares.reshape(1, -1)
    total = fold(total, as_one_row, x.size, op="add")
    total = mesh.all_reduce(total, "row")
    weighted = mesh.tile(*x.shape)
    weighted = vector(weighted, x, weight, op="mul")
    scale = rsqrt_mean(total, total, n=layer.d_model, eps=layer.eps)
    return vector_scale(weighted, weighted, scale)


def softmax(mesh: Mesh, scores: Sram) -> Sram:
    """Softmax over a column of scores `[1, slots]`: maximum, exponentials in scalar code, sum."""
    _, slots = scores.shape
    top = mesh.tile(1)
    top = fold(top, scores, slots, op="max")
    top = mesh.all_reduce(top, "row", op="max")
    # `attention` has scaled the scores already, in memory, as the published kernel does.
    p = exp(scores, scores, top, slots, scale=1.0)
    total = mesh.tile(1)
    total = fold(total, p, slots, op="add")
    total = mesh.all_reduce(total, "row")
    inverse = reciprocal(total, total)
    return vector_scale(p, p, inverse)


def attention(layer: Layer, residual: Sram, weights: Weights) -> Sram:
    """Adds attention over the resident cache to `[d]`, split over rows; no token is appended.

    Pseudocode:
      q, k, v = all_reduce_row(norm(x) @ W) of each;  turn q and k
      s = softmax(all_reduce_col(q @ K) * scale);  o = all_reduce_row(s @ V)
      x + all_reduce_col(o @ out)
    """
    mesh = layer.mesh
    model, _, slots = layer.shares
    cos = weights["cos"]
    sin = weights["sin"]
    normed = rms_norm(layer, residual, weights["attn_norm"])
    q = mesh.summed_product(weights["q"], normed, "row")
    k = mesh.summed_product(weights["k"], normed, "row")
    v = mesh.summed_product(weights["v"], normed, "row")
    # One head as wide as the model: its pairs are `(x[j], x[j + model / 2])` within each PE's part.
    q = rope(mesh.tile(1, model), q.reshape(1, model), cos, sin)
    k = rope(mesh.tile(1, model), k.reshape(1, model), cos, sin)
    # They are timed, and not appended.
    release(k)
    release(v)
    scores = mesh.summed_product(weights["keys"], q.reshape(model), "col")
    scores = vector_scale(scores, scores, weights["scale"])
    p = softmax(mesh, scores.reshape(1, slots))
    heads = mesh.summed_product(weights["values"], p.reshape(slots), "row")
    out = mesh.summed_product(weights["out"], heads, "col")
    return vector(residual, residual, out, op="add")


def mlp(layer: Layer, residual: Sram, weights: Weights) -> Sram:
    """Adds the gated MLP to `[d]`, split over rows."""
    mesh = layer.mesh
    _, ffn, _ = layer.shares
    normed = rms_norm(layer, residual, weights["mlp_norm"])
    up = mesh.summed_product(weights["up"], normed, "row")
    gate = mesh.summed_product(weights["gate"], normed, "row")
    activated = ffn if layer.activated is None else layer.activated
    up = silu(up, up, activated)
    product = mesh.tile(ffn)
    product = vector(product, up, gate, op="mul")
    out = mesh.summed_product(weights["down"], product, "col")
    return vector(residual, residual, out, op="add")


def layer_program(layer: Layer) -> Program:
    """One layer: arguments the residual stream `[P, d]` and the tiles of `layer.shapes()`, each
    split over its axes.
    """

    def kernel(residual: Sram, weights: Weights) -> Sram:
        residual = attention(layer, residual, weights)
        return mlp(layer, residual, weights)

    specs = {name: axes for name, (axes, _) in layer.shapes().items()}
    return Program(kernel, layer.mesh.axes, (("row",), specs))


def layer_arguments(layer: Layer) -> tuple[Any, ...]:
    """Shapes in place of data for `layer_program(layer).read` and `.memory`."""
    mesh = layer.mesh

    def struct(axes: tuple[str, ...], shape: Shape) -> ShapeDtypeStruct:
        lead = (mesh.pes,) * len(axes)
        return ShapeDtypeStruct(lead + shape, jnp.dtype(mesh.dtype))

    weights = {}
    for name, (axes, shape) in layer.shapes().items():
        weights[name] = struct(axes, shape)
    model, _, _ = layer.shares
    return struct(("row",), (model,)), weights


__all__ = [
    "Layer",
    "Mesh",
    "gemv_arguments",
    "gemv_program",
    "layer_arguments",
    "layer_program",
]
