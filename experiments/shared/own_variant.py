"""A researcher's own attention variant: `FILE.py:NAME` on a command line."""

import contextlib
import dataclasses
from collections.abc import Sequence
from types import ModuleType
from typing import Any

from experiments.shared.errors import UsageError
from kernels import user_file
from kernels.attention.decorator import attention
from kernels.attention.protocol import AttentionVariant
from kernels.attention.variant import Variant


@dataclasses.dataclass(frozen=True)
class OwnVariant:
    """What a file has under a name.

    Attributes:
      found: a score, a mask or a variant, or where that is allowed a sequence of them.
      where: file and name.
    """

    found: Any
    where: user_file.Reference

    @property
    def name(self) -> str:
        """In the file."""
        return self.where.name

    @property
    def names(self) -> list[str]:
        """Of each variant that is found."""
        variant = self.variant()
        return [x.name for x in (variant if _is_sequence(variant) else [variant])]

    def errors_in_one_line(self) -> contextlib.AbstractContextManager[None]:
        """Inside, what the user's code raises is told in one line, with the user's own."""
        return user_file.errors_in_one_line(self.where)

    def variant(self) -> Any:
        """The variant, or a tuple of them.

        Raises:
          CannotLower: a function of other arguments.
        """
        with self.errors_in_one_line():
            if _is_sequence(self.found):
                # A function that is listed twice is one variant.
                made = {id(one): _as_variant(one, None) for one in self.found}
                return tuple(made[id(one)] for one in self.found)
            return _as_variant(self.found, self.name)


def own_variant(option: str, word: str, *, sequences: bool = False) -> OwnVariant:
    """Loads what the words of an option name.

    Args:
      option: its name, as in `--file`.
      word: `FILE.py:NAME`.
      sequences: whether a list or tuple of variants may be named.

    Raises:
      UsageError: a word that names no file, or what the file does not have.
      UserFileError: a file that cannot be loaded.
    """
    wanted = user_file.reference(word)
    if wanted is None or not wanted.name:
        raise UsageError(f"{option} is {word!r}, must be FILE.py:NAME")
    module = user_file.load(wanted)
    known = _known(module, sequences)
    if wanted.name not in known:
        raise UsageError(
            f"{wanted.path} has no function {wanted.name!r}, must be one of "
            f"{', '.join(known) or 'those that it defines, and there are none'}"
        )
    return OwnVariant(getattr(module, wanted.name), wanted)


def _known(module: ModuleType, sequences: bool) -> list[str]:
    """Names of what may be a variant."""
    names = []
    for name, value in vars(module).items():
        # A class that is imported has the methods too.
        is_variant = isinstance(value, AttentionVariant) and not isinstance(value, type)
        is_pattern = _is_pattern(value)
        if is_variant or (sequences and is_pattern):
            names.append(name)
    return names + list(user_file.functions_of(module))


def _is_pattern(value: Any) -> bool:
    """Whether it may be meant as a sequence of variants."""
    if not _is_sequence(value):
        return False
    return any(callable(one) or isinstance(one, AttentionVariant) for one in value)


def _is_sequence(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def _as_variant(found: Any, name: str | None) -> Any:
    """A variant of a function; what is a variant of another kind stays as it is."""
    if isinstance(found, AttentionVariant) and not isinstance(found, Variant):
        return found
    return attention(found, name=name)


__all__ = ["OwnVariant", "own_variant"]
