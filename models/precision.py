"""The precision of a run as a plan: what weights, activations and the cache are each held in."""

import dataclasses

import jax.numpy as jnp

from emu.annotations import DType
from kernels.formats.formats import FORMATS, Format
from models.errors import ModelError

WIDE = ("float32", "bfloat16", "float16")
PARTS = ("weights", "activations", "cache")
UNNAMED = "bfloat16"  # what a part has that a plan does not name


@dataclasses.dataclass(frozen=True)
class Precision:
    """What each is held in.

    Attributes:
      weights: of every product of a layer. Embedding, norms, biases, routers and the output head
        stay in `wide`, as published checkpoints keep them.
      activations: as a product takes them; between products they are `wide`. `wide` itself: a
        product has them as they are.
      cache: keys and values, or latents.
      wide: dtype of everything that is not in codes, one of `WIDE`; sums are float32.
    """

    weights: Format
    activations: Format
    cache: Format
    wide: str

    @property
    def is_plain(self) -> bool:
        """Whether there are no codes: all is in `wide`."""
        return not any(held.is_coded for held in self.parts.values())

    @property
    def parts(self) -> dict[str, Format]:
        """Each of `PARTS` with its format."""
        return {part: getattr(self, part) for part in PARTS}

    @property
    def name(self) -> str:
        """As `precision` reads it: one word where one says it all, else each part's."""
        for word in FORMATS:
            if precision(word) == self:
                return word
        named = {part: x.name for part, x in self.parts.items() if x.name != UNNAMED}
        return ",".join(f"{part}={name}" for part, name in named.items())


def precision(words: str) -> Precision:
    """The plan that words name.

    Args:
      words: one format, or parts with theirs, as `weights=mxfp4,activations=bfloat16,cache=fp8`; a
        part that is not named is in the wide dtype of those that are, or in `bfloat16` where all of
        them are in codes. One format alone: `float32`, `bfloat16` and `float16`
        are everything's, the others' are the weights'; a product that has both operands in codes,
        as MXFP8's and FP8's, has activations in them too; the cache is bfloat16 then.

    Raises:
      ModelError: no such format or part, a part named twice, or two wide dtypes.
    """
    if "=" not in words:
        held = _format(words)
        wide = held if held.name in WIDE else FORMATS["bfloat16"]
        # Codes without arithmetic of their own, int8 and the 4 bits, are made wide for a product.
        together = held if held.element == "float8_e4m3fn" else wide
        return Precision(held, together, wide, wide.name)
    named: dict[str, Format] = {}
    for word in words.split(","):
        part, _, held = word.partition("=")
        if part not in PARTS or part in named:
            expected = ", ".join(PARTS)
            raise ModelError(
                f"precision {words!r}: {part!r} must be one of {expected}, each once"
            )
        named[part] = _format(held)
    wides = {held.name for held in named.values() if held.name in WIDE}
    if len(wides) > 1:
        raise ModelError(
            f"precision {words!r}: what is not in codes is all in one dtype, got "
            f"{' and '.join(sorted(wides))}"
        )
    wide = FORMATS[wides.pop() if wides else UNNAMED]
    return Precision(
        *(named.get(part, wide) for part in PARTS),
        wide=wide.name,
    )


def _format(name: str) -> Format:
    if name not in FORMATS:
        raise ModelError(
            f"there is no format {name!r}, there are {', '.join(FORMATS)}; a plan may name a "
            "part's own, as weights=mxfp4,activations=bfloat16,cache=fp8"
        )
    return FORMATS[name]


def as_precision(dtype: DType | Precision) -> Precision:
    """A plan itself, or that of the words for it, or with everything in a dtype."""
    if isinstance(dtype, Precision):
        return dtype
    return precision(dtype if isinstance(dtype, str) else jnp.dtype(dtype).name)


__all__ = ["PARTS", "WIDE", "Precision", "as_precision", "precision"]
