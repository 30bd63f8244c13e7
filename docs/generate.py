"""Writes the pages that are made from the repository: reference, experiments, and its own texts.

Run by `mkdocs build`. Nothing on these pages has a second home: API pages come from docstrings,
machines' numbers from their datasheets, experiments from their command lines, notebooks from what
is stored in them, and the texts are the repository's Markdown files with links that work on the
site.
"""

import importlib
import os
import pathlib
import posixpath
import re
import sys
import types
from collections.abc import Mapping
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("COLUMNS", "88")  # of what argparse prints

import mkdocs_gen_files

ROOT = pathlib.Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "docs")]  # for `cells` in the tutorials, too

import instructions
import nki_functions

from docs import notebook
from emu.datasheet import Quantity, Sheet
from emu.trainium import TRN1, TRN2, TRN3
from emu.wse import WSE2, WSE3, WSE3_SILICON
from experiments.__main__ import command_of, experiments
from experiments.shared import cli

# Files of the repository and their pages.
TEXTS = {
    "README.md": "index.md",
    "DESIGN.md": "design.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "emu/loops/README.md": "loops.md",
}
PACKAGES = ("emu", "emu.trainium", "emu.wse", "kernels", "models")
SHEETS = {
    "TRN1": TRN1,
    "TRN2": TRN2,
    "TRN3": TRN3,
    "WSE2": WSE2,
    "WSE3": WSE3,
    "WSE3_SILICON": WSE3_SILICON,
}


def write(page: str, text: str) -> None:
    with mkdocs_gen_files.open(page, "w") as file:
        file.write(text.rstrip() + "\n")


# --- the repository's texts ---

LINK = re.compile(r"(?<=\]\()(?!https?:|#)([^)#\s]+)(#[^)\s]*)?(?=\))")


def on_site(text: str, home: str) -> str:
    """A file's Markdown with links to files of the repository turned into links to pages.

    Raises:
      ValueError: a file is linked that has no page.
    """

    def page_of(link: re.Match[str]) -> str:
        path = posixpath.normpath(posixpath.join(posixpath.dirname(home), link[1]))
        if path in TEXTS:
            target = TEXTS[path]
        elif path.startswith("docs/"):
            target = path.removeprefix("docs/")
        else:
            raise ValueError(
                f"{home} links to {path}, which has no page: add it to TEXTS"
            )
        here = posixpath.dirname(TEXTS[home])
        return posixpath.relpath(target, here or ".") + (link[2] or "")

    return LINK.sub(page_of, text)


# --- the API ---


def api(package: str) -> str:
    """The page of a package: its words, then all that its `__all__` names."""
    module = importlib.import_module(package)
    parts = [f"# {package}", module.__doc__ or ""]
    parts += [entry(package, name, getattr(module, name)) for name in module.__all__]
    return "\n\n".join(parts)


def entry(package: str, name: str, value: Any) -> str:
    """One name: what its docstring says, or for data what it holds."""
    if isinstance(value, types.ModuleType):
        return f"## `{name}`\n\n{module_of(value)}"
    if isinstance(value, Sheet):
        link = f"[its numbers](datasheets.md#{name.lower()})"
        return f"## `{name}`\n\nThe datasheet of {value.name}: {link}."
    if isinstance(value, Mapping):
        rows = [f"| `{key}` | {first_line(item)} |" for key, item in value.items()]
        return "\n".join([f"## `{name}`", "", "| | |", "|---|---|", *rows])
    if isinstance(value, tuple):
        items = "".join(f"- {first_line(item)}\n" for item in value)
        return f"## `{name}`\n\n{items}"
    if callable(value):
        return f"::: {package}.{name}"
    return f"## `{name}`\n\n{first_line(value)}"


def module_of(module: types.ModuleType) -> str:
    """What a module offers: each name and the first line of its docstring."""
    rows = []
    for name in getattr(module, "__all__", ()):
        rows.append(f"| `{name}` | {first_line(getattr(module, name))} |")
    words = [module.__doc__ or ""]
    if module.__name__ == "emu.trainium.isa":
        words.append(
            "Their signatures, costs and limits: [Instructions](instructions.md)."
        )
    return "\n\n".join(words) + "\n\n" + "\n".join(["| | |", "|---|---|", *rows])


def first_line(value: Any) -> str:
    """What a value is, in one line of a table."""
    if isinstance(value, Sheet):
        return value.name
    described = callable(value) or isinstance(value, type)
    said = getattr(value, "description", None) or getattr(value, "what", None)
    text = said or (value.__doc__ if described else getattr(value, "name", value))
    return str(text).strip().splitlines()[0].replace("|", "\\|")


# --- machines ---


def datasheets() -> str:
    """Every number of every machine, with kind, band and source."""
    parts = [
        "# Datasheets",
        "Every number that describes a machine, as `emu` reads it. *Kind* says where a number is "
        "from: **published** by the vendor, **derived** from published numbers, **measured** by "
        "others, **fitted** to the timings whose ids its source names, or **assumed**. *low* and "
        "*high* are the ends that make programs shortest and longest; where there are none, the "
        "number is not in doubt.",
    ]
    for variable, sheet in SHEETS.items():
        rows = [row(name, number) for name, number in sheet.quantities().items()]
        parts.append(f"## `{variable}`, {sheet.name} {{ #{variable.lower()} }}")
        head = "| number | low / nominal / high | kind | source |\n|---|---|---|---|"
        parts.append("\n".join([head, *rows]))
    return "\n\n".join(parts)


def row(name: str, number: Quantity) -> str:
    values = [shown(number.value)]
    if number.low is not None:
        values = [shown(number.low), *values, shown(number.high)]
    source = re.sub(r"([|<_*])", r"\\\1", number.source)
    return f"| `{name}` | {' / '.join(values)} | {number.kind} | {source} |"


def shown(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return f"`{value}`"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:,.6g}"


# --- experiments ---


def experiments_page() -> str:
    """Each experiment: its question, and what its command line takes."""
    parts = [
        "# Experiments",
        "`python -m experiments.NAME`, or `trn-wse NAME` for short. Each is one question and one "
        "table, takes `--json` (its figures on stdout and nothing else) and `--out DIR` (the "
        "same as a file, with CSV and pictures).",
    ]
    for name, question in experiments().items():
        command = command_of(name)
        parser = cli.parser(name, command.options)
        parts += [
            f"## {name}",
            question,
            f"```text\n{parser.format_help().strip()}\n```",
        ]
    return "\n\n".join(parts)


for home, page in TEXTS.items():
    write(page, on_site((ROOT / home).read_text(encoding="utf-8"), home))
for package in PACKAGES:
    write(f"reference/{package.removeprefix('emu.')}.md", api(package))
write("reference/instructions.md", instructions.markdown())
write("reference/nki.md", nki_functions.markdown())
write("reference/datasheets.md", datasheets())
write("reference/experiments.md", experiments_page())
for path in sorted((ROOT / "docs" / "notebooks").glob("*.ipynb")):
    write(f"notebooks/{path.stem}.md", notebook.markdown(path))
