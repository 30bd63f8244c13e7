"""Which attention variant each layer of a decoder has: one for all, or a pattern over the layers.

A pattern is repeated from the first layer on, and its last repetition ends where the layers do:
`[local, local, whole]` over 8 layers is

    layer    0      1      2      3      4      5      6      7
    variant  local  local  whole  local  local  whole  local  local

A decoder must not look ahead. So in a model a variant's pairs are those that its own mask allows
and causality too: `full` becomes causal, `prefix_lm(100)` loses the part of its prefix that lies
ahead, and what is causal already stays as it is.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np

from emu.given import told
from kernels import masks
from kernels.attention.decorator import attention
from kernels.attention.variant import Variant
from models.errors import ModelError


@dataclasses.dataclass(frozen=True)
class Pattern:
    """Variants over the layers of a decoder.

    Attributes:
        variants: As they were given, in the order of the layers; repeated.
    """

    variants: tuple[Variant, ...]

    def __post_init__(self) -> None:
        if not self.variants:
            raise ModelError(
                "attention is a pattern of no variants, must have at least one; leave it out for "
                "causal attention"
            )
        for place, variant in enumerate(self.variants):
            if not isinstance(variant, Variant):
                raise ModelError(
                    f"attention: variant {place} of the pattern is {told(variant)}, must be a "
                    "variant; `kernels.attention(function)` makes one of a score or a mask"
                )

    @functools.cached_property
    def distinct(self) -> tuple[Variant, ...]:
        """Each variant once, in the order of their first layers."""
        return tuple(dict.fromkeys(self.variants))

    @functools.cached_property
    def causal(self) -> tuple[Variant, ...]:
        """`distinct`, none of which looks ahead."""
        return tuple(attention(x, mask=masks.causal) for x in self.distinct)

    def kinds(self, layers: int) -> np.ndarray:
        """Which of `distinct` each layer has, int32 `[layers]`."""
        own = [self.distinct.index(variant) for variant in self.variants]
        return np.resize(np.asarray(own, np.int32), layers)


CAUSAL = Variant("causal", mask=masks.causal)
"""What a decoder's layers have unless they are told otherwise."""

Attention: TypeAlias = Variant | Sequence[Variant] | Pattern | None
"""What a model is told of its attention: None is causal softmax attention in every layer."""


def pattern_of(asked: Attention, layers: int) -> Pattern | None:
    """The pattern that is asked for; None: causal attention.

    Raises:
        ModelError: What is no variant, or more variants than layers.
        CannotLower: A variant that no machine can carry out, with the line that says so.
    """
    if asked is None:
        return None
    pattern = as_pattern(asked)
    if len(pattern.variants) > layers:
        raise ModelError(
            f"attention is a pattern of {len(pattern.variants)} variants, the model has {layers} "
            "layers; give at most one variant a layer"
        )
    read_variants(pattern)
    return pattern


def read_variants(pattern: Pattern) -> None:
    """Reads a pattern's variants, as machines take them.

    Raises:
        ModelError: A variant that a layer cannot have.
        CannotLower: A variant that no machine can carry out, with the line that says so.
    """
    for variant in pattern.distinct:
        # What machines cannot read is refused by the oracle as well, and with the same words.
        variant.reading  # noqa: B018


def as_pattern(asked: Any) -> Pattern:
    """A pattern of a variant or of several.

    Raises:
        ModelError: What is none.
    """
    if isinstance(asked, Pattern):
        return asked
    if isinstance(asked, Variant):
        return Pattern((asked,))
    if isinstance(asked, Sequence) and not isinstance(asked, str):
        return Pattern(tuple(asked))
    raise ModelError(
        f"attention is {told(asked)}, must be a variant or a sequence of variants over the layers; "
        "`kernels.attention(function)` makes a variant of a score or a mask"
    )


__all__ = [
    "CAUSAL",
    "Attention",
    "Pattern",
    "as_pattern",
    "pattern_of",
    "read_variants",
]
