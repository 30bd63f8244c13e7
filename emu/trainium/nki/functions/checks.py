"""How a kernel is refused: in NKI's terms, with the kernel's file and line."""

from typing import NoReturn

from emu.errors import NkiError
from emu.trainium.nki.record import current


def refuse(function: str, what: str) -> NoReturn:
    """Raises for the call of `function` that the kernel is making.

    Args:
      function: NKI's name of it.
      what: was given, and what it must be.
    """
    raise NkiError(f"{function}: {what}", str(current().place()))
