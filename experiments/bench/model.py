"""A model's prefill and decode step: values against plain jax.jit, instructions a second."""

import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from emu.trainium.datasheets import TRN3
from emu.wse.datasheets.datasheet import WSE3
from kernels.wse.decode.layer import layer_arguments
from models.loading.load import Loaded
from models.machines.disaggregated import Disaggregated
from models.plain.kv_cache import KVCache, empty_cache
from models.plain.oracle import jitted_extend

NEW_TOKENS = 8
CHIPS = 4
PROMPTS = {"short": "Return the", "long": "Return the name of the file. " * 20}


def machine_of(model: Loaded, ids: list[int]) -> Disaggregated:
    """The model on both machines, for one prompt."""
    return Disaggregated(
        model.config,
        model.weights,
        tokens=len(ids),
        new_tokens=NEW_TOKENS,
        chips=CHIPS,
        dtype=jnp.dtype("float32"),
    )


def median_s(fn: Callable[[], Any], repeats: int) -> float:
    """Median wall seconds of `fn`, results awaited, after one call that compiles."""
    jax.block_until_ready(fn())
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(fn())
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def seconds_of(
    model: Loaded, machine: Disaggregated, ids: list[int], repeats: int
) -> dict[str, tuple[float, float]]:
    """Seconds of emulated prefill and decode step, and of the same under plain `jax.jit`."""
    config, tokens = model.config, len(ids)
    # On the device before the clock starts: moving them is no part of a step.
    weights = jax.tree.map(jnp.asarray, model.weights)
    prompt = jnp.asarray(np.asarray([ids], np.int32))
    empty = empty_cache(config, 1, tokens + NEW_TOKENS)

    def plain(tokens: jax.Array, cache: KVCache) -> Any:
        return jitted_extend(config, weights, tokens, cache)

    args = machine.prefill.arguments(ids)
    first = machine.prefill.run(ids)
    held = {"cache": machine.decoder.cache_from(first.k, first.v)}

    def emulated_step() -> Any:  # the step consumes its cache
        token, logits, held["cache"] = machine.decoder.step(
            first.token, tokens, held["cache"]
        )
        return logits

    _, filled = plain(prompt, empty)
    one = jnp.asarray([[first.token]], jnp.int32)
    return {
        "prefill": (
            median_s(lambda: machine.prefill.program.compiled(*args), repeats),
            median_s(lambda: plain(prompt, empty), repeats),
        ),
        "decode step": (
            median_s(emulated_step, repeats),
            median_s(lambda: plain(one, filled), repeats),
        ),
    }


def clocks(machine: Disaggregated, repeats: int) -> dict[str, tuple[float, int]]:
    """Seconds to read each machine's clock, and instructions times cores it covers."""
    prefill = lambda: machine.prefill.read(TRN3.at())  # noqa: E731
    decoder = machine.decoder
    at = layer_arguments(decoder.plan.kinds[0].map, machine.tokens, 1)
    layer = lambda: decoder.clock.programs["layer", False].read(WSE3.at(), *at)  # noqa: E731
    return {
        "prefill": (
            median_s(lambda: prefill().layer_done_s, repeats),
            prefill().clock.issued,
        ),
        "decode layer": (median_s(lambda: layer().end_ticks, repeats), layer().issued),
    }
