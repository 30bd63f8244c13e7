"""Laying operands out, and putting results back, compiles next to nothing."""

import jax
import numpy as np
import pytest

from kernels import ContextAttention, masks

COMPILED = "/jax/core/compile/backend_compile_duration"


@pytest.fixture
def compilations():
    """The programs that XLA has compiled so far, one entry each."""
    found = []

    def listen(event, duration_secs, **_):
        if event == COMPILED:
            found.append(duration_secs)

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield found
    jax.monitoring.clear_event_listeners()


def test_the_kernel_is_what_is_compiled(compilations):
    # Sizes that no other test has, or it would be compiled already.
    ring = ContextAttention(
        mask=masks.causal, tokens=59, ranks=2, heads=3, kv_heads=1, head_dim=40
    )
    q, k, v = (np.ones((59, heads, 40), np.float32) for heads in (3, 1, 1))
    given = ring.arguments(q, k, v)
    around = len(compilations)
    results = jax.block_until_ready(ring.program.run(*given))
    with_kernel = len(compilations)
    assert with_kernel == around + 1  # of the tables that it is given, none
    out, lse = ring.results(results)
    assert lse is not None
    assert out.shape == (59, 3, 40) and lse.shape == (59, 3)
    # Of queries and of keys (values are of the same shape), and of log-sum-exps.
    assert around + len(compilations) - with_kernel <= 3
    # What was in JAX's hands is, and what it would round stays NumPy's.
    assert isinstance(out, jax.Array) and isinstance(lse, jax.Array)
    exact, _ = ring.exact(q, k, v)
    assert isinstance(exact, np.ndarray) and exact.dtype == np.float64
