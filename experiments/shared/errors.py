"""How an experiment ends on bad input, and where its output cannot be written: with one line."""

import contextlib
import errno
import signal
import sys
from collections.abc import Iterator

from experiments.shared import interruption

BAD_INPUT = 2  # an exit status
BROKEN_PIPE = 128 + signal.SIGPIPE  # that of who prints to a program that has ended
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # a disk, a user's share of it, a file


class UsageError(Exception):
    """Bad input: what arrived, what is allowed, and the remedy, in one line."""


def complain(message: str) -> None:
    """Prints an error in one line, if this process is not being ended by a signal."""
    watch = interruption.current()
    if watch is not None and watch.received is not None:
        interruption.wait_for_the_end()
    print("error: " + " ".join(message.split()), file=sys.stderr)


@contextlib.contextmanager
def printing() -> Iterator[None]:
    """Inside, and after it, what is printed may find a full disk or nobody who reads it."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        raise SystemExit(BROKEN_PIPE) from None
    except OSError as error:
        if error.errno not in FULL:
            raise
        where = error.filename or "standard output or a temporary folder"
        complain(
            f"{where}: cannot be written ({error.strerror}); free some space there"
        )
        raise SystemExit(BAD_INPUT) from None
