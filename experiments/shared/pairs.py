"""KEY=VALUE words of a command line: each key once, so that no value is overruled in silence."""

from collections.abc import Iterable
from typing import TypeVar

from emu.given import told
from experiments.shared.errors import UsageError

Value = TypeVar("Value")


def once(pairs: Iterable[tuple[str, Value]]) -> dict[str, Value]:
    """The values by key.

    Raises:
      UsageError: a key was given two values.
    """
    given: dict[str, Value] = {}
    for key, value in pairs:
        if key in given:
            raise UsageError(
                f"{key} is given twice, as {told(given[key])} and {told(value)}; give one"
            )
        given[key] = value
    return given
