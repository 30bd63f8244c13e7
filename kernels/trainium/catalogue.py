"""Every kernel of one NeuronCore by name: how to build it, its sizes and what may be tuned."""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from emu import Program, given
from emu.trainium.datasheets.limits import MX_PARTITIONS, MX_QUAD
from emu.trainium.spaces import Hbm
from kernels.refusal import refuse
from kernels.trainium.flash import ladder
from kernels.trainium.gemm.ladder import gemm
from kernels.trainium.gemm.mx_matmul import matmul_mx
from kernels.trainium.rows import elementwise, softmax
from kernels.trainium.rows.rms_norm_quant import rms_norm_fp8, rms_norm_mx
from kernels.trainium.tiles import PARTITIONS

Sizes = Mapping[str, int | str]
Arguments = tuple[jax.ShapeDtypeStruct, ...]


@dataclasses.dataclass(frozen=True)
class Entry:
    """A kernel that reports, `explain` and `tune` can run by name.

    Attributes:
      name: key in `TRAINIUM_KERNELS`.
      summary: one line.
      build: `(**sizes and tunables) -> (program, abstract arguments)`; what is left out takes its
        default.
      sizes: the names of the sizes, dtypes included, and their defaults.
      tunable: the names of the parameters that change the time but not the result, and candidate
        values; a kernel's defaults are in its signature.
      useful_flops: `(**sizes) -> int`, multiply-adds of the operation itself times 2: no masked
        scores, no transposes. 0 where the Tensor Engine has no part in it.
      useful_bytes: `(**sizes) -> int`, arguments read once and results written once.
    """

    name: str
    summary: str
    build: Callable[..., tuple[Program, Arguments]]
    sizes: dict[str, int | str]
    tunable: dict[str, tuple[Any, ...]]
    useful_flops: Callable[..., int]
    useful_bytes: Callable[..., int]


def entry(
    kernel: Callable[..., Any],
    arguments: Callable[..., Any],
    sizes: dict[str, int | str],
    tunable: dict[str, tuple[Any, ...]],
    useful_flops: Callable[..., int] | None = None,
) -> Entry:
    """The entry of a kernel that takes arrays and tunables; name and summary are the function's.

    ```python
    def rows(rows: int, n: int, dtype: str):
        return (array(rows, n, dtype=dtype),)

    entry(softmax_fused, rows, {"rows": 4096, "n": 8192, "dtype": "float32"}, {"buffers": (1, 2)})
    ```

    Args:
      kernel: `(*arrays, **tunables) -> results`, of one core.
      arguments: `(**sizes) -> ` its abstract arrays.
      sizes: defaults.
      tunable: candidate values.
      useful_flops: see `Entry`; None where the Tensor Engine has no part in it.
    """
    name = getattr(kernel, "__name__")
    docstring = kernel.__doc__ or ""
    summary, *_ = docstring.splitlines()

    def check(asked: Mapping[str, Any]) -> None:
        known = [*sizes, *tunable]
        unknown = set(asked) - set(known)
        if unknown:
            what = ", ".join(sorted(unknown))
            allowed = ", ".join(known)
            refuse(f"{name}: no parameter {what}; has {allowed}")
        for key, value in asked.items():
            default = sizes[key] if key in sizes else tunable[key][0]
            _check_value(f"{name}: {key}", value, default, of_dtype=key == "dtype")

    def build(**asked: Any) -> tuple[Program, Arguments]:
        check(asked)
        chosen = dict(sizes)
        settings = {}
        for key, value in asked.items():
            where = settings if key in tunable else chosen
            where[key] = value
        abstract = tuple(arguments(**chosen))
        bound = functools.partial(kernel, **settings)
        whole = ()  # an array is not split: there is one core
        specs = (whole,) * len(abstract)
        program = Program(bound, {"core": 1}, specs)
        return program, abstract

    def flops(**asked: Any) -> int:
        check(asked)
        if useful_flops is None:
            return 0
        chosen = sizes | asked
        return useful_flops(**chosen)

    def useful_bytes(**asked: Any) -> int:
        check(asked)
        chosen = sizes | asked
        abstract = tuple(arguments(**chosen))
        # Counted from the shapes of arguments and results, not from what a kernel moves: a load
        # that is repeated takes time, and is useful once.
        results = jax.eval_shape(kernel, *abstract)
        total = 0
        for moved in jax.tree.leaves((abstract, results)):
            elements = math.prod(moved.shape)
            total += elements * moved.dtype.itemsize
        return total

    return Entry(
        name=name,
        summary=summary,
        build=build,
        sizes=dict(sizes),
        tunable=dict(tunable),
        useful_flops=flops,
        useful_bytes=useful_bytes,
    )


