"""Runs the cells of an example while the site is built, and shows each with what it printed.

A cell of `examples/NAME.py` begins with a line `# %% CELL`, as editors that run cells have it. A
tutorial shows it by a block of code that is run when the page is built:

    ```python exec="1" session="first_kernel"
    from cells import show
    print(show("first_kernel", "kernel"))
    ```

What fails in a cell fails the build.
"""

import base64
import contextlib
import io
import pathlib
import re
from typing import Any

EXAMPLES = pathlib.Path(__file__).parents[1] / "examples"
MARK = re.compile(r"^# %% (\w+)\n", re.MULTILINE)

# Example to the names that its cells have defined so far.
namespaces: dict[str, dict[str, Any]] = {}


def cells(name: str) -> dict[str, str]:
    """An example's cells in order: name to code, each behind as many empty lines as keep its place.

    An error or a report then names the example's own file and line.
    """
    text = (EXAMPLES / f"{name}.py").read_text(encoding="utf-8")
    marks = list(MARK.finditer(text))
    ends = [mark.start() for mark in marks[1:]] + [len(text)]
    found = {}
    for mark, end in zip(marks, ends, strict=True):
        lines_before = text.count("\n", 0, mark.end())
        found[mark[1]] = "\n" * lines_before + text[mark.end() : end].rstrip() + "\n"
    return found


def show(name: str, cell: str) -> str:
    """Runs the next cell of an example; its code and what it printed, as Markdown."""
    code = cells(name)[cell]
    printed = run(name, cell, code)
    shown = f'```python title="examples/{name}.py"\n{code.strip()}\n```\n'
    return f"{shown}\n```text\n{printed.rstrip()}\n```\n" if printed else shown


def run(name: str, cell: str, code: str) -> str:
    """Runs a cell after those before it; what it printed."""
    first = next(iter(cells(name)))
    if cell == first:
        # A module of its own, because dataclasses and JAX look one up by name.
        namespaces[name] = {"__name__": name, "__file__": str(EXAMPLES / f"{name}.py")}
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, str(EXAMPLES / f"{name}.py"), "exec"), namespaces[name])
    return printed.getvalue()


def names(name: str) -> dict[str, Any]:
    """What the cells that were shown so far have defined."""
    return namespaces[name]


def picture(figure: Any, told: str) -> str:
    """A matplotlib figure as a picture that comes with the page.

    Args:
      figure: which.
      told: what it shows, for those who do not see it.
    """
    drawn = io.BytesIO()
    figure.savefig(drawn, format="svg", bbox_inches="tight")
    data = base64.b64encode(drawn.getvalue()).decode()
    return f'<img class="drawn" alt="{told}" src="data:image/svg+xml;base64,{data}">'
