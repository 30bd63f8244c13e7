"""NaN and infinity in keys that a mask leaves out: only rows that attend to such a key may notice.

The reference looks at live pairs alone: a key that a row may not attend to is as good as zero.
"""

import functools
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from kernels import masks
from kernels.trainium.flash import ladder
from tests.kernels.trainium.context.oracle import (
    BFLOAT16,
    FLOAT32,
    MASKS,
    allowed,
    context,
    dense,
    masks_of,
    qkv,
)
from tests.kernels.trainium.reference import single

TOKENS, RANKS = 61, 3
POISONED = [0, 7, 30, 60]
BAD = {"NaN": np.nan, "infinity": np.inf, "-infinity": -np.inf}
BOUNDS = {"float32": FLOAT32, "bfloat16": BFLOAT16}


@functools.cache
def compiled(dtype, **sizes):
    """One program for all masks: with every hop kept, which tiles are live is in its arguments."""
    return attention("full", dtype, **sizes).program


def attention(mask, dtype, **sizes):
    return context(
        masks_of(TOKENS)[mask],
        tokens=TOKENS,
        ranks=RANKS,
        placement="zigzag",
        every_hop=True,
        masks=128,
        dtype=dtype,
        **sizes,
    )


def poisoned(keys, bad):
    keys = keys.copy()
    keys[POISONED] = bad
    return keys


def assert_only_rows_that_see(mask, tokens, outputs, q, k, v, within):
    """Rows that see no poisoned key are those of zeros in its place; others are NaN, or finite
    where the bad score is lost (`-inf` beside others)."""
    clean, _ = dense(mask, q, poisoned(k, 0), v)
    sees = allowed(mask, len(q), tokens)[:, POISONED].any(axis=1)
    error = np.abs(outputs.astype(np.float64) - clean)[~sees]
    assert error.max(initial=0) <= within * np.abs(v).max()
    return sees


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("dtype", BOUNDS)
@pytest.mark.parametrize("mask", MASKS)
def test_of_every_mask(mask, dtype, bad):
    a = attention(mask, dtype)
    q, k, v = qkv(a)
    arguments = a.arguments(q, poisoned(k, BAD[bad]), v)
    out, lse = a.results(compiled(dtype).run(*arguments))
    sees = assert_only_rows_that_see(
        a.mask, TOKENS, np.asarray(out), q, k, v, BOUNDS[dtype]
    )
    # A NaN that counts is told, in the output and in its log-sum-exp.
    if bad == "NaN":
        assert np.isnan(np.asarray(out, np.float32)[sees]).all()
        assert np.isnan(np.asarray(lse)[sees]).all()


def test_of_sources_that_are_merged_afterwards():
    a = context(masks.window(9), tokens=TOKENS, ranks=2, recipe="bf16-o")
    q, k, v = qkv(a)
    out, _ = a.run(q, poisoned(k, np.nan), v)
    outputs = np.asarray(out)
    sees = assert_only_rows_that_see(a.mask, TOKENS, outputs, q, k, v, BFLOAT16)
    assert np.isnan(outputs[sees]).all()


@pytest.mark.parametrize(
    "kernel, dtype",
    [
        (ladder.flash_masked, "float32"),
        (ladder.flash_causal, "float32"),
        (ladder.flash_grouped, "bfloat16"),
        (ladder.flash_pipelined, "float32"),
        (ladder.flash_pipelined, "bfloat16"),
    ],
)
def test_of_flash_kernels(kernel, dtype):
    a = context(masks.causal, tokens=64, ranks=1, heads=2, kv_heads=1)
    q, k, v = qkv(a)
    bad = k.copy()
    bad[40] = np.nan
    by_feature = [np.moveaxis(x, 0, -1) for x in (q, bad)]
    by_token = np.swapaxes(v, 0, 1)
    given = [jnp.asarray(x, dtype) for x in (*by_feature, by_token)]
    bound = functools.partial(kernel, rows=16, columns=32)
    out = single(bound, len(given)).run(*given)
    rows = np.swapaxes(np.asarray(out[0]), 0, 1)
    clean, _ = dense(a.mask, q, k, v)
    error = np.abs(rows[:40].astype(np.float64) - clean[:40])
    assert error.max() <= BOUNDS[dtype] * np.abs(v).max()
    assert np.isnan(rows[40:].astype(np.float32)).all()


def test_values_of_masked_keys_must_be_finite():
    """Beside a weight of 0 a NaN in a value is `0 · NaN` in a matmul, on a chip as in a dense
    `softmax(where(mask, scores, -inf)) @ v`; tiles that are skipped are not even loaded."""
    a = context(masks.causal, tokens=64, ranks=1, columns=16, placement="contiguous")
    q, k, v = qkv(a)
    bad = v.copy()
    bad[40] = np.nan
    out, _ = a.run(q, k, bad)
    rows = np.asarray(out)
    clean, _ = dense(a.mask, q, k, v)
    # Key 40 is in the tile of keys 32 to 47, which no query before 32 meets.
    assert np.abs(rows[:32] - clean[:32]).max() <= FLOAT32 * np.abs(v).max()
    assert np.isnan(rows[40:]).all()


@pytest.mark.optimized
def test_of_microscaled_keys():
    """A group of MX elements is of one key, so a NaN in it is that key's.

    Compiled hastily it runs for twice as long as both take so.
    """
    sizes: dict[str, Any] = dict(
        head_dim=128, dtype="mxfp8", tokens=128, ranks=1, heads=1, kv_heads=1
    )
    a = context(masks.window(9), **sizes)
    q, k, v = qkv(a)
    clean, _ = a.run(q, poisoned(k, 0), v)
    out, _ = a.run(q, poisoned(k, np.nan), v)
    sees = allowed(a.mask, 128, 128)[:, POISONED].any(axis=1)
    np.testing.assert_array_equal(np.asarray(out)[~sees], np.asarray(clean)[~sees])
    assert np.isnan(np.asarray(out, np.float32)[sees]).all()
