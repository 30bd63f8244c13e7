"""A user's function that gives inputs, or the reference that a kernel's values are held against."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from emu.trainium.nki import load
from experiments.shared.errors import UsageError
from kernels import user_file


@dataclasses.dataclass(frozen=True)
class UserFunction:
    """A function of a user's file.

    Attributes:
      reference: where it stands.
      call: the function.
    """

    reference: user_file.Reference
    call: Callable[..., Any]


def function(text: str, option: str) -> UserFunction:
    """The function that `FILE.py:FUNCTION` names.

    Raises:
      UsageError: it names none.
      UserFileError: the file cannot be loaded.
    """
    reference = user_file.reference(text)
    if reference is None or not reference.name:
        raise UsageError(f"{option} {text}: must be FILE.py:FUNCTION")
    # It may stand in the kernel's own file, beside what that imports.
    with user_file.errors_in_one_line(reference):
        found = getattr(load.load(reference.path), reference.name, None)
    if not callable(found):
        raise UsageError(
            f"{option} {text}: {reference.path} has no function {reference.name!r}"
        )
    return UserFunction(reference, found)


def difference(got: Any, wanted: Any, told_as: str) -> float:
    """The largest difference over the largest value, of all results together.

    Raises:
      UsageError: the reference gives other results in number or shape.
    """
    left = _results(got)
    right = _results(wanted)
    if [x.shape for x in left] != [x.shape for x in right]:
        shapes = [[list(x.shape) for x in results] for results in (left, right)]
        raise UsageError(
            f"--check {told_as}: gives results of {shapes[1]}, the kernel's are {shapes[0]}"
        )
    apart = max(
        float(np.max(np.abs(a - b), initial=0))
        for a, b in zip(left, right, strict=True)
    )
    largest = max(float(np.max(np.abs(b), initial=0)) for b in right)
    return apart / largest if largest else apart


def _results(value: Any) -> list[np.ndarray]:
    results = value if isinstance(value, list | tuple) else [value]
    return [np.asarray(result).astype(np.float64) for result in results]


__all__ = ["UserFunction", "difference", "function"]
