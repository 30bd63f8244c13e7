"""How kernels refuse what cannot be: with the line of who asked for it, outside the project."""

import os
from typing import NoReturn

from emu.errors import LimitExceeded
from emu.tracing.jaxpr import caller

_ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
_OURS = tuple(
    os.path.join(_ROOT, name) for name in ("kernels", "models", "experiments")
)


def refuse(what: str) -> NoReturn:
    """Raises `LimitExceeded` with the user's line, where the stack has one.

    A kernel of the catalogue is built by reports as well, of which no line would help.
    """
    line = caller(past=_OURS)
    is_script = line.split(":")[0].endswith(".py")
    raise LimitExceeded(what, line if is_script else "")


__all__ = ["refuse"]
