"""The one exception that the model layer raises on purpose, and how it shows what files hold."""

import reprlib
from typing import Any

LONGEST_SHOWN = 80  # characters of a value or a name out of a file


class ModelError(ValueError):
    """A model, a weight file or a tokenizer is not what was expected.

    The message is one line: what was expected, what arrived, and what to do about it. Files can
    name things anything, so characters that a terminal acts on, or that no terminal can encode, are
    written as escapes.
    """

    def __init__(self, message: str) -> None:
        one_line = " ".join(message.split())
        super().__init__("".join(map(printable, one_line)))


def printable(character: str) -> str:
    """The character, or its escape: `\\x1b` would act on a terminal, `\\ud800` has no encoding."""
    if character.isprintable():
        return character
    return character.encode("unicode_escape").decode("ascii")


def shown(value: Any) -> str:
    """A value out of a file for a message: its `repr`, shortened in the middle where it is long."""
    short = reprlib.Repr()
    short.maxstring = short.maxother = LONGEST_SHOWN
    return short.repr(value)
