"""Prefill of many variants on many placements through few compiled programs.

Which tiles are live, and how, is in a program's arguments; only its sizes and the score's
arithmetic are compiled in. With every hop kept and room for as many masks, all variants without a
score share one program, and all placements of one with a score another.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from emu.program import HASTILY, Program
from kernels.attention.prefill import context_attention
from kernels.attention.variant import Variant
from kernels.trainium.context.attention import ContextAttention
from kernels.variants import CATALOGUE, Sizes, make
from tests.kernels.trainium.context.oracle import unwrapped

SMALL = Sizes(tokens=64, heads=4, kv_heads=2, head_dim=8, batch=2)
TILES: dict[str, Any] = dict(columns=4, lanes=1, every_hop=True, masks=256)
# Of schemes over two mesh axes, the size of the inner one.
INNER = {"ulysses-ring": 2, "tiles": 2}

PLAIN = [name for name, entry in CATALOGUE.items() if not entry.own_operands]
"""Variants of queries, keys and values; others have tests of their own."""


def plain(name: str, asked: Sizes) -> tuple[Variant, Sizes]:
    """One of `PLAIN`."""
    variant, sizes = make(name, asked)
    assert isinstance(variant, Variant)
    return variant, sizes


def operands(sizes: Sizes) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Random queries, keys and values, float32."""
    rng = np.random.default_rng(3)
    of_q, of_k = sizes.shapes
    q, k, v = (rng.standard_normal(x).astype(np.float32) for x in (of_q, of_k, of_k))
    return q, k, v


def attention_of(
    variant: Variant, sizes: Sizes, chips: int, placement: str, scheme: str
) -> ContextAttention:
    """What `variant.prefill` would run, with every hop and room for masks."""
    of_q, of_k = sizes.shapes
    return context_attention(
        variant.reading,
        q=of_q,
        k=of_k,
        chips=chips,
        placement=placement,
        scheme=scheme,
        inner=INNER.get(scheme, 1),
        scale=variant.scale,
        **TILES,
    )


@dataclasses.dataclass(frozen=True, eq=False)
class _Shared:
    """A program, compiled once for whatever shares it, and the way back through it likewise."""

    program: Program

    @functools.cached_property
    def pullback(self) -> Any:
        """Gradients of the operands, of those, the other arguments and the results' gradients."""

        def of_operands(operands: Any, rest: Any, of_results: Any) -> Any:
            batched = self.program.batched
            _, back = jax.vjp(lambda xs: batched(*xs, *rest), operands)
            return back(of_results)[0]

        return jax.jit(of_operands, compiler_options=HASTILY)


_programs: dict[Any, _Shared] = {}


def _shared(attention: ContextAttention, name: str) -> _Shared:
    located = attention.sides.located
    # Where positions are counted out, the steps between them are instructions' too.
    score = None if located is None else (name, located.steps, located.pairs)
    # And whose heads a rank has matters where each has a mask of its own.
    of_heads = len(attention.masks_of)
    mesh = tuple(attention.program.mesh.items())
    # What is made of sums is arithmetic in the program as well.
    fold = None if attention.fold is None else name
    key = attention.sizes, mesh, attention.scheme, score, of_heads, fold
    return _programs.setdefault(key, _Shared(attention.program))


def prefill(
    variant: Variant, sizes: Sizes, chips: int, placement: str, scheme: str = "ring"
) -> tuple[np.ndarray, np.ndarray | None]:
    """Output and log-sum-exp, as `variant.prefill`."""
    attention = attention_of(variant, sizes, chips, placement, scheme)
    program = _shared(attention, variant.name).program
    out, lse = program.run(*_laid_out(attention, *operands(sizes)))
    return jax.tree.map(np.asarray, _by_head(attention, sizes, out, lse))


def gradients(
    variant: Variant,
    sizes: Sizes,
    chips: int,
    placement: str,
    of_results: tuple[np.ndarray, np.ndarray],
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of q, k and v, as `jax.vjp` of `variant.prefill`.

    Args:
      variant, sizes, chips, placement: as of `prefill`.
      of_results: of the output and the log-sum-exp.
    """
    attention = attention_of(variant, sizes, chips, placement, "ring")
    shared = _shared(attention, variant.name)
    given = operands(sizes)
    _, _, _, *rest = unwrapped(_laid_out(attention, *given))
    laid, to_operands = jax.vjp(lambda *x: _laid_out(attention, *x)[:3], *given)
    shapes = jax.eval_shape(shared.program.batched, *laid, *rest)
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    _, to_results = jax.vjp(lambda x: _by_head(attention, sizes, *x), zeros)
    d_out, d_sums = of_results
    has_sums = _by_head(attention, sizes, *zeros)[1] is not None
    (raw,) = to_results((jnp.asarray(d_out), jnp.asarray(d_sums) if has_sums else None))
    of_laid = shared.pullback(laid, tuple(rest), raw)
    return jax.tree.map(np.asarray, to_operands(of_laid))


def _laid_out(attention: ContextAttention, q: Any, k: Any, v: Any) -> Any:
    """The program's arguments, of operands `[batch, heads, tokens, features]`."""
    missing = attention.tokens - k.shape[2]
    return attention.arguments(_rows(q), _rows(k, missing), _rows(v, missing))


def _rows(x: Any, missing: int = 0) -> jax.Array:
    """To `[tokens, batch * heads, features]`."""
    by_token = jnp.transpose(x, (2, 0, 1, 3)).reshape(x.shape[2], -1, x.shape[3])
    return jnp.pad(by_token, ((0, missing), (0, 0), (0, 0)))


def _by_head(attention: ContextAttention, sizes: Sizes, *raw: Any) -> Any:
    """A program's results `[batch, heads, tokens, features]`, and without features."""
    out, lse = attention.results(raw)
    (batch, heads, count, _), _ = sizes.shapes
    by_head = out.reshape(count, batch, heads, -1).transpose(1, 2, 0, 3)
    if lse is None:
        return by_head, None
    return by_head, lse.reshape(count, batch, heads).transpose(1, 2, 0)


__all__ = ["SMALL", "gradients", "operands", "prefill"]
