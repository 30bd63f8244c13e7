"""Calls that stand at a line of another file, for functions that were generated from it.

JAX keeps, for each equation, the stack that traced it; errors, traces and reports name the nearest
line on it that is a kernel's (`emu.tracing.jaxpr.location`). A function that was made from a
kernel's file, but is not the code in it, calls through a frame that has that file and line.
"""

import functools
import types
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


# On one line, so that the first line of its code is the one on which it calls.
_call: types.FunctionType = lambda function: function()  # noqa: E731


def at(file: str, line: int, function: Callable[[], T]) -> T:
    """`function()`, called from a frame at `line` of `file`."""
    return _frame(file, line)(function)


@functools.lru_cache(maxsize=4096)
def _frame(file: str, line: int) -> Callable[[Callable[[], T]], T]:
    code = _call.__code__.replace(co_filename=file, co_firstlineno=line)
    return types.FunctionType(code, globals())


__all__ = ["at"]
