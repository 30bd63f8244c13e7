"""The README's example prints what the README says it prints."""

import contextlib
import io
import pathlib
import re

README = pathlib.Path(__file__).parents[1] / "README.md"


def test_the_kernel_in_25_lines():
    text = README.read_text(encoding="utf-8")
    section = text.split("## Write a Trainium kernel in 25 lines")[1]
    found = re.search(r"```python\n(.*?)```\s*```text\n(.*?)```", section, re.DOTALL)
    assert found is not None
    code, expected = found.groups()
    statements = [line for line in code.splitlines() if line.strip()]
    assert len(statements) <= 25 + sum("import" in line for line in statements)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, "README.md", "exec"), {"__name__": "readme"})
    assert [line.rstrip() for line in printed.getvalue().splitlines()] == [
        line.rstrip() for line in expected.splitlines()
    ]
