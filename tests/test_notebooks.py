"""Notebooks print what is stored in them, and are shown as pages."""

import pathlib
import re
import traceback
from typing import Any

import pytest

from docs import notebook

ROOT = pathlib.Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))
SLOW = "slow"
# Errors are roundings, which another version of XLA makes otherwise.
ROUNDED = re.compile(r"\d\.\de-\d\d")


def told(outputs: list[dict[str, Any]]) -> list[str]:
    """The words of outputs; a picture is one of them."""
    found: list[str] = []
    for output in outputs:
        data = output.get("data", {})
        lines = output.get("text") or data["text/plain"]
        found.append(ROUNDED.sub("rounding", notebook.text(lines)))
        found += [kind for kind in data if kind == "image/png"]
    return found


def is_slow(cell: notebook.Cell) -> bool:
    return SLOW in cell["metadata"].get("tags", ())


def assert_prints_what_is_stored(path: pathlib.Path, *, slow: bool) -> None:
    """Also of its slow cells, which no other needs."""
    found = notebook.load(path)
    found["cells"] = [x for x in found["cells"] if slow or not is_slow(x)]
    printed = notebook.run(found, path.name)
    for cell, outputs in zip(notebook.code_of(found), printed, strict=True):
        assert told(outputs) == told(cell["outputs"]), notebook.text(cell["source"])


@pytest.fixture(autouse=True)
def as_a_reader_has_it() -> Any:
    """Without what tests forbid and a notebook's reader may do."""
    import jax

    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_cells_print_what_is_stored(path: pathlib.Path) -> None:
    assert_prints_what_is_stored(path, slow=False)


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_all_cells_print_what_is_stored(path: pathlib.Path) -> None:
    assert_prints_what_is_stored(path, slow=True)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_all_cells_were_run_and_have_a_page(path: pathlib.Path) -> None:
    cells = notebook.code_of(notebook.load(path))
    numbers = [cell["execution_count"] for cell in cells]
    assert numbers == list(range(1, len(cells) + 1))
    page = notebook.markdown(path)
    for cell in notebook.load(path)["cells"]:
        assert notebook.text(cell["source"]).strip() in page
        for words in told(cell.get("outputs", [])):
            first = words.splitlines()[0]
            assert ROUNDED.sub("rounding", first) in ROUNDED.sub("rounding", page)
    assert f"notebooks/{path.stem}.md" in (ROOT / "mkdocs.yml").read_text()


def test_a_notebook_is_run_as_jupyter_runs_it() -> None:
    def cell(source: str) -> dict[str, Any]:
        return {"cell_type": "code", "metadata": {}, "source": source}

    sources = ["x = 2\nprint(x)", "y = x + 1\ny", "y;\n'more'", "None"]
    cells = [cell(source) for source in sources]
    printed = notebook.run({"cells": cells}, "mine.ipynb")
    assert [told(outputs) for outputs in printed] == [["2\n"], ["3"], ["'more'"], []]
    with pytest.raises(ZeroDivisionError) as caught:
        notebook.run({"cells": [cell("x = 1\n1 / 0")]}, "mine.ipynb")
    *_, last = traceback.extract_tb(caught.value.__traceback__)
    assert (last.filename, last.lineno) == ("mine.ipynb", 2)
