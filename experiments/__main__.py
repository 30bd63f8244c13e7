"""Lists the experiments: one question each."""

import ast
import pathlib


def experiments() -> dict[str, str]:
    """Every package that can be run, and its question: the first line of its docstring."""
    found = {}
    here = pathlib.Path(__file__).parent
    for path in sorted(here.glob("*/__main__.py")):
        package = path.parent / "__init__.py"
        doc = ast.get_docstring(ast.parse(package.read_text(encoding="utf-8"))) or ""
        found[path.parent.name] = doc.splitlines()[0]
    return found


if __name__ == "__main__":
    found = experiments()
    width = max(map(len, found))
    print("python -m experiments.NAME, each with --help:")
    for name, line in found.items():
        print(f"  {name:<{width}} {line}")