DTYPES = ("float32", "bfloat16", "float16", "float8_e4m3fn", "float8_e5m2")
"""What a kernel's operands may be."""


def _check_value(what: str, value: Any, default: Any, *, of_dtype: bool) -> None:
    """Raises `LimitExceeded` for a size or a setting that is not of its default's kind."""
    told = given.told(value)
    if of_dtype:
        if not isinstance(value, str) or value not in DTYPES:
            refuse(f"{what} is {told}, must be one of {', '.join(DTYPES)}")
    elif isinstance(default, str):
        if not isinstance(value, str):
            refuse(f"{what} is {told}, must be a name such as {default!r}")
    else:
        # A setting of which 0 is a candidate, such as copies by another engine, may be none.
        least = min(1, default)
        _, most = given.INT32
        if not given.is_whole(value, least, most):
            refuse(f"{what} is {told}, must be {given.whole_number(least, most)}")


def array(*shape: int, dtype: str) -> jax.ShapeDtypeStruct:
    """An abstract HBM array."""
    return jax.ShapeDtypeStruct(shape, jnp.dtype(dtype))


_BUFFERS = {"buffers": (1, 2, 3, 4)}


# --- matmul ---


def _gemm(m: int, k: int, n: int, dtype: str) -> Arguments:
    lhs = array(k, m, dtype=dtype)
    rhs = array(k, n, dtype=dtype)
    return lhs, rhs


def _gemm_transposing(m: int, k: int, n: int, dtype: str) -> Arguments:
    # The other variants take lhs transposed already, as a matmul contracts the partitions of both
    # sides.
    lhs = array(m, k, dtype=dtype)
    rhs = array(k, n, dtype=dtype)
    return lhs, rhs


def _mx(m: int, k: int, n: int, dtype: str) -> Arguments:
    blocks, partitions = _features(k)
    scales = partitions // MX_PARTITIONS
    x = array(blocks, partitions, m, MX_QUAD, dtype=dtype)
    w = array(blocks, partitions, n, MX_QUAD, dtype="float8_e4m3fn")
    w_scale = array(blocks, scales, n, dtype="uint8")
    return x, w, w_scale


def _features(k: int) -> tuple[int, int]:
    """Blocks of K features in MX layout, and their partitions, all 128 of them.

    2048 features are 4 blocks of 128 partitions with 4 features on each.
    """
    a_block = PARTITIONS * MX_QUAD
    blocks, rest = divmod(k, a_block)
    if rest:
        refuse(f"{k} features, must be a multiple of {a_block} for MX")
    return blocks, PARTITIONS


def _product(m: int, k: int, n: int, **_: Any) -> int:
    return 2 * m * k * n


def gemm_transposing(lhs: Hbm, rhs: Hbm, *, buffers: int = 8) -> tuple[Hbm, ...]:
    """`lhs · rhs` with each tile of lhs transposed on the Tensor Engine before its matmul."""
    return gemm(lhs, rhs, variant="tiled_transposing_lhs", buffers=buffers)


_SQUARE = {
    "m": 2048,
    "k": 2048,
    "n": 2048,
    "dtype": "bfloat16",
}
_VARIANTS = (
    "tiled",
    "hoist_loads",
    "block_free_dims",
    "block_bm8_bn2",
    "block_bm8_bn2_row_loads",
    "block_bm4_bn4_row_loads",
    "block_all_dims",
)
_TRANSPOSING = {"buffers": (2, 4, 8)}
_GEMM = {"variant": _VARIANTS, **_TRANSPOSING}
_MX = {"tiles": (1, 2, 4), "columns": (256, 512), **_BUFFERS}
_MATMULS = [
    entry(gemm, _gemm, _SQUARE, _GEMM, _product),
    entry(gemm_transposing, _gemm_transposing, _SQUARE, _TRANSPOSING, _product),
    entry(matmul_mx, _mx, _SQUARE, _MX, _product),
]


# --- attention ---


def _heads(
    heads: int,
    kv_heads: int,
    tokens: int,
    head_dim: int,
    dtype: str,
) -> Arguments:
    q = array(heads, head_dim, tokens, dtype=dtype)
    k = array(kv_heads, head_dim, tokens, dtype=dtype)
    v = array(kv_heads, tokens, head_dim, dtype=dtype)
    return q, k, v


