"""The precision of a run as a plan: what weights, activations and the cache are each held in."""

import dataclasses
from typing import NamedTuple

import jax.numpy as jnp

from emu.annotations import DType
from kernels.formats.formats import FORMATS, Format
from models.errors import ModelError

WIDE = ("float32", "bfloat16", "float16")
PARTS = ("weights", "experts", "activations", "cache")
UNNAMED = "bfloat16"  # what a part has that a plan does not name


class Taken(NamedTuple):
    """What products have activations in, by the part of a plan that their weights are; None: as
    they are.

    Attributes:
      weights: all products of a layer but these:
      experts: the products of experts that a router chooses.
    """

    weights: Format | None = None
    experts: Format | None = None


@dataclasses.dataclass(frozen=True)
class Precision:
    """What each is held in.

    Attributes:
      weights: of every product of a layer but its experts'. Embedding, norms, biases, routers and
        the output head stay in `wide`, as published checkpoints keep them. A router's do so for a
        reason besides: an error in the logits is not one of its size, it is another expert.
      experts: weights of the experts that a router chooses, as published checkpoints hold them
        apart: gpt-oss has these in MXFP4 and Kimi-K2-Thinking in int4, and all else in bfloat16.
        MLPs that every token goes through besides, shared experts, are among `weights`.
      activations: as a product takes them whose weights are in codes; a product whose weights are
        not has them as they are, and between products they are `wide`.
      cache: keys and values, or latents.
      wide: dtype of everything that is not in codes, one of `WIDE`; sums are float32.
    """

    weights: Format
    experts: Format
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
    def taken(self) -> Taken:
        """What products have activations in."""
        own = self.activations if self.activations.is_coded else None
        coded = (held.is_coded for held in (self.weights, self.experts))
        return Taken(*(own if each else None for each in coded))

    @property
    def name(self) -> str:
        """As `precision` reads it: one word where one says it all, else each part's."""
        for word in FORMATS:
            if precision(word) == self:
                return word
        # As where they are not named.
        alike = self.experts == self.weights
        named = {
            part: held.name
            for part, held in self.parts.items()
            if (not alike if part == "experts" else held.name != UNNAMED)
        }
        return ",".join(f"{part}={name}" for part, name in named.items())


def precision(words: str) -> Precision:
    """The plan that words name.

    Args:
      words: one format, or parts with theirs, as `weights=mxfp4,activations=bfloat16,cache=fp8`; a
        part that is not named is in the wide dtype of those that are, or in `bfloat16` where all of
        them are in codes; experts that are not named are in what other weights are, so that
        `experts=mxfp4` is gpt-oss's checkpoint. One format alone: `float32`, `bfloat16` and
        `float16` are everything's, the others' are the weights'; a product that has both operands
        in codes, as MXFP8's and FP8's, has activations in them too; the cache is bfloat16 then.

    Raises:
      ModelError: no such format or part, a part named twice, two wide dtypes, or activations in
        codes beside no weights that are.
    """
    if "=" not in words:
        held = _format(words)
        wide = held if held.name in WIDE else FORMATS["bfloat16"]
        # Codes without arithmetic of their own, int8 and the 4 bits, are made wide for a product.
        together = held if held.element == "float8_e4m3fn" else wide
        return Precision(held, held, together, wide, wide.name)
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
    named.setdefault("experts", named.get("weights", wide))
    plan = Precision(
        *(named.get(part, wide) for part in PARTS),
        wide=wide.name,
    )
    if plan.activations.is_coded and plan.taken == Taken():
        raise ModelError(
            f"precision {words!r}: activations are in codes only for products whose weights are, "
            "name weights or experts in codes too"
        )
    return plan


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


__all__ = ["PARTS", "WIDE", "Precision", "Taken", "as_precision", "precision"]
