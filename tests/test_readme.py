"""The README's examples print what the README says they print."""

import contextlib
import io
import os
import pathlib
import re
import subprocess
import sys

README = pathlib.Path(__file__).parents[1] / "README.md"


def example(heading):
    """The first Python block under a heading, and the lines that it should print."""
    section = README.read_text(encoding="utf-8").split(f"## {heading}")[1]
    found = re.search(r"```python\n(.*?)```\s*```text\n(.*?)```", section, re.DOTALL)
    assert found is not None
    code, expected = found.groups()
    return code, [line.rstrip() for line in expected.splitlines()]


def printed(code):
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(compile(code, "README.md", "exec"), {"__name__": "readme"})
    return [line.rstrip() for line in out.getvalue().splitlines()]


def test_the_kernel_in_25_lines():
    code, expected = example("Write a Trainium kernel in 25 lines")
    statements = [line for line in code.splitlines() if line.strip()]
    assert len(statements) <= 25 + sum("import" in line for line in statements)
    assert printed(code) == expected


def test_the_same_kernel_by_the_command_line(tmp_path):
    code, _ = example("Write a Trainium kernel in 25 lines")
    (tmp_path / "mine.py").write_text(code, encoding="utf-8")
    told = README.read_text(encoding="utf-8").split(
        "$ python -m experiments.kernel mine.py"
    )
    command, expected = ("mine.py" + told[1].split("```")[0]).split("\n", 1)
    done = subprocess.run(
        [sys.executable, "-m", "experiments.kernel", *command.split()],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(README.parent)},
        capture_output=True,
        text=True,
        check=True,
    )
    in_one_line = " ".join(done.stdout.split())
    for part in filter(str.strip, expected.split("...\n")):
        assert " ".join(part.split()) in in_one_line


def test_an_nki_kernel_by_the_command_line():
    text = README.read_text(encoding="utf-8")
    told = text.split("$ trn-wse nki ")[1].split("```")[0]
    command, *expected = told.strip().splitlines()
    done = subprocess.run(
        [sys.executable, "-m", "experiments.nki", *command.split()],
        cwd=README.parent,
        env={**os.environ, "PYTHONPATH": str(README.parent)},
        capture_output=True,
        text=True,
        check=True,
    )
    lines = [line.rstrip() for line in done.stdout.splitlines()]
    before, after = expected[: expected.index("...")], expected[-1]
    assert lines[: len(before)] == before
    # The difference itself is a few roundings, and those of XLA's exponential.
    assert lines[-1].startswith("values: largest difference")
    assert lines[-1].endswith(after.partition(", ")[2])


def test_an_attention_variant_by_the_command_line(tmp_path):
    code, shown = example("Write your own attention variant in ten lines")
    (tmp_path / "mine.py").write_text(code)
    command, *expected = shown
    words = command.removeprefix("$ trn-wse ").split()
    done = subprocess.run(
        # Errors are roundings, and take as long to compute as all else.
        [sys.executable, "-m", f"experiments.{words[0]}", *words[1:], "--no-values"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(README.parent)},
        capture_output=True,
        text=True,
        check=True,
    )
    is_error = re.compile(r"\d\.\de-\d\d")
    told = [[w for w in line.split() if not is_error.fullmatch(w)] for line in expected]
    found = [line.split() for line in done.stdout.splitlines()]
    rule = ("─",)
    assert [w for w in found if not (w and w[0].startswith(rule))] == [
        w for w in told if not (w and w[0].startswith(rule))
    ]


def test_attention_over_chips():
    code, expected = example("Spread attention over chips you don't have")
    assert printed(code) == expected


def test_the_fabric_program_in_25_lines():
    code, expected = example("Write a fabric program for a wafer in 25 lines")
    statements = [line for line in code.splitlines() if line.strip()]
    assert len(statements) <= 25 + sum("import" in line for line in statements)
    assert printed(code) == expected
