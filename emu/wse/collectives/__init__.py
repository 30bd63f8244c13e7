"""The wafer's collectives, a folder each: meaning, arrival formula, fabric program.

The list is made from the folders, so adding a collective is adding a folder whose `__init__.py`
declares `COLLECTIVE` (and its test); nothing else has to know.
"""

import importlib
import pkgutil

from emu.wse.collectives.collective import Collective


def _in_folders() -> dict[str, Collective]:
    folders = [module.name for module in pkgutil.iter_modules(__path__) if module.ispkg]
    return {
        name: importlib.import_module(f"{__name__}.{name}").COLLECTIVE
        for name in folders
    }


COLLECTIVES = _in_folders()
"""By name, that of the folder."""

__all__ = ["COLLECTIVES", "Collective"]
