"""Lets a function that JAX traces look values up in the NumPy arrays that it holds.

`slopes[h]` of a NumPy array asks JAX for `h` as a Python number, which a traced value is not; of a
JAX array it is a look-up. So the function is called with JAX arrays in the place of NumPy's, those
of its closure and those of its module that it names:

    slopes = np.array([0.5, 0.25])            closure or module: becomes JAX's
    def score(s, b, h, q, k):
        return s - slopes[h] * (q - k)

Arrays that a function finds by way of another, such as `model.slopes`, stay what they are.
"""

import functools
import types
from collections.abc import Callable, Iterator
from typing import Any

import jax.numpy as jnp
import numpy as np


def with_jax_arrays(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function that holds JAX's arrays where the given one holds NumPy's.

    They are looked up at every call, so an array that is changed in between is seen as it is then.

    Args:
      function: of Python; anything else that can be called is given back as it is.
    """
    if not isinstance(function, types.FunctionType):
        return function
    original = function

    @functools.wraps(original)
    def called(*arguments: Any, **named: Any) -> Any:
        return _rebound(original)(*arguments, **named)

    return called


def _rebound(function: types.FunctionType) -> Callable[..., Any]:
    """The same code with other cells and globals; the function itself if it holds no array."""
    cells = function.__closure__ or ()
    taken = [_taken(cell) for cell in cells]
    named = {name for code in _codes(function.__code__) for name in code.co_names}
    arrays = {
        name: jnp.asarray(value)
        for name, value in function.__globals__.items()
        if name in named and _is_table(value)
    }
    if not arrays and not any(map(_is_table, taken)):
        return function
    rebound = types.FunctionType(
        function.__code__,
        {**function.__globals__, **arrays},
        function.__name__,
        function.__defaults__,
        tuple(
            types.CellType(jnp.asarray(value)) if _is_table(value) else cell
            for cell, value in zip(cells, taken, strict=True)
        ),
    )
    rebound.__kwdefaults__ = function.__kwdefaults__
    return rebound


def _taken(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # a variable that is not assigned yet
        return None


def _codes(code: types.CodeType) -> Iterator[types.CodeType]:
    """A function's code and that of the functions inside it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _codes(constant)


def _is_table(value: Any) -> bool:
    # Of text and objects JAX has no arrays.
    return isinstance(value, np.ndarray) and value.dtype.kind in "biuf"


__all__ = ["with_jax_arrays"]
