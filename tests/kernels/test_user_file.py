"""A user's file is found wherever it lies, and what is wrong in it is told in one line."""

import pathlib
import sys

import pytest

from emu.errors import EmulationError, LimitExceeded
from kernels import user_file
from kernels.user_file import UserFileError


def load(path: pathlib.Path | str):
    wanted = user_file.reference(str(path))
    assert wanted is not None
    return user_file.load(wanted)


@pytest.mark.parametrize(
    ("text", "path", "name"),
    [
        ("a.py", "a.py", ""),
        ("a.py:f", "a.py", "f"),
        ("../some where/a b.py:f", "../some where/a b.py", "f"),
        ("odd:name.py:f", "odd:name.py", "f"),
    ],
)
def test_references_are_read(text: str, path: str, name: str) -> None:
    found = user_file.reference(text)
    assert found is not None
    assert (found.path, found.name) == (pathlib.Path(path), name)


def test_words_that_name_no_python_file_are_left_alone() -> None:
    assert [user_file.reference(word) for word in ("gemm", "a.txt:f", "x=a", "")] == [
        None
    ] * 4


def test_a_path_may_have_a_tilde_and_spaces(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    folder = tmp_path / "my kernels (old)"
    folder.mkdir()
    (folder / "no-module name.v2.py").write_text("X = 3\n")
    assert load("~/my kernels (old)/no-module name.v2.py").X == 3
    with pytest.raises(UserFileError, match="no such file"):
        load("~nobody-has-this-name/a.py")


def test_a_relative_path_counts_from_the_working_folder(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "inner").mkdir()
    (tmp_path / "mine_relative.py").write_text("def f(): pass\n")
    monkeypatch.chdir(tmp_path / "inner")
    module = load("../mine_relative.py")
    assert list(user_file.functions_of(module)) == ["f"]


def test_what_lies_beside_a_file_can_be_imported(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "sizes_beside.py").write_text("N = 5\n")
    (tmp_path / "uses_it.py").write_text("from sizes_beside import N\n")
    assert load(tmp_path / "uses_it.py").N == 5


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("def f(:", "SyntaxError: invalid syntax (bad.py:1)"),
        ("\nif True:\nx = 1", "IndentationError: expected an indented block after"),
        ("\n\nx = 1 / 0", "ZeroDivisionError: division by zero (bad.py:3)"),
        ("import no_such_module", "No module named 'no_such_module' (bad.py:1)"),
        ("import sys\nsys.exit(3)", "SystemExit: 3 (bad.py:2)"),
        ("raise ValueError", "ValueError: no message (bad.py:1)"),
        ("raise ValueError('a\\nb')", "ValueError: a (bad.py:1)"),
        ("def f(): f()\nf()", "RecursionError: maximum recursion depth"),
        ("x = '\0'", "null bytes (bad.py"),
    ],
)
def test_what_a_file_raises_is_one_line(
    tmp_path: pathlib.Path, text: str, told: str
) -> None:
    path = tmp_path / "bad.py"
    path.write_text(text)
    with pytest.raises(UserFileError) as caught:
        load(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ") and told in message
    assert "\n" not in message and "(bad.py" in message


def test_a_folder_or_nothing_is_no_file(tmp_path: pathlib.Path) -> None:
    (tmp_path / "folder.py").mkdir()
    for name in ("folder.py", "nowhere.py"):
        with pytest.raises(UserFileError, match=f"{name}: no such file"):
            load(tmp_path / name)


def test_errors_of_the_emulator_keep_their_line_or_get_one(
    tmp_path: pathlib.Path,
) -> None:
    path = tmp_path / "limits.py"
    path.write_text(
        "from emu.errors import LimitExceeded\n"
        "def plain(): raise LimitExceeded('too large')\n"
        "def placed(): raise LimitExceeded('too large', 'deeper.py:9')\n"
    )
    wanted = user_file.reference(str(path))
    assert wanted is not None
    module = user_file.load(wanted)
    for call, place in ((module.plain, "limits.py:2"), (module.placed, "deeper.py:9")):
        with pytest.raises(EmulationError) as caught:
            with user_file.errors_in_one_line(wanted):
                call()
        assert str(caught.value) == f"too large ({place})"
    with pytest.raises(LimitExceeded, match="^elsewhere$"):
        with user_file.errors_in_one_line(wanted):
            raise LimitExceeded("elsewhere")
