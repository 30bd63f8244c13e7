"""Values and clock of one program against plain JAX that computes the values alone, in CPU time."""

import dataclasses
import math
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from emu import Program
from emu.trainium.datasheets import TRN3
from experiments.bench.work import (
    GEMM_SIZE,
    TOKENS,
    gemm_program,
    layer_config,
    layer_program,
)
from kernels.trainium.gemm.ladder import untile
from models.plain.rope import rope_tables
from models.plain.transformer import rms_norm, rotate
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
            start = time.process_time()
            jax.block_until_ready(fn())
            taken[name] = min(taken[name], time.process_time() - start)
    return taken, results


def compared(
    program: Program,
    args: Any,
    shaped: Callable[[Any], Any],
    plain: Callable[..., Any],
    plain_args: Any,
    repeats: int,
) -> Compared:
    """Runs both in turns; `shaped` gives the program's result the shape of the plain one."""
    jitted = jax.jit(plain)

    def clock() -> Any:  # a new program is traced anew
        return dataclasses.replace(program).read(TRN3.at(), *args).end_ticks

    taken, results = least(
        {
            "values": lambda: program.run(*args),
            "clock": clock,
            "plain": lambda: jitted(*plain_args),
        },
        repeats,
    )
    ours, theirs = (
        np.asarray(result, np.float32)
        for result in (shaped(results["values"]), results["plain"])
    )
    error = float(np.abs(ours - theirs).max() / np.abs(theirs).max())
    return Compared(taken["values"], taken["clock"], taken["plain"], error)


def product(a: Any, b: Any) -> Any:
    """`a · b` with a float32 result: twice as fast as a bfloat16 result on a CPU."""
    return jnp.matmul(a, b, preferred_element_type=F32)


def gemm(repeats: int, size: int = GEMM_SIZE) -> Compared:
    """A square bfloat16 GEMM."""
    keys = jax.random.split(jax.random.key(0))
    a, b = (jax.random.normal(key, (size, size), F32).astype(BF16) for key in keys)
    program, _ = gemm_program(size)
    plain = lambda a, b: product(a, b).astype(BF16)  # noqa: E731
    shaped = lambda parts: untile(tuple(part[0] for part in parts))  # noqa: E731
    return compared(program, (a.T, b), shaped, plain, (a, b), repeats)


def layer(repeats: int, tokens: int = TOKENS) -> Compared:
    """One Llama-3.1-8B layer's prefill: plain JAX computes every score and masks half of them."""
    config = layer_config()
    weights = random_weights(config, seed=0)
    program, (like, turns, _, packed, *_), ring = layer_program(weights, tokens)
    slots = ring.where.slots
    tables = (ring.known(with_masks=True), ring.hops.biases(BF16))
    layer_weights = {
        name: jnp.asarray(array[0], BF16) for name, array in weights["layers"].items()
    }
    hidden = jax.random.normal(
        jax.random.key(1), (slots, config.hidden_size), F32
    ).astype(BF16)
    cos, sin = (jnp.asarray(table) for table in rope_tables(config, np.arange(slots)))
    args = (
        hidden.reshape(like.shape),
        cos.reshape(turns.shape),
        sin.reshape(turns.shape),
        packed,
    )
    args = *args, *tables
    shaped = lambda out: out[0].reshape(slots, -1)  # noqa: E731
    plain = lambda *args: plain_layer(config, *args)  # noqa: E731
    return compared(
        program, args, shaped, plain, (layer_weights, hidden, cos, sin), repeats
    )


def plain_layer(config: Any, weights: Any, x: Any, cos: Any, sin: Any) -> Any:
    """A decoder layer as a JAX user writes it, in bfloat16; `x` `[tokens, hidden]`."""

    def norm(x: Any, name: str) -> Any:
        return rms_norm(
            x.astype(F32), weights[name].astype(F32), config.rms_norm_eps
        ).astype(BF16)

    normed = norm(x, "attn_norm")
    shape = (1, len(x), -1, config.head_dim)
    q, k, v = (
        product(normed, weights[name]).reshape(shape) for name in ("wq", "wk", "wv")
    )
    q, k = rotate(q, cos, sin), rotate(k, cos, sin)
    mixed = jax.nn.dot_product_attention(
        *(tensor.astype(BF16) for tensor in (q, k, v)), is_causal=True
    )
    attended = (x + product(mixed.reshape(len(x), -1), weights["wo"])).astype(BF16)
    normed = norm(attended, "mlp_norm")
    gated = jax.nn.silu(product(normed, weights["w_gate"])) * product(
        normed, weights["w_up"]
    )
    return (attended + product(gated.astype(BF16), weights["w_down"])).astype(BF16)
