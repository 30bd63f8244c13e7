"""A small corpus that every machine with Python has: the standard library's docstrings."""

import ast
import pathlib
import re
import sysconfig
import warnings
from collections.abc import Iterator

# Tests hold few docstrings worth reading; the rest is not the standard library, or is a copy.
SKIPPED_FOLDERS = {
    "site-packages",
    "dist-packages",
    "test",
    "tests",
    "idle_test",
    "_vendor",
}
SHORTEST, LONGEST = 24, 1500  # characters; longer ones are mostly tables and sessions
# A line that goes on in the next one, where that is neither indented nor a list or a session.
WRAPPED = re.compile(r"(?<=[\w,;.:)'\"`])\n(?=[\w('\"`])")


def source_files() -> list[pathlib.Path]:
    """The running Python's own modules, sorted by their path inside the library."""
    root = pathlib.Path(sysconfig.get_paths()["stdlib"])
    files = [path for path in root.rglob("*.py") if path.is_file()]
    kept = [
        path
        for path in files
        if not SKIPPED_FOLDERS.intersection(path.relative_to(root).parts)
    ]
    return sorted(kept, key=lambda path: path.relative_to(root).as_posix())


def docstrings_of(path: pathlib.Path) -> Iterator[str]:
    """Docstrings of a module, its classes and its functions, in the tree's order."""
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    with warnings.catch_warnings():
        # Old modules hold invalid escapes; they parse all the same.
        warnings.simplefilter("ignore")
        tree = ast.parse(path.read_bytes())
    for node in ast.walk(tree):
        if isinstance(node, documented):
            text = ast.get_docstring(node)
            if text:
                # Where lines were wrapped says nothing about the text, and costs a token to learn.
                yield WRAPPED.sub(" ", text.strip())


def gather() -> list[str]:
    """Distinct ASCII docstrings of the standard library, in a fixed order.

    Files that this Python cannot parse (templates, deliberate errors) are left out.
    """
    seen: dict[str, None] = {}
    for path in source_files():
        try:
            texts = list(docstrings_of(path))
        except (SyntaxError, ValueError):
            continue
        seen |= {
            text: None
            for text in texts
            if SHORTEST <= len(text) <= LONGEST and text.isascii()
        }
    return list(seen)
