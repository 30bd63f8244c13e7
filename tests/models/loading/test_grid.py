"""Tiny checkpoints give the logits, ids and texts that transformers gives, from either format."""

import json
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from models.loading.hf_tokenizer import read_tokenizer
from models.loading.load import Loaded, load
from models.plain.transformer import forward
from tests.models.loading.checkpoints import (
    DECODED,
    EACH,
    GGUF_GRID,
    GRID,
    INPUT_IDS,
    POSITIONS,
    TEXT,
    TOKENIZERS,
    write_folder,
    write_gguf,
)
from tests.models.loading.make_grid import DATA, compute

# Both sides are float32 in another order, and transformers takes RoPE's angles in float32; a form
# of RoPE that is left out moves logits by 0.5 and more.
TOLERANCE = 1e-4
LOGITS = safetensors.numpy.load_file(DATA / "grid.safetensors")
TOKENS: dict[str, dict[str, Any]] = json.loads((DATA / "grid.json").read_text())


def check_logits(loaded: Loaded, name: str) -> None:
    """The oracle's logits are the stored ones."""
    # Each checkpoint has a config of its own: compiled, its program would be used once.
    with jax.disable_jit():
        weights = jax.tree.map(jnp.asarray, loaded.weights)
        ids = jnp.asarray([INPUT_IDS], jnp.int32)
        logits = np.asarray(forward(loaded.config, weights, ids)[0])
    some = logits[list(POSITIONS), ::EACH]
    np.testing.assert_allclose(some, LOGITS[name], rtol=0, atol=TOLERANCE)


def test_the_grid_is_as_large_as_it_says() -> None:
    assert len(GRID) >= 40 and len(GGUF_GRID) >= 20
    assert GRID.keys() == LOGITS.keys()
    assert TOKENS.keys() == TOKENIZERS.keys()


@pytest.mark.parametrize("name", GRID)
def test_logits_are_those_of_transformers(name: str, tmp_path: pathlib.Path) -> None:
    check_logits(load(write_folder(GRID[name], tmp_path / name)), name)


@pytest.mark.parametrize("name", GGUF_GRID)
def test_gguf_files_give_the_same(name: str, tmp_path: pathlib.Path) -> None:
    case = GGUF_GRID[name]
    loaded = load(write_gguf(case, tmp_path, parts=case.shards))
    check_logits(loaded, name)
    assert loaded.config.tie_word_embeddings == case.tied
    if case.shards > 1:
        assert len(list(tmp_path.glob("*.gguf"))) > 1


def test_a_form_left_out_would_show() -> None:
    default = LOGITS["llama-untied-default"]
    for form in ("linear", "dynamic", "yarn", "longrope", "llama3"):
        # Of other seeds, so that this only says: such logits are nowhere near each other.
        assert np.abs(LOGITS[f"llama-untied-{form}"] - default).max() > 0.5


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_tokens_are_those_of_transformers(kind: str, tmp_path: pathlib.Path) -> None:
    case = next(case for case in GRID.values() if case.tokenizer == kind)
    tokenizer = read_tokenizer(write_folder(case, tmp_path))
    expected = TOKENS[kind]
    assert tokenizer.encode(TEXT) == expected["encoded"]
    assert tokenizer.decode(DECODED) == expected["decoded"]
    if "chat" not in expected:  # a base model: the prompt is continued as it is
        assert tokenizer.chat("hello") == tokenizer.encode("hello")
        return
    assert tokenizer.rendered("hello") == expected["rendered"]
    assert tokenizer.chat("hello") == expected["chat"]
    if "silent" in expected:
        assert tokenizer.rendered("hello", thinking=False) == expected["silent"]


@pytest.mark.hf_live
@pytest.mark.filterwarnings("default")  # torch's own warnings are not ours to fail on
def test_the_stored_grid_is_what_transformers_gives_now() -> None:
    for package in ("torch", "transformers"):
        pytest.importorskip(package, reason=f"{package} is not installed")
    logits, tokens = compute()
    assert tokens == TOKENS
    for name, stored in LOGITS.items():
        np.testing.assert_allclose(
            logits[name], stored, rtol=0, atol=TOLERANCE / 10, err_msg=name
        )
