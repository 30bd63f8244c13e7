"""The documentation site leaves out no page, no cell of an example and no public name."""

import importlib
import inspect
import pathlib
import re

import pytest

from docs import nki_functions
from tests.test_public_face import FACES

ROOT = pathlib.Path(__file__).parents[1]
DOCS = ROOT / "docs"
EXAMPLES = sorted(path.stem for path in ROOT.glob("examples/*.py"))
SHOWN = re.compile(r'^print\(show\("(\w+)", "(\w+)"\)\)$', re.MULTILINE)
CELL = re.compile(r"^# %% (\w+)$", re.MULTILINE)


def read(path):
    return path.read_text(encoding="utf-8")


def navigation():
    """Every page that the site's navigation names."""
    return set(
        re.findall(r"[\w/]+\.md", read(ROOT / "mkdocs.yml").split("\nnav:\n")[1])
    )


def test_every_page_is_in_the_navigation():
    written = {str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md")}
    assert len(written) == 9  # the tutorials, their list, and the page on NKI kernels
    assert written < navigation()


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_tutorial_shows_a_whole_example_in_order(name):
    cells = CELL.findall(read(ROOT / "examples" / f"{name}.py"))
    assert cells
    shown = SHOWN.findall(read(DOCS / "tutorials" / f"{name}.md"))
    assert shown == [(name, cell) for cell in cells]


def test_every_tutorial_has_an_example():
    tutorials = {path.stem for path in DOCS.glob("tutorials/*.md")}
    assert tutorials == {*EXAMPLES, "index"}


def test_the_list_of_nki_functions_is_that_of_the_tables():
    page = nki_functions.markdown()
    for generation in ("neuronxcc.nki", "nki"):
        for function in ("isa.nc_matmul", "isa.activation", "language.affine_range"):
            module, name = f"{generation}.{function}".rsplit(".", 1)
            section = page.split(f"### {module}\n")[1].split("\n#")[0]
            assert f"`{name}(" in section
    assert "`nc_matmul(dst, stationary, moving," in page
    assert "`nc_matmul(stationary, moving," in page


@pytest.mark.parametrize("package", FACES)
def test_every_public_name_has_a_docstring(package):
    module = importlib.import_module(package)
    for name in module.__all__:
        value = getattr(module, name)
        if callable(value) or inspect.ismodule(value):
            assert inspect.getdoc(value), f"{package}.{name}"
