"""Notebooks: run without Jupyter, stored with what they print, and shown as pages of the site.

`python -m docs.notebook docs/notebooks/NAME.ipynb` runs a notebook's cells in order and stores what
they print in the file. What a cell shows is what it prints and, as in Jupyter, the value of its
last line: a picture where that has `_repr_png_`.
"""

import ast
import base64
import contextlib
import io
import json
import pathlib
import sys
from typing import Any

Cell = dict[str, Any]
"""As the file has it, nbformat 4.5."""


def load(path: pathlib.Path) -> dict[str, Any]:
    """A notebook as its file has it."""
    return json.loads(path.read_text(encoding="utf-8"))


def code_of(notebook: dict[str, Any]) -> list[Cell]:
    """Its cells of code."""
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def text(lines: list[str] | str) -> str:
    """What a file has as lines, or as one string."""
    return lines if isinstance(lines, str) else "".join(lines)


def run(notebook: dict[str, Any], name: str) -> list[list[Cell]]:
    """Runs all cells of code in order; outputs of each, as a file has them.

    Args:
      notebook: which.
      name: of its file, for errors that tell a place in it.
    """
    names: dict[str, Any] = {"__name__": "__main__"}
    return [
        _run_cell(text(cell["source"]), name, number, names)
        for number, cell in enumerate(code_of(notebook), 1)
    ]


def _run_cell(code: str, name: str, number: int, names: dict[str, Any]) -> list[Cell]:
    parsed = ast.parse(code, name)
    *_, last = parsed.body
    value_of = None
    if isinstance(last, ast.Expr):
        value_of = compile(ast.Expression(last.value), name, "eval")
        parsed.body.pop()
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(parsed, name, "exec"), names)
        value = None if value_of is None else eval(value_of, names)
    outputs: list[Cell] = []
    if printed.getvalue():
        lines = printed.getvalue().splitlines(keepends=True)
        outputs.append({"output_type": "stream", "name": "stdout", "text": lines})
    if value is not None:
        data: dict[str, Any] = {"text/plain": [repr(value)]}
        if hasattr(value, "_repr_png_"):
            data["image/png"] = base64.b64encode(value._repr_png_()).decode()
        outputs.append(
            {
                "output_type": "execute_result",
                "execution_count": number,
                "metadata": {},
                "data": data,
            }
        )
    return outputs


def store(path: pathlib.Path) -> None:
    """Runs a notebook and stores its outputs."""
    notebook = load(path)
    for number, (cell, outputs) in enumerate(
        zip(code_of(notebook), run(notebook, path.name), strict=True), 1
    ):
        cell["execution_count"] = number
        cell["outputs"] = outputs
    told = json.dumps(notebook, indent=1, ensure_ascii=False)
    path.write_text(told + "\n", encoding="utf-8")


def markdown(path: pathlib.Path) -> str:
    """A notebook as a page: its texts, its code, and what is stored of outputs."""
    parts: list[str] = []
    for cell in load(path)["cells"]:
        source = text(cell["source"]).strip()
        if cell["cell_type"] == "markdown":
            parts.append(source)
            continue
        parts.append(f"```python\n{source}\n```")
        parts += [_shown(output) for output in cell["outputs"]]
    return "\n\n".join(parts) + "\n"


def _shown(output: Cell) -> str:
    if output["output_type"] == "stream":
        return f"```text\n{text(output['text']).rstrip()}\n```"
    data = output["data"]
    told = text(data["text/plain"])
    if "image/png" in data:
        return f'<img class="drawn" alt="{told}" src="data:image/png;base64,{data["image/png"]}">'
    return f"```text\n{told.rstrip()}\n```"


if __name__ == "__main__":
    for word in sys.argv[1:]:
        store(pathlib.Path(word))
