"""The page of NKI's functions that are supported, from the tables that stub modules are made of.

A name that is in no table is an error that names it, where a kernel uses it.
"""

import inspect
from collections.abc import Mapping

from emu.trainium.nki import new, old
from emu.trainium.nki.dtypes import DTYPES

GENERATIONS: Mapping[str, Mapping[str, Mapping[str, object]]] = {
    "neuronxcc.nki": {
        "neuronxcc.nki.language": old.LANGUAGE,
        "neuronxcc.nki.isa": old.ISA,
    },
    "nki": {"nki.language": new.LANGUAGE, "nki.isa": new.ISA},
}


def markdown() -> str:
    """Every function of each generation with its arguments, then all other names."""
    parts = [
        "# NKI functions",
        "What a kernel may call ([time one](../nki.md)). A function of NKI that is not here is an "
        "error that names it, with the kernel's line.",
    ]
    for api, modules in GENERATIONS.items():
        parts.append(f"## {api}")
        for module, table in modules.items():
            parts.append(_module(module, table))
    formats = ", ".join(f"`{name}`" for name in DTYPES)
    parts.append(f"## Element formats\n\n{formats}")
    return "\n\n".join(parts)


def _module(name: str, table: Mapping[str, object]) -> str:
    rows = [
        f"- `{key}({', '.join(inspect.signature(value).parameters)})`"
        for key, value in sorted(table.items())
        if inspect.isfunction(value)
    ]
    others = [
        f"`{key}`"
        for key, value in sorted(table.items())
        if not inspect.isfunction(value)
    ]
    functions = "\n".join(rows)
    return f"### {name}\n\n{functions}\n\nOther names: {', '.join(others)}."


__all__ = ["markdown"]
