"""Traces a user's scalar function; what goes wrong is told in words, with the user's own line."""

import inspect
import os
import traceback
from collections.abc import Callable, Sequence
from typing import Any

import jax

from emu.errors import EmulationError
from emu.tracing import jaxpr as jaxprs


class CannotTrace(Exception):
    """A function that JAX cannot trace.

    Attributes:
      what: went wrong, and what to write instead.
      line: `file.py:line` of the user's.
    """

    def __init__(self, what: str, line: str):
        super().__init__(what)
        self.what = what
        self.line = line


def traced(
    function: Callable[..., Any], arguments: Sequence[jax.ShapeDtypeStruct]
) -> jaxprs.Body:
    """The jaxpr of a function of scalars.

    Raises:
      CannotTrace: JAX cannot trace it, or it raises.
    """
    try:
        # A user's arithmetic mixes integers and floats, whatever the program around it allows.
        with jax.numpy_dtype_promotion("standard"):
            jaxpr = jax.make_jaxpr(function)(*arguments)
    except jax.errors.TracerBoolConversionError as error:
        raise CannotTrace(
            "asks whether a value is true, but all values are meant at once; write `&`, `|`, `~` "
            "or `jnp.where` in place of `and`, `or`, `not` or `if`",
            raised_at(error, function),
        ) from None
    except (
        jax.errors.TracerArrayConversionError,
        jax.errors.TracerIntegerConversionError,
        jax.errors.ConcretizationTypeError,
    ) as error:
        raise CannotTrace(
            "hands a value to NumPy or Python, which want one number; use `jnp`, and "
            "`jnp.asarray(table)[k]` for a NumPy table",
            raised_at(error, function),
        ) from None
    except EmulationError:
        raise
    except Exception as error:  # whatever a user's function raises
        first, *_ = str(error).splitlines() or [""]
        raise CannotTrace(
            f"raises {type(error).__name__}: {first}", raised_at(error, function)
        ) from None
    return jaxprs.body(jaxpr)


def raised_at(error: BaseException, function: Callable[..., Any]) -> str:
    """`file.py:line` at which an error left the function's file, or the innermost of a kernel."""
    code = getattr(inspect.unwrap(function), "__code__", None)
    own = None if code is None else code.co_filename
    found = "unknown line"
    for frame in traceback.extract_tb(error.__traceback__):
        is_own = own is None and jaxprs.is_kernel_file(frame.filename)
        if frame.filename == own or is_own:
            found = f"{os.path.basename(frame.filename)}:{frame.lineno}"
    return found


def defined_at(function: Callable[..., Any]) -> str:
    """`file.py:line` where a function begins."""
    code = getattr(inspect.unwrap(function), "__code__", None)
    if code is None:
        return "unknown line"
    return f"{os.path.basename(code.co_filename)}:{code.co_firstlineno}"


__all__ = ["CannotTrace", "defined_at", "raised_at", "traced"]
