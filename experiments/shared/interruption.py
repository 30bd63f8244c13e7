"""How a signal ends a process: within seconds, with one line, and the status shells give it.

Python runs a signal's handler on the main thread alone, between two of its instructions. A main
thread that is inside a long computation of XLA comes to it minutes later; a KeyboardInterrupt that
is raised inside a callback of XLA is swallowed there; and an interpreter that is finalized while
XLA's threads run is ended by SIGSEGV, after it has said that it was interrupted. So nothing is
raised, nothing is unwound and nothing is finalized. A thread waits on the pipe that the C handler
writes the signal's number to; it tells what was found so far, undoes what is half done, and ends
the process, whatever the main thread is at.

    t = 0        the signal; the thread wakes
    t <= 2 s     what there is to tell is told, on a second thread; a report that takes longer, or
                 waits for a lock which the main thread holds, is cut off
    t <= 2.5 s   half-written files and processes begun are removed, the line is written to the
                 descriptor that was standard error at the start, the kernel ends all threads

One thing would still delay it: C code that keeps the interpreter's lock for seconds. XLA gives the
lock back while it compiles and computes, as NumPy does.

It must be begun before anything heavy is imported, so this file imports nothing of the project.
"""

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import NoReturn

# What the line begins with. The exit status is 128 + the signal's number, as shells report it: 130
# of Ctrl-C, 143 of SIGTERM, 129 of a terminal that was closed.
WORDS = {
    signal.SIGINT: "interrupted",
    signal.SIGTERM: "terminated",
    signal.SIGHUP: "hung up",
}
REPORT_S = 2.0  # how long a report of what was found may take
REST_S = 0.25  # and how long each of the rest, which is done in a moment or never
NOTHING = "nothing was finished"
STUCK = "in the midst of something, nothing more could be told"
SHOW_CURSOR = b"\r\x1b[K\x1b[?25h"  # of a terminal on which a bar was being drawn


class Watch:
    """The handler of the signals that end the process.

    Attributes:
      report: prints what was found so far and returns what the line says.
      undo: removes what is half done.
      received: the first signal, once there was one.
    """

    def __init__(self) -> None:
        """Takes the signals, from the main thread; those that are ignored stay ignored.

        A shell without job control starts what runs in the background with SIGINT ignored, and
        `nohup` ignores SIGHUP.
        """
        self.report: Callable[[], str] = lambda: NOTHING
        self.undo: Callable[[], object] = lambda: None
        self.received: int | None = None
        # Loading a tokenizer closes standard error for a moment.
        self._stderr = _duplicate(2)
        reader, writer = os.pipe()
        os.set_blocking(writer, False)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        thread = threading.Thread(target=self._wait, args=(reader,), daemon=True)
        thread.start()
        for number in WORDS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self)

    def __call__(self, number: int, frame: object) -> None:
        """Raises nothing: the thread has been woken already."""
        self.received = self.received or number

    def end(self, status: int) -> NoReturn:
        """Ends the process by itself, if no signal came before.

        Not by finalization, which a signal would still disturb, and which XLA's threads do not
        always survive.
        """
        if self.received is not None:
            wait_for_the_end()
        _flush()
        os._exit(status)

    def _wait(self, reader: int) -> None:
        # Other signals that have a handler in Python are told of here as well.
        while (number := os.read(reader, 1)[0]) not in WORDS:
            pass
        self.received = number
        told = [STUCK]
        _within(REPORT_S, lambda: self._tell(told))
        _within(REST_S, self.undo)
        line = f"{WORDS[signal.Signals(number)]}: {told[0]}\n"
        _within(REST_S, lambda: self._write(line))
        os._exit(128 + number)

    def _tell(self, told: list[str]) -> None:
        # A report that fails is of what is half done; there is nothing to say of it.
        with contextlib.suppress(Exception):
            line = self.report()
            _flush()
            told[0] = " ".join(line.split())

    def _write(self, line: str) -> None:
        terminals = {fd for fd in (1, self._stderr) if fd is not None and os.isatty(fd)}
        with contextlib.suppress(OSError):
            for terminal in terminals:
                os.write(terminal, SHOW_CURSOR)
            if self._stderr is not None:
                os.write(self._stderr, line.encode(errors="backslashreplace"))


def begin() -> Watch:
    """Watches this process until it ends."""
    return current() or Watch()


def current() -> Watch | None:
    """What watches this process; None in one that is not ours, such as a test's."""
    handlers = map(signal.getsignal, WORDS)
    return next((found for found in handlers if isinstance(found, Watch)), None)


def wait_for_the_end() -> NoReturn:
    """Stays until the watching thread has ended the process."""
    while True:
        time.sleep(1)


@contextlib.contextmanager
def ending() -> Iterator[Watch | None]:
    """A watched process ends with this block; in others nothing is done."""
    watch = current()
    if watch is None:
        yield None
        return
    try:
        yield watch
    except SystemExit as stop:
        watch.end(_status(stop))
    except BaseException as error:
        # After a signal it may be what became of that, as in a child that was ended by it too.
        if watch.received is None:
            sys.excepthook(type(error), error, error.__traceback__)
        watch.end(1)
    watch.end(0)


def _status(stop: SystemExit) -> int:
    if stop.code is None or isinstance(stop.code, int):
        return stop.code or 0
    print(stop.code, file=sys.stderr)
    return 1


def _within(seconds: float, call: Callable[[], object]) -> None:
    """Calls, and waits no longer than that for it to return: of a lock or a full pipe."""
    thread = threading.Thread(target=call, daemon=True)
    # None can be started where the system has no more of them.
    with contextlib.suppress(RuntimeError):
        thread.start()
        thread.join(seconds)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            if stream is not None:
                stream.flush()


def _duplicate(descriptor: int) -> int | None:
    try:
        return os.dup(descriptor)
    except OSError:
        return None
