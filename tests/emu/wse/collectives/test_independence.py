"""Formulas and programs share no code: followed through all their imports, only specification."""

import ast
import importlib.util
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parents[4]
COLLECTIVES = ROOT / "emu" / "wse" / "collectives"
FORMULAS = sorted(COLLECTIVES.glob("*/arrival.py"))
PROGRAMS = sorted([*COLLECTIVES.glob("*/program.py"), COLLECTIVES / "programs.py"])
FROM_KERNEL = sorted((ROOT / "emu" / "wse" / "from_kernel").glob("*.py"))
SPECIFICATION = {"emu.wse.trees", "emu.wse.wavelets"}


def module_of(file: pathlib.Path) -> str:
    return ".".join(file.relative_to(ROOT).with_suffix("").parts)


def named(module: str) -> set[str]:
    """Modules of `emu.wse` that a module imports, a package's own names by the package."""
    spec = importlib.util.find_spec(module)
    assert spec is not None and spec.origin is not None
    found = set()
    for node in ast.walk(ast.parse(pathlib.Path(spec.origin).read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module is not None
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                found.add(inner if is_module(inner) else node.module)
    return {name for name in found if name.startswith("emu.wse.")}


def is_module(name: str) -> bool:
    parts = ROOT.joinpath(*name.split("."))
    return parts.is_dir() or parts.with_suffix(".py").exists()


def reached(module: str) -> set[str]:
    """All modules of `emu.wse` that it imports, and those import."""
    found: set[str] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += named(name)
    return found


def is_specification(module: str) -> bool:
    return any(module == s or module.startswith(f"{s}.") for s in SPECIFICATION)


@pytest.mark.parametrize("file", FORMULAS, ids=module_of)
def test_a_formula_reaches_no_program(file: pathlib.Path) -> None:
    for name in reached(module_of(file)):
        assert not name.startswith("emu.wse.fabric"), name
        assert not name.endswith((".program", ".programs")), name


@pytest.mark.parametrize("file", [*PROGRAMS, *FROM_KERNEL], ids=module_of)
def test_a_program_reaches_no_formula(file: pathlib.Path) -> None:
    for name in reached(module_of(file)):
        assert not name.startswith("emu.wse.timeline"), name
        assert not name.endswith((".arrival", ".meaning")), name


def test_both_reach_specification_alone() -> None:
    formulas = set().union(*(reached(module_of(file)) for file in FORMULAS))
    programs = set().union(*(reached(module_of(file)) for file in PROGRAMS))
    shared = formulas & programs
    assert all(is_specification(name) for name in shared), sorted(shared)
    assert "emu.wse.trees.tree" in shared  # or the test follows nothing


def test_every_folder_has_its_parts() -> None:
    folders = [f for f in COLLECTIVES.iterdir() if (f / "__init__.py").exists()]
    for folder in folders:
        assert (folder / "meaning.py").exists() and (folder / "arrival.py").exists()
