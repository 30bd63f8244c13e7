"""Files are written whole or not at all, and what was begun is undone when its block ends."""

import pathlib
import resource
import signal
import subprocess
import sys

import pytest

from emu.early_end import child_process, undone, written_whole


def test_a_file_takes_its_place_only_when_it_is_whole(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "figures.json"
    with written_whole(path) as part:
        part.write_text("one")
        # Libraries choose the format by how a name ends.
        assert part.parent == tmp_path and part.suffix == ".json"
        assert not path.exists()
    assert path.read_text() == "one"
    with pytest.raises(ZeroDivisionError), written_whole(path) as part:
        part.write_text("two")
        raise ZeroDivisionError
    assert path.read_text() == "one"
    assert [entry.name for entry in tmp_path.iterdir()] == ["figures.json"]


def test_a_new_file_has_the_permissions_of_new_files(tmp_path: pathlib.Path) -> None:
    (tmp_path / "plain").touch()
    with written_whole(tmp_path / "whole"):
        pass
    modes = {(tmp_path / name).stat().st_mode for name in ("plain", "whole")}
    assert len(modes) == 1


def test_a_link_stays_one(tmp_path: pathlib.Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "kept.csv")
    with written_whole(tmp_path / "link") as part:
        part.write_text("through")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "kept.csv").read_text() == "through"


def test_what_was_there_stays_when_the_disk_is_full(tmp_path: pathlib.Path) -> None:
    """A limit on a file's size is a full disk that ends with the test."""
    path = tmp_path / "figures.json"
    path.write_text("before")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            with written_whole(path) as part:
                part.write_bytes(bytes(100_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert path.read_text() == "before"
    assert [entry.name for entry in tmp_path.iterdir()] == ["figures.json"]


def test_a_child_ends_with_its_block() -> None:
    sleeping = [sys.executable, "-c", "import time; time.sleep(1000)"]
    with child_process(sleeping) as process:
        pass
    assert process.returncode == -signal.SIGKILL
    saying = [sys.executable, "-c", "print('said')"]
    with child_process(saying, stdout=subprocess.PIPE) as process:
        said, _ = process.communicate()
    assert (said, process.returncode) == ("said\n", 0)


def test_what_is_begun_is_undone_once_the_block_is_left() -> None:
    done: list[str] = []
    with undone(lambda: "begun", done.append) as begun:
        assert begun == "begun" and not done
    assert done == ["begun"]
