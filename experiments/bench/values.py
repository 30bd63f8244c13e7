"""Values and clock of one program against plain JAX that computes the values alone, in CPU time."""

import dataclasses
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from emu import Program
from emu.annotations import PyTree
from emu.trainium.datasheets import TRN3
from experiments.bench.work import (
    GEMM_SIZE,
    TOKENS,
    gemm_program,
    layer_config,
    layer_program,
)
from kernels.trainium.gemm.ladder import untile
from models.config import ModelConfig
from models.plain.projections import rms_norm, rotate
from models.plain.rope import rope_tables
from models.plain.weights import random_weights

BF16, F32 = jnp.bfloat16, jnp.float32


@dataclasses.dataclass(frozen=True)
class Compared:
    """One piece of work, emulated and plain; CPU seconds of all threads, compilation apart.

    Attributes:
      values_s: the emulated run.
      clock_s: reading its clock, the kernel traced anew.
      plain_s: plain JAX.
      error: the largest difference of the results, over the largest value.
    """

    values_s: float
    clock_s: float
    plain_s: float
    error: float

    @property
    def ratio(self) -> float:
        return (self.values_s + self.clock_s) / self.plain_s


def least(
    fns: dict[str, Callable[[], Any]], repeats: int
) -> tuple[dict[str, float], Any]:
    """The least CPU seconds of each of several calls that take turns, and their results."""
    # This first run compiles.
    results = {name: jax.block_until_ready(fn()) for name, fn in fns.items()}
    taken = dict.fromkeys(fns, math.inf)
    for _ in range(repeats):
        for name, fn in fns.items():
            # In turns, so that a busy neighbour slows all of them; the least of each is the run
            # that it left alone. Of all threads, as XLA uses several.
            start = time.process_time()
            jax.block_until_ready(fn())
            seconds = time.process_time() - start
            taken[name] = min(taken[name], seconds)
    return taken, results


def compared(
    program: Program,
    args: tuple[PyTree, ...],
    shaped: Callable[..., jax.Array | np.ndarray],
    plain: Callable[..., jax.Array],
    plain_args: tuple[PyTree, ...],
    repeats: int,
) -> Compared:
    """Runs both in turns; `shaped` gives the program's result the shape of the plain one."""
    jitted = jax.jit(plain)

    def clock() -> int:
        # A new program is traced anew.
        return dataclasses.replace(program).read(TRN3.at(), *args).end_ticks

    calls = {
        "values": lambda: program.run(*args),
        "clock": clock,
        "plain": lambda: jitted(*plain_args),
    }
    taken, results = least(calls, repeats)
    ours = np.asarray(shaped(results["values"]), np.float32)
    theirs = np.asarray(results["plain"], np.float32)
    difference = np.abs(ours - theirs).max()
    return Compared(
        values_s=taken["values"],
        clock_s=taken["clock"],
        plain_s=taken["plain"],
        error=float(difference / np.abs(theirs).max()),
    )


def product(left: jax.Array, right: jax.Array) -> jax.Array:
    """Their product with a float32 result: twice as fast as a bfloat16 result on a CPU."""
    return jnp.matmul(left, right, preferred_element_type=F32)


def gemm(repeats: int, size: int = GEMM_SIZE) -> Compared:
    """A square bfloat16 GEMM."""
    left_key, right_key = jax.random.split(jax.random.key(0))
    left = jax.random.normal(left_key, (size, size), F32).astype(BF16)
    right = jax.random.normal(right_key, (size, size), F32).astype(BF16)
    program, _ = gemm_program(size)

    def plain(left: jax.Array, right: jax.Array) -> jax.Array:
        return product(left, right).astype(BF16)

    def shaped(blocks: tuple[jax.Array, ...]) -> jax.Array | np.ndarray:
        return untile(tuple(block[0] for block in blocks))

    return compared(program, (left.T, right), shaped, plain, (left, right), repeats)


def layer(repeats: int, tokens: int = TOKENS) -> Compared:
    """One Llama-3.1-8B layer's prefill: plain JAX computes every score and masks half of them."""
    config = layer_config()
    weights = random_weights(config, seed=0)
    program, (like, turns, _, packed, *_), ring = layer_program(weights, tokens)
    slots = ring.where.slots
    tables = (ring.known(with_masks=True), ring.hops.predicates())
    layer_weights: dict[str, jax.Array] = {}
    for name, of_layers in weights["layers"].items():
        layer_weights[name] = jnp.asarray(of_layers[0], BF16)
    key = jax.random.key(1)
    hidden = jax.random.normal(key, (slots, config.hidden_size), F32).astype(BF16)
    cos, sin = (jnp.asarray(table) for table in rope_tables(config, np.arange(slots)))
    turned = (cos.reshape(turns.shape), sin.reshape(turns.shape))
    args = (hidden.reshape(like.shape), *turned, packed, *tables)
    plain_args = (layer_weights, hidden, cos, sin)

    def plain(*args: Any) -> jax.Array:
        return plain_layer(config, *args)

    def shaped(results: Sequence[jax.Array]) -> jax.Array:
        return results[0].reshape(slots, -1)

    return compared(program, args, shaped, plain, plain_args, repeats)


def plain_layer(
    config: ModelConfig,
    weights: Mapping[str, jax.Array],
    hidden: jax.Array,
    cos: jax.Array,
    sin: jax.Array,
) -> jax.Array:
    """A decoder layer as a JAX user writes it, in bfloat16; `hidden` is `[tokens, hidden]`."""

    def norm(rows: jax.Array, name: str) -> jax.Array:
        scale = weights[name].astype(F32)
        return rms_norm(rows.astype(F32), scale, config.rms_norm_eps).astype(BF16)

    normed = norm(hidden, "attn_norm")
    by_head = (1, len(hidden), -1, config.head_dim)
    q = product(normed, weights["wq"]).reshape(by_head)
    k = product(normed, weights["wk"]).reshape(by_head)
    v = product(normed, weights["wv"]).reshape(by_head)
    q = rotate(q, cos, sin)
    k = rotate(k, cos, sin)
    rounded = [tensor.astype(BF16) for tensor in (q, k, v)]
    mixed = jax.nn.dot_product_attention(*rounded, is_causal=True)
    projected = product(mixed.reshape(len(hidden), -1), weights["wo"])
    attended = (hidden + projected).astype(BF16)
    normed = norm(attended, "mlp_norm")
    gate = jax.nn.silu(product(normed, weights["w_gate"]))
    gated = gate * product(normed, weights["w_up"])
    down = product(gated.astype(BF16), weights["w_down"])
    return (attended + down).astype(BF16)
