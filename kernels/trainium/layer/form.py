"""What a layer's prefill computes beside what its weights tell, and what tells it positions."""

import dataclasses
from typing import Literal, NamedTuple, TypeAlias

from emu.trainium.spaces import Hbm
from kernels.trainium.layer.gate import GATES, Gate

QueryKeyNorm: TypeAlias = Literal["head", "width", "unit"]
"""How queries and keys are normalised: each head's before RoPE by weights that all heads share; all
heads' together before RoPE by weights of their own; each head's after RoPE without weights."""


@dataclasses.dataclass(frozen=True)
class PrefillForm:
    """Of a layer, whatever its sizes; what else it may have, it has where `LayerWeights` has.

    Attributes:
      turns: whether RoPE turns queries and keys.
      qk_norm: how they are normalised; None: not at all.
      has_temperature: whether queries are multiplied by a factor of their position.
      gate: of the MLP.
    """

    turns: bool = True
    qk_norm: QueryKeyNorm | None = None
    has_temperature: bool = False
    gate: Gate = GATES["silu"]


PLAIN = PrefillForm()


class Positions(NamedTuple):
    """Tables of this core's tokens, float32 in HBM, `[blocks, tiles, rows, features]`.

    Attributes:
      cos, sin: of RoPE, a feature for each pair; fewer pairs than half a head's features turn its
        first ones only. None where no layer turns.
      temperature: what queries are multiplied by, one feature; None where none are.
    """

    cos: Hbm | None
    sin: Hbm | None
    temperature: Hbm | None = None


__all__ = ["PLAIN", "Positions", "PrefillForm", "QueryKeyNorm"]
