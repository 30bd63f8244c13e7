"""The shipped model's training: its corpus is what it says, and its seed decides its bits."""

import pathlib

import jax
import numpy as np
import pytest

from experiments.train_tiny.__main__ import (
    EOS,
    Recipe,
    fit,
    token_stream,
    train_tokenizer,
)
from experiments.train_tiny.corpus import docstrings_of, source_files
from models.catalogue import TINY
from models.plain.weights import flatten

MODULE = '''
"""A module whose first line
goes on in a second.

    >>> code
    stays
- item
- item
"""
class Empty:
    pass
def documented():
    """Return the answer."""
'''


def test_docstrings_are_unwrapped(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "module.py"
    path.write_text(MODULE)
    assert list(docstrings_of(path)) == [
        "A module whose first line goes on in a second.\n\n    >>> code\n    stays\n- item\n- item",
        "Return the answer.",
    ]


def test_corpus_order_is_fixed_and_without_tests() -> None:
    files = source_files()
    assert files == source_files()
    assert {"argparse.py", "ast.py"} <= {path.name for path in files}
    assert not any(
        "site-packages" in path.parts or "test" in path.parts for path in files
    )


def test_every_document_ends_with_eos() -> None:
    documents = ["Return the name."] * 3 + ["Raise an error."]
    tokenizer = train_tokenizer(documents)
    stream = token_stream(tokenizer, documents)
    assert tokenizer.token_to_id(EOS) == 0
    assert (stream == 0).sum() == len(documents) and stream[-1] == 0


@pytest.mark.optimized
def test_seed_decides_every_bit() -> None:
    stream = (
        np.random.default_rng(0).integers(0, TINY.vocab_size, 2000).astype(np.int32)
    )
    # optax mixes dtypes on purpose; only our own code is held to strict promotion.
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        runs = [
            fit(Recipe(3, tokens_per_step=256, warmup_steps=1, seed=s), stream)
            for s in (1, 1, 2)
        ]
    first, again, other = (flatten(weights) for weights, _ in runs)
    for name in first:
        np.testing.assert_array_equal(first[name], again[name], err_msg=name)
    assert not np.array_equal(first["embed"], other["embed"])
    assert runs[0][1] == pytest.approx(np.log(TINY.vocab_size), rel=0.2)
