"""Failures of the tokenizers package, its panics too, as one line of ours.

The package is written in Rust. What it does not foresee (a post-processor that names no token, a
pattern that backtracks without end) makes it panic: that passes `except Exception`, and prints a
stack trace on standard error besides.
"""

import contextlib
import os
from collections.abc import Iterator

from models.errors import ModelError


@contextlib.contextmanager
def refused(what: str, remedy: str) -> Iterator[None]:
    """Raises ModelError, `what` first and `remedy` last, for any failure within.

    Standard error is closed meanwhile, at the level of the file that Rust writes to.
    """
    try:
        with without_standard_error():
            yield
    except ModelError:
        raise
    except BaseException as error:
        # Interrupts and exits pass; of what else is no Exception, a panic alone is known by its
        # name.
        panic = type(error).__name__ == "PanicException"
        if not isinstance(error, Exception) and not panic:
            raise
        raise ModelError(f"{what} ({error}); {remedy}") from None


@contextlib.contextmanager
def without_standard_error() -> Iterator[None]:
    """File descriptor 2 goes nowhere within; where the process has none, nothing is done."""
    try:
        kept = os.dup(2)
    except OSError:
        yield
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
