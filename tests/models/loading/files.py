"""Model files that a test may damage, and what a refusal must look like."""

import json
import pathlib
import shutil
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from models.errors import ModelError
from models.loading.load import load
from models.plain.weights import Weights, flatten

REFERENCE = pathlib.Path(__file__).parents[1] / "data"
LLAMA = REFERENCE / "llama_mha_untied"
WriteGguf = Callable[..., pathlib.Path]


def copy_of(tmp_path: pathlib.Path, folder: pathlib.Path = LLAMA) -> pathlib.Path:
    """A copy that a test may damage."""
    return pathlib.Path(shutil.copytree(folder, tmp_path / folder.name))


def edit_config(folder: pathlib.Path, **change: Any) -> None:
    """Changes fields of a folder's config.json."""
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(values | change))


def assert_same(one: Weights, other: Weights) -> None:
    """The same names with the same bits."""
    assert flatten(one).keys() == flatten(other).keys()
    for name, values in flatten(one).items():
        np.testing.assert_array_equal(values, flatten(other)[name], err_msg=name)


def refused(path: pathlib.Path | str, message: str) -> None:
    """Loading must fail with one line that matches."""
    with pytest.raises(ModelError, match=message) as raised:
        load(path)
    assert "\n" not in str(raised.value)
