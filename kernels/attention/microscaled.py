"""A variant over a cache of 8-bit numbers in blocks, each block with a power of two.

Codes are what a PE of the wafer holds, a byte a number and a byte a block; prefill and the oracle
compute with the numbers that the codes stand for, which bfloat16 holds exactly. OCP, *Microscaling
Formats (MX) Specification* 1.0 (2023), section 6.3: of a block whose largest number is 600,

    shared exponent    floor(log2 600) - 8 = 1      448 = 1.75 * 2^8 is the largest E4M3
    codes              x / 2^1, rounded to E4M3     600 is 300, rounded to 288, and stands for 576

Numbers that exceed the largest code are taken for it.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np

from emu.wse.pe.packed import SCALES
from kernels.attention.check import (
    ROUNDING,
    Forms,
    Report,
    on_machines,
    with_cache,
)
from kernels.attention.clock import VariantTime
from kernels.attention.decode import Cache
from kernels.attention.explain import Explanation
from kernels.attention.variant import Variant
from kernels.refusal import refuse
from kernels.tokens.placement import PLACEMENTS

Told = TypeVar("Told", VariantTime, Explanation)

CODES = "float8_e4m3fn"
LARGEST = float(ml_dtypes.finfo(CODES).max)
LARGEST_EXPONENT = 8
BIAS = 127
"""Of a power of two's code; 0 stands for a block of zeros."""


class Blocks(NamedTuple):
    """Numbers as codes.

    Attributes:
      codes: float8_e4m3fn, of the numbers' shape.
      powers: float8_e8m0fnu, with a number for each block of the last dimension.
    """

    codes: np.ndarray
    powers: np.ndarray

    @property
    def numbers(self) -> np.ndarray:
        """What the codes stand for, float32."""
        bits = self.powers.view(np.uint8).astype(np.uint32) << 23
        size = self.codes.shape[-1] // self.powers.shape[-1]
        powers = np.repeat(bits.view(np.float32), size, axis=-1)
        return self.codes.astype(np.float32) * powers


def in_blocks(x: Any, block: int) -> Blocks:
    """Numbers as E4M3 codes, each `block` of the last dimension with the power of its largest.

    Raises:
      LimitExceeded: blocks do not divide that dimension.
    """
    numbers = np.asarray(x, np.float32)
    if not 1 <= block <= numbers.shape[-1] or numbers.shape[-1] % block:
        refuse(f"block is {block}, must divide {numbers.shape[-1]} features")
    blocks = numbers.reshape(*numbers.shape[:-1], -1, block)
    _, exponents = np.frexp(np.abs(blocks).max(-1))  # a fraction of 0.5 to 1 times 2^e
    shared = np.clip(exponents - 1 - LARGEST_EXPONENT, 1 - BIAS, BIAS)
    within = np.ldexp(blocks, -shared[..., None]).clip(-LARGEST, LARGEST)
    codes = within.reshape(numbers.shape).astype(jnp.dtype(CODES))
    powers = (shared + BIAS).astype(np.uint8).view(jnp.dtype(SCALES))
    return Blocks(codes, powers)


@dataclasses.dataclass(frozen=True, eq=False)
class MicroscaledVariant:
    """A variant whose keys and values are in blocks that share a power of two.

    Attributes:
      variant: of the numbers.
      block: features of a key or value that share one.
    """

    variant: Variant
    block: int = 32

    @property
    def name(self) -> str:
        """Of the variant, and how its cache is held."""
        return f"mxfp8 {self.variant.name}"

    def dense(
        self, q: Any, k: Any, v: Any, **options: Any
    ) -> tuple[jax.Array, jax.Array | None]:
        """The oracle: of the numbers that codes stand for.

        Args:
          q: `[batch, heads, queries, head_dim]`.
          k: `[batch, kv_heads, keys, head_dim]`, before they are rounded.
          v: `[batch, kv_heads, keys, value_dim]`, likewise.
          options: as for `Variant.dense`.

        Returns:
          Output and log-sum-exp, as `Variant.dense`.

        Raises:
          LimitExceeded: blocks that do not divide a head.
        """
        return self.variant.dense(q, *self._rounded(k, v), **options)

    def prefill(
        self, q: Any, k: Any, v: Any, **options: Any
    ) -> tuple[jax.Array, jax.Array | None]:
        """Context-parallel prefill on the numbers that codes stand for; see `Variant.prefill`."""
        return self.variant.prefill(q, *self._rounded(k, v), **options)

    def decode(
        self, q: Any, cache: Cache, **options: Any
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Attention of the newest query on the wafer, whose PEs hold codes and powers of two.

        Args:
          q: `[batch, heads, 1, head_dim]`, in bfloat16 or float32, as arithmetic is.
          cache: keys and values, before they are rounded.
          options: as for `Variant.decode`.

        Returns:
          Output and log-sum-exp, as `dense`.
        """
        k, v = (in_blocks(x, self.block) for x in cache)
        powers = k.powers, v.powers
        return self.variant.decode(q, (k.codes, v.codes), powers=powers, **options)

    def _rounded(self, *operands: Any) -> list[np.ndarray]:
        return [in_blocks(x, self.block).numbers for x in operands]

    def time(self, **sizes: Any) -> VariantTime:
        """The clock of both machines; see `Variant.time`."""
        return self._named(self.variant.time(**self._held, **sizes))

    def explain(self, **sizes: Any) -> Explanation:
        """Its live tiles, placement and bounds; see `Variant.explain`."""
        found = self.variant.explain(**self._held, **sizes)
        return self._named(dataclasses.replace(found, clock=self._named(found.clock)))

    @property
    def _held(self) -> dict[str, Any]:
        """How the wafer holds keys and values, as `Variant.time` takes it."""
        return {"cache_dtype": CODES, "block": self.block}

    def _named(self, of_variant: Told) -> Told:
        return dataclasses.replace(of_variant, name=self.name)

    def check(
        self,
        *,
        tokens: int = 24,
        heads: int = 4,
        kv_heads: int = 2,
        head_dim: int = 8,
        batch: int = 2,
        chips: Sequence[int] = (1, 2, 4),
        placements: Sequence[str] = PLACEMENTS,
        seed: int = 0,
    ) -> Report:
        """Compares all forms on random operands; arguments as `kernels.attention.check.check`."""
        rng = np.random.default_rng(seed)
        q, k, v = (
            rng.standard_normal((batch, count, tokens, head_dim)).astype(np.float32)
            for count in (heads, kv_heads, kv_heads)
        )
        allowed = ROUNDING * max(1.0, float(np.abs(v).max()))

        forms = Forms(self.dense, self.prefill, with_cache(self.decode))
        found = on_machines(forms, (q, k, v), tokens - 1, allowed, chips, placements)
        return Report(self.name, tuple(found))

    def __repr__(self) -> str:
        return f"<attention {self.name}>"


__all__ = ["Blocks", "MicroscaledVariant", "in_blocks"]
