"""What it costs that every result is rounded: programs against themselves without it, in turns."""

import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import jax
import numpy as np

from emu import numerics
from experiments.bench.model import PROMPTS, machine_of
from kernels.trainium.catalogue import TRAINIUM_KERNELS
from models.loading.load import Loaded

# A second or so each: what they show is a ratio.
KERNELS = {
    "gemm": {"m": 512, "k": 512, "n": 512, "dtype": "float32"},
    "flash_causal": {"tokens": 512, "dtype": "float32"},
    "softmax_fused": {"rows": 512, "n": 1024, "dtype": "float32"},
    "rms_norm_rows": {"rows": 512, "n": 1024, "dtype": "float32"},
}
WARM_UPS = 2

Work = Callable[[], Any]


def costs(model: Loaded, repeats: int) -> Iterator[tuple[str, float, float]]:
    """What, and median CPU seconds of all threads: with every result rounded, and without."""
    for name, sizes in KERNELS.items():
        yield name, *in_turns(lambda: [_kernel(name, **sizes)], repeats)[0]
    works = in_turns(lambda: _model(model), repeats)
    for name, seconds in zip(("prefill", "decode step"), works, strict=True):
        yield f"{model.config.name}, {name}", *seconds


def in_turns(
    build: Callable[[], list[Work]], repeats: int
) -> list[tuple[float, float]]:
    """Median CPU seconds of each work that `build` makes, rounded and not."""
    # Rounded first: what an instruction's meaning has yet to round is kept by shape.
    rounded = [_warm(work) for work in build()]
    with mock.patch.object(numerics, "rounded", lambda x: x):
        plain = [_warm(work) for work in build()]
    return [_compared(*pair, repeats) for pair in zip(rounded, plain, strict=True)]


def _warm(work: Work) -> Work:
    for _ in range(WARM_UPS):
        jax.block_until_ready(work())
    return work


def _compared(rounded: Work, plain: Work, repeats: int) -> tuple[float, float]:
    taken: tuple[list[float], list[float]] = ([], [])
    for _ in range(repeats):
        for work, seconds in zip((rounded, plain), taken, strict=True):
            start = time.process_time()
            jax.block_until_ready(work())
            seconds.append(time.process_time() - start)
    return statistics.median(taken[0]), statistics.median(taken[1])


def _kernel(name: str, **sizes: Any) -> Work:
    program, shapes = TRAINIUM_KERNELS[name].build(**sizes)
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal(x.shape).astype(x.dtype) for x in shapes]
    return lambda: program.run(*arrays)


def _model(model: Loaded) -> list[Work]:
    """Its prefill of the long prompt, and the decode step after it."""
    ids = model.tokenizer.chat(PROMPTS["long"])
    machine = machine_of(model, ids)
    args = machine.prefill.arguments(ids)
    first = machine.prefill.run(ids)
    held = {"cache": machine.decoder.cache_from(first.k, first.v)}

    def step() -> Any:  # it consumes its cache
        _, logits, held["cache"] = machine.decoder.step(
            first.token, len(ids), held["cache"]
        )
        return logits

    return [lambda: machine.prefill.program.compiled(*args), step]
