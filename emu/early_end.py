"""What is undone when a block ends, and also when the process is ended early.

Whoever ends a process at once, as on Ctrl-C, unwinds none of its `with` blocks. A half-written file
and a process that was begun would stay, so they are noted here until they are done:

    with undone(lambda: begin(...), lambda begun: remove(begun)) as begun: ...

The notes are the process' own, as its open files are, and so are kept by this module.
"""

import contextlib
import functools
import os
import pathlib
import secrets
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

Begun = TypeVar("Begun")

_lock = threading.Lock()
_notes: dict[object, Callable[[], object]] = {}


def undo_all() -> None:
    """Undoes what is noted, the last first. Nothing can be begun or ended any more."""
    _lock.acquire()
    for undo in reversed(_notes.values()):
        # What cannot be removed stays; the rest goes.
        with contextlib.suppress(OSError):
            undo()


@contextlib.contextmanager
def undone(
    begin: Callable[[], Begun], undo: Callable[[Begun], object]
) -> Iterator[Begun]:
    """Begins something, which is undone at the end of the block or of the process.

    Args:
      begin: returns what it began.
      undo: of that; it may find it undone already.
    """
    key = object()
    # Between begun and noted nobody ends the process.
    with _lock:
        begun = begin()
        _notes[key] = functools.partial(undo, begun)
    try:
        yield begun
    finally:
        with _lock:
            del _notes[key]
        undo(begun)


@contextlib.contextmanager
def written_whole(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """The path of a new file to write, which takes the place of `path` if the block succeeds.

    It lies in the same folder, as a rename is one step within a file system and none between two,
    and ends as `path` does, by which some libraries choose the format. What `path` held stays
    until then.

    Raises:
      OSError: the folder cannot be written.
    """
    # A link stays one, and what it points to is replaced.
    target = pathlib.Path(os.path.realpath(path))
    with new_file_beside(target) as part:
        yield part
        os.replace(part, target)


def new_file_beside(
    path: pathlib.Path,
) -> contextlib.AbstractContextManager[pathlib.Path]:
    """An empty file with a name of its own in the folder of `path`; what is left of it is removed.

    Raises:
      OSError: the folder cannot be written.
    """

    def begin() -> pathlib.Path:
        part = path.with_name(f".{secrets.token_hex(4)}{path.suffix}")
        part.touch(exist_ok=False)  # with the permissions that new files have
        return part

    return undone(begin, lambda part: part.unlink(missing_ok=True))


@contextlib.contextmanager
def child_process(
    command: Sequence[str], **options: Any
) -> Iterator["subprocess.Popen[str]"]:
    """A process that outlives neither the block, which waits for it if it wants its end, nor this.

    A terminal sends Ctrl-C to all processes of a session; a session of its own leaves that, and
    what is said of it, to this one.

    Args:
      command: and its arguments.
      **options: of `subprocess.Popen`.
    """

    def begin() -> "subprocess.Popen[str]":
        return subprocess.Popen(command, text=True, start_new_session=True, **options)

    def kill(process: "subprocess.Popen[str]") -> None:
        # A process that was waited for has given its number to others.
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)

    with undone(begin, kill) as process, process:
        try:
            yield process
        finally:
            kill(process)
