"""What is made of the sums over all keys: the mean, a variant's own last step, a log-sum-exp."""

import dataclasses
from typing import Any

import jax.numpy as jnp

from emu.wse import (
    copy,
    reciprocal,
    scalar_of_one_live,
    scalar_of_two_live,
    select_live,
    sram_tile,
    vector_live,
    vector_scale,
)
from emu.wse.spaces import Sram
from kernels.wse.decode.attention_map import Heads
from kernels.wse.decode.hooks import (
    LEAST,
    LOWEST,
    FoldOnPe,
    Hooks,
    at_least,
    number,
    spread,
)


@dataclasses.dataclass(frozen=True)
class Folded:
    """Sums over all keys, on every row.

    Attributes:
      values: float32 `[queries, value_dims]`, of weighted values.
      sums: float32 `[queries, 1]` each; of a softmax one, of exponentials.
      top: float32 `[queries]`, the largest score; times `scale` it is an exponent. None: a fold has
        no greatest.
      scale: factor of the exponent.
    """

    values: Sram
    sums: tuple[Sram, ...]
    top: Sram | None
    scale: float

    @property
    def greatest(self) -> Sram:
        """The largest exponent, float32 `[queries, 1]`."""
        assert self.top is not None
        top = self.top.reshape(-1, 1)
        if self.scale == 1.0:
            return top
        scaled = sram_tile(shape=top.shape, dtype="float32")
        return scalar_of_two_live(
            *(scaled, top, number(self.scale), jnp.int32(1)),
            op="mul",
            arithmetic="float32",
            opens=False,
        )


def divided(heads: Heads, folded: Folded, hooks: Hooks) -> Sram:
    """The mean of values, `[queries, value_dims]`; 0 where nothing is attended."""
    (total,) = folded.sums
    shape = folded.values.shape
    totals = total.reshape(shape[0])
    inverse = sram_tile(shape=totals.shape, dtype="float32")
    if hooks.guarded:
        # Nothing is attended: values of 0 over a sum of 0 are to be 0.
        inverse = copy(inverse, totals)
        inverse = at_least(inverse, LEAST)
        inverse = reciprocal(inverse, inverse)
    else:
        inverse = reciprocal(inverse, totals)
    mean = sram_tile(shape=shape, dtype=heads.dtype)
    return vector_scale(mean, folded.values, inverse)


def finished(heads: Heads, folded: Folded, hooks: Hooks, fold: FoldOnPe) -> Sram:
    """What a fold makes of its sums, `[queries, value_dims]`; 0 where nothing is attended."""
    if fold.finish is None:
        return divided(heads, folded, hooks)
    data = {fold.values: folded.values}
    data.update(zip(fold.sums, folded.sums, strict=True))
    if fold.greatest is not None and fold.greatest in fold.finish.data:
        data[fold.greatest] = folded.greatest
    features = jnp.int32(heads.value_dims)
    out = fold.finish.run(data, hooks.tiles, features, overwrite=False)
    shape = folded.values.shape
    if out.shape != shape:
        out = spread(sram_tile(shape=shape, dtype="float32"), out, features)
    if hooks.nothing and folded.top is not None:
        attended = sram_tile(shape=(shape[0], 1), dtype="int16")
        attended = vector_live(
            *(attended, folded.top.reshape(-1, 1), number(LOWEST), jnp.int32(1)),
            op="gt",
        )
        some = sram_tile(shape=shape, dtype="float32")
        out = select_live(some, attended, out, number(0.0), features)
    if heads.dtype == "float32":
        return out
    return copy(sram_tile(shape=shape, dtype=heads.dtype), out)


def log_sum_exp(folded: Folded) -> Sram:
    """`log(sum of exp(score))` of every query, float32 `[queries, 1]`; -inf of no score at all."""
    one = jnp.int32(1)
    (total,) = folded.sums
    shape = total.shape
    kind: dict[str, Any] = {"arithmetic": "float32"}
    logarithm = scalar_of_one_live(
        sram_tile(shape=shape, dtype="float32"),
        *(total, one),
        **kind,
        op="log",
        opens=True,
    )
    assert folded.top is not None
    scale = number(folded.scale)
    top = sram_tile(shape=shape, dtype="float32")
    top = scalar_of_two_live(
        *(top, folded.top.reshape(shape), scale, one), **kind, op="mul", opens=False
    )
    return scalar_of_two_live(
        *(logarithm, logarithm, top, one), **kind, op="add", opens=False
    )


__all__ = ["Folded", "divided", "finished", "log_sum_exp"]
