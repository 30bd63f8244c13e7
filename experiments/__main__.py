"""Lists the experiments: one question each."""

import ast
import pathlib

HELPERS = {"__init__", "__main__", "cli"}


def experiments() -> dict[str, str]:
    """Every runnable module of this package and the first line of its docstring."""
    found = {}
    for path in sorted(pathlib.Path(__file__).parent.glob("*.py")):
        source = path.read_text(encoding="utf-8")
        if path.stem not in HELPERS and '__name__ == "__main__"' in source:
            doc = ast.get_docstring(ast.parse(source)) or ""
            found[path.stem] = doc.splitlines()[0]
    return found


if __name__ == "__main__":
    found = experiments()
    width = max(map(len, found))
    print("python -m experiments.NAME, each with --help:")
    for name, line in found.items():
        print(f"  {name:<{width}} {line}")
