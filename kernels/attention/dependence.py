"""A mask that would depend on the score's value: shown by an example, and refused."""

from typing import NoReturn

import jax
import numpy as np
from jax.core import Tracer

from emu.lower import CannotLower, Constant, Elementwise, Operation

_POSITIONS = np.array([0, 1, 2, 3, 5, 8, 64, 1000], np.int32)
_HEADS = np.array([0, 1], np.int32)
_SCORES = (0.5, -0.5, 0.0, 2.0, -2.0, 10.0, -10.0, 100.0, -100.0, 1e4, -1e4)


def refuse_dependence(score: Elementwise, operation: Operation) -> NoReturn:
    """Refuses a score whose -inf depends on `s`, with two scores that are told apart.

    Args:
      score: of the arguments `s`, `b`, `h`, `q` and `k`.
      operation: that chooses by `s`.
    """
    example = _example(score)
    told = "" if example is None else f": {example}"
    raise CannotLower(
        f"{score.name}: whether a key is attended depends on the score's value{told}; decide it by "
        "b, h, q and k alone, or take a large number from the score in place of -inf",
        operation.line,
    )


def _example(score: Elementwise) -> str | None:
    """Two scores for one pair of which one is attended; None where none is found."""
    if any(isinstance(x, Tracer) for x in _constants(score)):
        return None
    scores = _scores(score)
    along = {"b": _HEADS, "h": _HEADS, "q": _POSITIONS, "k": _POSITIONS, "s": scores}
    with jax.ensure_compile_time_eval():
        values = np.asarray(score.over(score.result, along))
    dead = np.isneginf(values)
    differs = dead.any(-1) & ~dead.all(-1)
    if not differs.any():
        return None
    b, h, q, k = np.argwhere(differs)[0]
    found = dead[b, h, q, k]
    attended, not_attended = scores[~found][0], scores[found][0]
    return (
        f"for b={_HEADS[b]}, h={_HEADS[h]}, q={_POSITIONS[q]}, k={_POSITIONS[k]} a score of "
        f"{attended:g} is attended and one of {not_attended:g} is not"
    )


def _constants(score: Elementwise) -> list[object]:
    found = []
    for operation in score.operations:
        operands = operation.operands
        found += [x.value for x in operands if isinstance(x, Constant)]
    return found


def _scores(score: Elementwise) -> np.ndarray:
    """Scores to try: usual ones, and those beside each number that the function holds."""
    # Such as 7 of `where(s > 7, s, -inf)`.
    found = list(_SCORES)
    for value in _constants(score):
        number = Constant(value).number
        if number is not None and np.isfinite(number):
            found += [float(number) + step for step in (0.25, -0.25)]
    return np.array(found, np.float32)


__all__ = ["refuse_dependence"]
