"""GGUF models in several files: loaded as one, or refused by the name of what is missing."""

import pathlib
import shutil

import pytest

from models.loading.load import load
from tests.models.loading.checkpoints import Checkpoint, write_gguf
from tests.models.loading.files import assert_same, refused

CASE = Checkpoint("qwen3", tied=False, rope="default")


@pytest.fixture
def parts(tmp_path: pathlib.Path) -> list[pathlib.Path]:
    """A model in three files."""
    write_gguf(CASE, tmp_path, parts=3)
    return sorted(tmp_path.glob("*.gguf"))


def test_parts_are_one_model(parts: list[pathlib.Path], tmp_path: pathlib.Path) -> None:
    assert [path.name for path in parts] == [
        f"model-{number:05}-of-00003.gguf" for number in (1, 2, 3)
    ]
    whole = tmp_path / "whole"
    whole.mkdir()
    one = load(write_gguf(CASE, whole))
    several = load(parts[0])
    assert_same(one.weights, several.weights)
    assert several.tokenizer.eos_ids == one.tokenizer.eos_ids


def test_a_missing_part_is_named(parts: list[pathlib.Path]) -> None:
    parts[1].unlink()
    refused(parts[0], "model-00002-of-00003.gguf: cannot be read")


def test_a_later_part_alone_is_refused(parts: list[pathlib.Path]) -> None:
    refused(parts[1], "got part 2 with split.no 1; give the first part, 00001")


def test_a_part_under_another_name_is_refused(parts: list[pathlib.Path]) -> None:
    renamed = parts[0].with_name("model.gguf")
    shutil.copy(parts[0], renamed)
    refused(renamed, "split.count is 3, but the name says 1")


def test_a_part_in_anothers_place_is_refused(parts: list[pathlib.Path]) -> None:
    shutil.copy(parts[2], parts[1])
    refused(parts[0], "model-00002-of-00003.gguf: must be part 2 .split.no 1.")


def test_a_part_of_another_model_is_refused(
    parts: list[pathlib.Path], tmp_path: pathlib.Path
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    write_gguf(Checkpoint("qwen3", tied=True, rope="default"), other, parts=3)
    shutil.copy(other / parts[2].name, parts[2])
    refused(parts[0], "fetch the parts of one model")
