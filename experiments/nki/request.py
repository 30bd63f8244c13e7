"""Which NKI kernel, with which arguments, the words of a command line ask for."""

import dataclasses
import inspect
import zlib
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from emu.given import told
from experiments.kernel.own import EXAMPLE, array
from experiments.nki.kernel_file import KernelFile
from experiments.shared import numbers
from experiments.shared.errors import UsageError
from experiments.shared.pairs import once

Argument: TypeAlias = (
    jax.ShapeDtypeStruct | np.ndarray | int | float | bool | str | None
)
"""What a kernel is given: an array, its shape alone, or a value that its Python code sees."""

WORDS: dict[str, Argument] = {"True": True, "False": False, "None": None}


@dataclasses.dataclass(frozen=True)
class Request:
    """A kernel and its arguments.

    Attributes:
      file: in which it stands.
      positional: arguments in order.
      named: arguments by name.
      grid: of the launch; `()` launches one program.
    """

    file: KernelFile
    positional: tuple[Argument, ...]
    named: dict[str, Argument]
    grid: tuple[int, ...]

    @property
    def title(self) -> str:
        """The kernel, and its arguments as they may be given."""
        named = [f"{name}={_short(value)}" for name, value in self.named.items()]
        return " ".join([self.file.title, *map(_short, self.positional), *named])

    @property
    def arguments(self) -> tuple[Argument, ...] | dict[str, Argument]:
        """As `nki_time` takes them."""
        return self.named if self.named else self.positional

    @property
    def arrays(self) -> list[np.ndarray]:
        """Those of the arguments that are arrays, in order."""
        given = (*self.positional, *self.named.values())
        return [value for value in given if isinstance(value, np.ndarray)]

    def with_values(self, seed: int) -> "Request":
        """With random values for arrays of which only the shape was given."""
        positional = tuple(
            _valued(value, f"{seed}.{place}")
            for place, value in enumerate(self.positional)
        )
        named = {
            name: _valued(value, f"{seed}.{name}") for name, value in self.named.items()
        }
        return dataclasses.replace(self, positional=positional, named=named)


def by_arguments(file: KernelFile, words: Sequence[str], grid: str | None) -> Request:
    """Of `--arg NAME=VALUE` words.

    Raises:
      UsageError: a word that is no argument of the kernel, or one that is missing.
    """
    given = once(_pair(file, word) for word in words)
    missing = [
        name
        for name, parameter in _parameters(file).items()
        if parameter.default is parameter.empty and name not in given
    ]
    if missing:
        wanted = " ".join(f"--arg {name}={EXAMPLE}" for name in missing)
        raise UsageError(f"{file.title}: give {wanted}, or --inputs FILE.py:FUNCTION")
    return Request(file, (), given, grid_of(grid))


def by_function(
    file: KernelFile, inputs: Callable[[], Any], told_as: str, grid: str | None
) -> Request:
    """Of a function without parameters that gives the kernel's arguments.

    Args:
      file: of the kernel.
      inputs: gives a sequence of arguments, or a mapping by name.
      told_as: the function, as the user named it.
      grid: as on the command line.

    Raises:
      UsageError: it gives something else.
    """
    found = inputs()
    if isinstance(found, dict):
        return Request(file, (), dict(found), grid_of(grid))
    if not isinstance(found, list | tuple):
        kind = type(found).__name__
        raise UsageError(
            f"--inputs {told_as}: gives a {kind}, must give a list of the kernel's arguments, or "
            "a dict of them by name"
        )
    return Request(file, tuple(found), {}, grid_of(grid))


def grid_of(text: str | None) -> tuple[int, ...]:
    """The grid that `2` or `4,2` tells of.

    Raises:
      UsageError: it tells of none.
    """
    if text is None:
        return ()
    try:
        return tuple(numbers.whole("--grid", size, 1) for size in text.split(","))
    except ValueError as error:
        raise UsageError(str(error)) from None


def _parameters(file: KernelFile) -> dict[str, inspect.Parameter]:
    found = inspect.signature(getattr(file.kernel, "func", file.kernel)).parameters
    kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return {name: each for name, each in found.items() if each.kind not in kinds}


def _pair(file: KernelFile, word: str) -> tuple[str, Argument]:
    name, equals, text = word.partition("=")
    known = _parameters(file)
    if not equals or name not in known:
        raise UsageError(
            f"--arg {told(word)}: {file.title} takes NAME=VALUE for {', '.join(known) or 'nothing'}"
        )
    try:
        return name, _value(text)
    except ValueError as error:
        raise UsageError(f"--arg {told(word)}: {error}") from None


def _value(text: str) -> Argument:
    if "[" in text:
        return array(text)
    if text in WORDS:
        return WORDS[text]
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _valued(argument: Argument, key: str) -> Argument:
    """Random values of an array's shape: normal ones, or whole numbers from 0 to 3."""
    if not isinstance(argument, jax.ShapeDtypeStruct):
        return argument
    # Of each argument its own, whatever the others are.
    generator = np.random.default_rng(zlib.crc32(key.encode()))
    if jnp.issubdtype(argument.dtype, jnp.floating):
        values = generator.standard_normal(argument.shape, np.float32)
        return values.astype(argument.dtype)
    return generator.integers(0, 4, argument.shape).astype(argument.dtype)


def _short(value: Argument) -> str:
    if isinstance(value, jax.ShapeDtypeStruct | np.ndarray | jax.Array):
        return f"{value.dtype}[{','.join(map(str, value.shape))}]"
    return str(value)


__all__ = ["Argument", "Request", "by_arguments", "by_function", "grid_of"]
