"""Imports go one way, `emu` <- `kernels` <- `models` <- `experiments`, and files say their idea."""

import ast
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
LAYERS = ("emu", "kernels", "models", "experiments")
DEVICES = ("trainium", "wse")
# Rooms of `kernels`, each of which may use those to the left; neither machine uses the other.
ROOMS = (
    "formats",
    "masks",
    "tokens",
    "scores",
    "trainium",
    "wse",
    "moe",
    "attention",
    "variants",
)
HEAVY = {"flax", "optax", "rich", "matplotlib"}
FILES = sorted(f for layer in LAYERS for f in (ROOT / layer).rglob("*.py"))
NAMES = [str(f.relative_to(ROOT)) for f in FILES]


def imported(file):
    """Dotted names of every module a file imports, wherever in the file it does."""
    package = file.relative_to(ROOT).parent.parts
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            base = ".".join([*above, *([node.module] if node.module else [])])
            yield from (f"{base}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("file", FILES, ids=NAMES)
def test_imports_point_left(file):
    layer, *inner = file.relative_to(ROOT).parts
    allowed = LAYERS[: LAYERS.index(layer) + 1]
    for name in imported(file):
        first, *rest = name.split(".")
        assert first not in LAYERS or first in allowed, name
        assert first != "tests", name
        if layer in ("emu", "kernels"):
            assert first not in HEAVY, name
        if layer == "emu" and first == "emu" and rest and rest[0] in DEVICES:
            assert inner[0] == rest[0], (
                f"{name}: only emu/{rest[0]} itself may import it"
            )


@pytest.mark.parametrize("file", sorted((ROOT / "kernels").glob("*/**/*.py")))
def test_rooms_of_kernels_point_left(file):
    _, room, *_ = file.relative_to(ROOT).parts
    allowed = ROOMS[: ROOMS.index(room) + 1]
    for name in imported(file):
        first, *rest = name.split(".")
        if first != "kernels" or not rest or rest[0] not in ROOMS:
            continue
        assert rest[0] in allowed, name
        assert not (room in DEVICES and rest[0] in DEVICES and rest[0] != room), name


@pytest.mark.parametrize("file", FILES, ids=NAMES)
def test_modules_say_their_idea(file):
    doc = ast.get_docstring(ast.parse(file.read_text()))
    assert doc and doc.splitlines()[0].strip()


def test_every_file_of_tests_has_a_name_of_its_own():
    """Without packages Python knows a test file by its name alone: of two it would run one."""
    names = [file.name for file in (ROOT / "tests").rglob("test_*.py")]
    again = sorted(name for name in names if names.count(name) > 1)
    assert not again


def test_jax_internals_stay_in_one_file():
    for file in (ROOT / "emu").rglob("*.py"):
        names = set(imported(file))
        assert not any(n.startswith("jax._src") for n in names), file


def test_importing_the_emulator_is_light():
    code = "import sys, emu; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert not HEAVY & {name.split(".")[0] for name in done.stdout.split()}
