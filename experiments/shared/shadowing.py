"""Whether Python finds the project's own packages, or others of their names that come first.

`python -m` looks in the working directory before anywhere else, and so does an empty entry of
PYTHONPATH. There a folder of weights called `models` is a package to Python, even an empty one.
Only what is of this package is imported here: the rest may be the wrong thing.
"""

import importlib.machinery
import importlib.util
import os
import pathlib

from experiments.shared.errors import BAD_INPUT, complain

ROOT = pathlib.Path(__file__).parents[2]
PACKAGES = ("emu", "experiments", "kernels", "models")


def check() -> None:
    """Ends the process with one line where something shadows a package of the project."""
    for name in PACKAGES:
        ours, found = ROOT / name, place(importlib.util.find_spec(name))
        if found is not None and not _same(found, ours):
            complain(
                f"{found} shadows the package {name!r} of {ours}, as Python looks in "
                f"{found.parent} first; rename it, or run trn-wse, or python -m from another "
                "folder"
            )
            raise SystemExit(BAD_INPUT)


def place(spec: importlib.machinery.ModuleSpec | None) -> pathlib.Path | None:
    """The folder of a package, or the file of a module."""
    if spec is None:
        return None
    for folder in spec.submodule_search_locations or ():
        return pathlib.Path(folder)
    return None if spec.origin is None else pathlib.Path(spec.origin)


def _same(one: pathlib.Path, other: pathlib.Path) -> bool:
    return os.path.realpath(one) == os.path.realpath(other)
