"""Generated tokens and logits of two runs, compared as far as both saw the same tokens."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Logits = Sequence[NDArray[Any]] | NDArray[Any]
"""`[vocabulary]` of each generated token, the end of sequence counted."""


def first_difference(ours: Logits, theirs: Logits) -> int | None:
    """The first position at which another token is chosen; None: they choose the same."""
    for index, (one, other) in enumerate(zip(ours, theirs, strict=False)):
        if np.argmax(one) != np.argmax(other):
            return index
    return None


def margin(logits: NDArray[Any]) -> float:
    """By how much the best logit beats the second."""
    second, best = np.sort(logits)[-2:]
    return float(best - second)


def differences(ours: Logits, theirs: Logits) -> NDArray[np.float64]:
    """Of all logits `[compared, vocabulary]`, up to where another token is first chosen."""
    at = first_difference(ours, theirs)
    compared = min(len(ours), len(theirs)) if at is None else at + 1
    own, others = (
        np.stack(list(each[:compared])).astype(np.float64) for each in (ours, theirs)
    )
    return own - others


def logit_error(ours: Logits, theirs: Logits) -> dict[str, float]:
    """Largest and root-mean-square difference of logits, over the largest of theirs."""
    difference = differences(ours, theirs)
    largest = float(np.abs(np.stack(list(theirs[: len(difference)]))).max())
    return {
        "max_over_largest": float(np.abs(difference).max()) / largest,
        "rms_over_largest": math.sqrt(float((difference**2).mean())) / largest,
    }


__all__ = ["differences", "first_difference", "logit_error", "margin"]
