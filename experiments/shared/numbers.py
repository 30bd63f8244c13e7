"""Whole numbers of a command line: what is none, too small or too large is told by its name."""

from emu.given import told

MOST_DIGITS = 30
"""More digits than any count has; Python refuses to read some thousand of them."""


def whole(
    name: str, text: str, least: int, most: int | None = None, remedy: str = ""
) -> int:
    """The number that a word is.

    Args:
      name: of the option or parameter, as an error begins: `--tokens`.
      text: the word.
      least, most: that are allowed.
      remedy: what to do about one that is too large.

    Raises:
      ValueError: it is none, or out of these bounds.
    """
    limit = (
        f"at most {most}" if most is not None else f"of at most {MOST_DIGITS} digits"
    )
    after = f"; {remedy}" if remedy else ""
    digits = text.strip().lstrip("+-")
    if len(digits) > MOST_DIGITS and digits.isdecimal():
        raise ValueError(
            f"{name} is {told(text)}, must be a whole number {limit}{after}"
        )
    try:
        value = int(text)
    except ValueError:
        raise ValueError(f"{name} is {told(text)}, must be a whole number") from None
    if value < least:
        raise ValueError(f"{name} is {value}, must be at least {least}")
    if most is not None and value > most:
        raise ValueError(f"{name} is {value}, must be {limit}{after}")
    return value
