"""Which experts a token goes to, and how much each counts: what all families' routers share.

Four experts of which two are chosen, logits `[2, 1, 0, -1]`. A softmax gives shares
`[0.644, 0.237, 0.087, 0.032]`; experts 0 and 1 are chosen, and normalised they count
`[0.731, 0.269]`. Sigmoids give `[0.881, 0.731, 0.5, 0.269]`. With a selection bias of
`[0, 0, 0.4, 0]` experts 0 (0.881) and 2 (0.9) are chosen, and count by their sigmoids without it:
normalised `[0.638, 0.362]`.
"""

import dataclasses
from typing import Literal, TypeAlias

Score: TypeAlias = Literal["softmax", "sigmoid"]


@dataclasses.dataclass(frozen=True)
class Routing:
    """How a layer's router chooses.

    Attributes:
      experts: from which it chooses.
      chosen: experts of a token, at most `experts`.
      score: what is made of the logits: shares of all experts, or each one's own sigmoid.
      selection_bias: whether a learned bias of each expert is added to its score where experts are
        compared, and only there (DeepSeek-V3, arXiv:2412.19437, section 2.1.2).
      groups: of experts side by side, equally many in each; the best groups are chosen first, each
        by the sum of its two best scores. 1: all are compared with each other.
      chosen_groups: how many groups a token's experts may be in.
      normalised: whether the chosen scores are divided by their sum.
      scale: what they are multiplied by in the end.
      on_input: whether an expert's input is multiplied by its weight (Llama 4), not its output.
    """

    experts: int
    chosen: int
    score: Score = "softmax"
    selection_bias: bool = False
    groups: int = 1
    chosen_groups: int = 1
    normalised: bool = True
    scale: float = 1.0
    on_input: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.chosen <= self.experts:
            raise ValueError(
                f"a router of {self.experts} experts must choose 1 to {self.experts} of them, got "
                f"chosen={self.chosen}"
            )
        if self.experts % self.groups or not 1 <= self.chosen_groups <= self.groups:
            raise ValueError(
                f"groups must divide {self.experts} experts and hold the chosen ones, got "
                f"groups={self.groups} and chosen_groups={self.chosen_groups}"
            )
        if self.groups > 1 and self.experts // self.groups < 2:
            raise ValueError(
                "a group is weighed by its two best experts, so it must have two, got "
                f"{self.experts} experts in {self.groups} groups"
            )
        if self.chosen > self.chosen_groups * (self.experts // self.groups):
            raise ValueError(
                f"{self.chosen_groups} of {self.groups} groups hold fewer than the "
                f"{self.chosen} experts to be chosen"
            )


__all__ = ["Routing", "Score"]
