"""One door: names, paths, and what it imports."""

import dataclasses
import pathlib
import subprocess
import sys

from models.catalogue import TINY
from models.loading.load import load
from tests.models.loading.files import refused


def test_gguf_of_a_missing_file_is_refused(tmp_path: pathlib.Path) -> None:
    refused(tmp_path / "absent.gguf", "cannot be read")
    refused(
        "no-such-model", "must be one of .*'tiny', 'smollm2', 'gemma3'.* no such file"
    )


def test_tiny_loads_and_is_small() -> None:
    model = load("tiny")
    assert dataclasses.replace(model.config, source=TINY.source) == TINY
    assert model.tokenizer.vocab_size == model.config.vocab_size
    assert "train_tiny" in model.source
    data = pathlib.Path(__file__).parents[3] / "models" / "data"
    assert sum(path.stat().st_size for path in data.glob("tiny*")) <= 2_000_000


def test_loading_imports_neither_jax_nor_flax() -> None:
    heavy = "{'jax', 'flax', 'torch'} & set(sys.modules)"
    code = f"import sys, models.loading.load; print(sorted({heavy}))"
    root = pathlib.Path(__file__).parents[3]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, check=True
    )
    assert done.stdout.strip() == b"[]"
