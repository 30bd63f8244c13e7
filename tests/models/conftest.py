"""Shared by the model tests: the reference folders, and a writer of GGUF files."""

import pathlib
from collections.abc import Callable
from typing import Any

import pytest

from tests.models.loading import conversion

DATA = pathlib.Path(__file__).parent / "data"
REFERENCES = sorted(folder.name for folder in DATA.iterdir() if folder.is_dir())


@pytest.fixture(params=REFERENCES)
def reference(request: pytest.FixtureRequest) -> pathlib.Path:
    """Each folder of random weights with Hugging Face's logits, in turn."""
    return DATA / request.param


@pytest.fixture
def write_gguf(tmp_path: pathlib.Path) -> Callable[..., pathlib.Path]:
    """Converts a reference folder to a GGUF file, as llama.cpp would; see `conversion.write`."""

    def write(
        folder: pathlib.Path, architecture: str | None = None, **changes: Any
    ) -> pathlib.Path:
        path = tmp_path / f"{folder.name}.gguf"
        return conversion.write(folder, path, architecture=architecture, **changes)

    return write