# Two products, of queries and keys and of weights and values, each 2 FLOPs a multiply-add.
_FLOPS_A_PAIR = 2 * 2


def _every_pair(heads: int, tokens: int, head_dim: int, **_: Any) -> int:
    return _FLOPS_A_PAIR * heads * head_dim * tokens**2


def _causal_pairs(heads: int, tokens: int, head_dim: int, **_: Any) -> int:
    # Four tokens see 1 + 2 + 3 + 4 = 10. `flash_masked` computes all 16, and the 6 that it throws
    # away count as time and not as work.
    pairs = tokens * (tokens + 1) // 2
    return _FLOPS_A_PAIR * heads * head_dim * pairs


_ATTENTION = {
    "heads": 4,
    "kv_heads": 1,
    "tokens": 4096,
    "head_dim": 128,
    "dtype": "bfloat16",
}
_TILES = {"columns": (128, 256, 512), **_BUFFERS}
_LANES = {"lanes": (1, 2, 4, 8, 16), **_TILES}
_PIPELINED = {"scalar_copies": (0, 1, 2, 3, 4), **_LANES}
_ATTENTIONS = [
    entry(ladder.flash_full, _heads, _ATTENTION, _TILES, _every_pair),
    entry(ladder.flash_masked, _heads, _ATTENTION, _TILES, _causal_pairs),
    entry(ladder.flash_causal, _heads, _ATTENTION, _TILES, _causal_pairs),
    entry(ladder.flash_grouped, _heads, _ATTENTION, _LANES, _causal_pairs),
    entry(ladder.flash_pipelined, _heads, _ATTENTION, _PIPELINED, _causal_pairs),
]


# --- rows ---


def _rows(rows: int, n: int, dtype: str) -> Arguments:
    return (array(rows, n, dtype=dtype),)


def _normed(rows: int, n: int, dtype: str) -> Arguments:
    x = array(rows, n, dtype=dtype)
    weight = array(1, n, dtype=dtype)
    return x, weight


def _normed_mx(rows: int, n: int, dtype: str) -> Arguments:
    blocks, partitions = _features(n)
    x = array(blocks, partitions, rows, MX_QUAD, dtype=dtype)
    weight = array(blocks, partitions, MX_QUAD, dtype=dtype)
    return x, weight


def _rotated(rows: int, heads: int, head_dim: int, dtype: str) -> Arguments:
    x = array(rows, heads, head_dim, dtype=dtype)
    angles = array(rows, head_dim // 2, dtype="float32")
    return x, angles, angles


def _gated(rows: int, n: int, dtype: str) -> Arguments:
    gate = array(rows, n, dtype=dtype)
    # Shapes only: `up` has that of the gate.
    return gate, gate


_WIDE = {
    "rows": 4096,
    "n": 8192,
    "dtype": "float32",
}
# Hidden size, heads and FFN of Llama 3 8B.
_HIDDEN = {
    "rows": 4096,
    "n": 4096,
    "dtype": "bfloat16",
}
_ROTATED = {
    "rows": 4096,
    "heads": 32,
    "head_dim": 128,
    "dtype": "bfloat16",
}
_FFN = {**_HIDDEN, "n": 14336}
_PIECES = {"piece": (512, 1024, 2048, 4096), **_BUFFERS}
_TOKENS = {"tokens": (32, 64, 128), **_BUFFERS}
_STREAMS = [
    entry(softmax.softmax_three_pass, _rows, _WIDE, _PIECES),
    entry(softmax.softmax_online, _rows, _WIDE, _PIECES),
    entry(softmax.softmax_fused, _rows, _WIDE, _BUFFERS),
    entry(elementwise.rms_norm_rows, _normed, _HIDDEN, _BUFFERS),
    entry(elementwise.rope_rows, _rotated, _ROTATED, _BUFFERS),
    entry(elementwise.swiglu_rows, _gated, _FFN, _PIECES),
    entry(rms_norm_fp8, _normed, _HIDDEN, _BUFFERS),
    entry(rms_norm_mx, _normed_mx, _HIDDEN, _TOKENS),
]

_ALL = (*_MATMULS, *_ATTENTIONS, *_STREAMS)
TRAINIUM_KERNELS = given.Named("kernel", {kernel.name: kernel for kernel in _ALL})
