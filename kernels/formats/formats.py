"""The formats that weights, activations and caches are held in: what an element is, what shares a
scale."""

import dataclasses
import functools
import math

import jax.numpy as jnp

FLOAT32, POWER_OF_TWO = "float32", "float8_e8m0fnu"


@dataclasses.dataclass(frozen=True)
class Format:
    """How a matrix `[K, N]` is held whose K rows a product contracts.

    Of weights, N are output features. Activations are held as `[features, tokens]`, keys of one
    head as `[head_dim, tokens]`, values as `[tokens, head_dim]`.

    Attributes:
      name: as users write it.
      element: dtype of one element, by NumPy's or `ml_dtypes`' name.
      block: rows and columns that share a scale, None for all there are: `(32, 1)` is 32
        consecutive contracted rows of one column, `(None, 1)` a column, `(None, None)` the matrix.
        None: there are no scales.
      scale: dtype of a scale; an element stands for itself times its scale.
    """

    name: str
    element: str
    block: tuple[int | None, int | None] | None = None
    scale: str = FLOAT32

    @property
    def is_coded(self) -> bool:
        """Whether elements are codes that stand for numbers only with their scales."""
        return self.block is not None

    @functools.cached_property
    def element_bits(self) -> int:
        """Bits of one element: 4 of int4 and of MXFP4."""
        if self.element == "int8":
            return 8
        if self.element == "int4":
            return 4
        return int(jnp.finfo(self.element).bits)

    @property
    def greatest(self) -> float:
        """The largest number an element stands for: 448 of FP8 E4M3, 127 of int8, 7 of int4."""
        if self.element.startswith("int"):
            # Without the least integer: -128 has no positive counterpart.
            return float(2 ** (self.element_bits - 1) - 1)
        return float(jnp.finfo(self.element).max)

    def blocks(self, rows: int, columns: int) -> tuple[int, int]:
        """How many blocks of a matrix have a scale, down and across; the last may be smaller."""
        assert self.block is not None
        down, across = self.block
        return math.ceil(rows / (down or rows)), math.ceil(
            columns / (across or columns)
        )

    @property
    def bytes_a_number(self) -> float:
        """Of a matrix with its scales, over its numbers: of MXFP4 0.5 + 1 / 32.

        Of a format whose blocks have all rows or columns it depends on how many these are.
        """
        if self.block is None:
            return self.element_bits / 8
        down, across = self.block
        if down is None or across is None:
            raise ValueError(f"{self.name}: has no blocks of a size of their own")
        of_scale = jnp.dtype(self.scale).itemsize / (down * across)
        return self.element_bits / 8 + of_scale

    def held_bytes(self, rows: int, columns: int) -> int:
        """Bytes of a matrix with its scales.

        Llama 3.1 8B's 4,096 x 14,336 are 112 MiB in bfloat16, 57.75 in MXFP8 and 29.75 in MXFP4.
        """
        elements = math.ceil(rows * columns * self.element_bits / 8)
        if self.block is None:
            return elements
        down, across = self.blocks(rows, columns)
        return elements + down * across * jnp.dtype(self.scale).itemsize


_ALL = (
    Format("float32", "float32"),
    Format("bfloat16", "bfloat16"),
    Format("float16", "float16"),
    # A scale for each output feature of weights, for each token of activations.
    Format("fp8", "float8_e4m3fn", (None, 1)),
    Format("fp8_tensor", "float8_e4m3fn", (None, None)),
    # DeepSeek-V3 technical report (arXiv 2412.19437), 3.3.2: 128 x 128 of weights, 1 x 128 of a
    # token's activations.
    Format("fp8_block", "float8_e4m3fn", (128, 128)),
    # Open Compute Project, Microscaling Formats (MX) Specification 1.0.
    Format("mxfp8", "float8_e4m3fn", (32, 1), POWER_OF_TWO),
    Format("mxfp4", "float4_e2m1fn", (32, 1), POWER_OF_TWO),
    Format("int8", "int8", (None, 1)),
    # As compressed-tensors' `pack-quantized` stores Kimi-K2's experts.
    Format("int4", "int4", (32, 1)),
)
FORMATS = {each.name: each for each in _ALL}
"""Every format by its name."""


def of_activations(held: Format) -> Format:
    """The same for activations `[features, tokens]`: a block does not reach over tokens.

    What shares a scale in weights is known before; a token's scale is found as it is computed, and
    must not depend on the tokens beside it. Of `fp8_block`, 128 features of one token; of `fp8` and
    `fp8_tensor`, all of them.
    """
    if held.block is None:
        return held
    down, _ = held.block
    return dataclasses.replace(held, block=(down, 1))


__all__ = ["FLOAT32", "FORMATS", "POWER_OF_TWO", "Format", "of_activations"]
