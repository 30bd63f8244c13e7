"""Float64 NumPy references of the prefill kernels, and the check that every kernel passes."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from emu import Known, Program
from emu.trainium.datasheets import TRN3
from emu.trainium.engines.memory import dma_load, dma_store, sbuf
from kernels.trainium.layer.tiling import LayerTiling
from tests.helpers import same_clock

DEVICE = TRN3.at()
TENSOR_TICKS = 2  # 4.8 GHz ticks in a 2.4 GHz cycle
DMA_BYTES_PER_S = 16 * 33e9  # of the DMA engines that all queues share
EXPOSED, FEWEST = 8, 64  # cycles of each weight load, least cycles of an instruction


def tiling(**changes):
    """A small layer: 3 token tiles of 11 tokens in one block, GQA of 4 heads over 2."""
    base = LayerTiling(
        hidden=72,
        ffn=200,
        heads=4,
        kv_heads=2,
        head_dim=16,
        eps=1e-5,
        blocks=1,
        tiles=3,
        rows=11,
        dtype=jnp.dtype(jnp.float32),
    )
    return dataclasses.replace(base, **changes)


def draw(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def load(x):
    """A whole HBM array in SBUF."""
    return dma_load(sbuf(*x.shape, dtype=x.dtype), x)


def stored(operand):
    """What a product takes, where it is in a wide dtype, in HBM."""
    assert not isinstance(operand, tuple)
    return dma_store(operand)


# --- references ---


def wide(x):
    return np.asarray(x).astype(np.float64)


def rms_norm(x, weight, eps):
    x = wide(x)
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + eps) * wide(weight)


def rotate(x, cos, sin):
    """x `[tokens, heads, head_dim]`, cos and sin `[tokens, head_dim / 2]`."""
    first, second = np.split(wide(x), 2, axis=-1)
    c, s = wide(cos)[:, None], wide(sin)[:, None]
    return np.concatenate([first * c - second * s, second * c + first * s], -1)


def silu(x):
    return x / (1 + np.exp(-x))


def attention(q, k, v):
    """Causal; q `[tokens, heads, head_dim]`, k and v `[tokens, kv_heads, head_dim]`."""
    q, k, v = wide(q), wide(k), wide(v)
    group = q.shape[1] // k.shape[1]
    k, v = (np.repeat(x, group, axis=1) for x in (k, v))
    scores = np.einsum("qhd,khd->hqk", q, k) / np.sqrt(q.shape[-1])
    tokens = len(q)
    scores = np.where(np.tril(np.ones((tokens, tokens), bool)), scores, -np.inf)
    p = np.exp(scores - scores.max(-1, keepdims=True))
    return np.einsum("hqk,khd->qhd", p / p.sum(-1, keepdims=True), v)


def turns(tokens, head_dim, start=0):
    angles = (start + np.arange(tokens))[:, None] * 0.3 ** np.arange(head_dim // 2)
    return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)


# --- closed forms ---


def matmul_ticks(m, n, dtype=np.float32):
    """Tensor Engine occupancy of one `nc_matmul`, from the published formula."""
    passes, loads = (4, 2) if dtype == np.float32 else (1, 1)
    return (max(min(FEWEST, m), n) * passes + EXPOSED * loads) * TENSOR_TICKS


def transpose_ticks(rows, columns, dtype=np.float32):
    passes = 2 if dtype == np.float32 else 1
    return (max(rows, min(FEWEST, columns)) * passes + EXPOSED) * TENSOR_TICKS


def live_tiles(s, chip):
    """K/V tiles that a chip's queries see over the whole ring, one head."""
    count, span = s.blocks * s.tiles, s.kv_tiles
    own = sum(i // span + 1 for i in range(count))
    return own + chip * count * (count // span)


def attention_flops(s, chips):
    """Scores and weighted values of every live tile, `rows` queries by `span · rows` keys."""
    tile = 2 * 2 * s.rows * s.kv_tiles * s.rows * s.head_dim
    return s.heads * tile * sum(live_tiles(s, c) for c in range(chips))


# --- the check ---


def check(
    program, args, expected, *, within=None, matmul_flops=None, tensor_ticks=None
):
    """Values, FLOPs, time against its bounds, memory: what every kernel owes.

    Args:
      program: on its mesh.
      args: its arrays.
      expected: pytree of float64 arrays, laid out as the results are; None skips the run.
      within: largest error allowed relative to the largest expected value; by default 16 float32
        roundings, 2e-6: kernels of these sizes sum at most a few hundred terms of random sign.
      matmul_flops: closed form, over all cores.
      tensor_ticks: closed form of the busiest core's Tensor Engine.

    Returns:
      The clock.
    """
    if expected is not None:
        actual = program.run(*args)
        jax.tree.map(lambda a, e: assert_near(a, e, within or 2e-6), actual, expected)
    clock = program.read(DEVICE, *args)
    same_clock(clock, program.read(DEVICE, *args, jump=False))
    is_known = lambda x: isinstance(x, Known)  # noqa: E731
    struct = lambda x: x if is_known(x) else jax.ShapeDtypeStruct(x.shape, x.dtype)  # noqa: E731
    structs = jax.tree.map(struct, args, is_leaf=is_known)
    same_clock(clock, program.read(DEVICE, *structs))
    if matmul_flops is not None:
        assert clock.tally.by("flops").get("trn.nc_matmul", 0) == matmul_flops
    if tensor_ticks is not None:
        assert tensor_busy(clock).max() == tensor_ticks
    assert clock.end_ticks > max(clock.most_busy_ticks.values())
    moved, sent = clock.tally.by("bytes"), clock.tally.by("other").get("link_bytes", 0)
    dma_bytes = moved["hbm_read"] + moved["hbm_write"] - 2 * sent
    assert clock.seconds > dma_bytes / clock.cores / DMA_BYTES_PER_S
    peak = program.memory(DEVICE, *args)
    assert all(0 < used <= DEVICE.capacity_bytes[space] for space, used in peak.items())
    return clock


def tensor_busy(clock):
    """Tensor Engine ticks of every core at full clock, float64 over the mesh."""
    parts = (clock.spent.get(("tensor", what), 0) for what in ("work", "weight_load"))
    return np.broadcast_to(sum(parts), clock.grid).astype(np.float64)


def assert_near(actual, expected, within):
    actual, expected = wide(actual), np.asarray(expected)
    assert actual.shape == expected.shape
    error = np.abs(actual - expected).max() / np.abs(expected).max()
    assert error <= within, (
        f"error {error:.2e} of the largest value, at most {within:.2e}"
    )


def single(kernel, arguments):
    """A kernel on one core that takes every argument whole; results gain a leading core axis."""
    return Program(kernel, {"core": 1}, ((),) * arguments)
