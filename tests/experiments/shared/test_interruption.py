"""Signals end a process with one line and their status, whatever it is doing at the time."""

import os
import pathlib
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator

import pytest

ROOT = pathlib.Path(__file__).parents[3]
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
LONGEST_S = 60  # of a child that does not end, which no test waits for otherwise


SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@pytest.fixture(autouse=True)
def heeding() -> Iterator[None]:
    """A shell may run the tests with SIGINT or SIGHUP ignored, and children inherit that."""
    before = [signal.signal(each, signal.SIG_DFL) for each in SIGNALS]
    yield
    for each, handler in zip(SIGNALS, before, strict=True):
        signal.signal(each, handler)


def begun(*command: str) -> "subprocess.Popen[str]":
    """A child of whose output a test reads some lines before it sends a signal."""
    return subprocess.Popen(
        [sys.executable, *command],
        cwd=ROOT,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(process: "subprocess.Popen[str]", number: int) -> str:
    """What a child complains of after a signal; it has told a line before."""
    process.send_signal(number)
    try:
        _, error = process.communicate(timeout=LONGEST_S)
    finally:
        process.kill()
    assert process.returncode == 128 + number, error
    return error


def wait_for(process: "subprocess.Popen[str]", line: str) -> None:
    assert process.stdout is not None
    for told in process.stdout:
        if line in told:
            return
    pytest.fail(f"ended before it told {line!r}")


WATCHED = """
    import threading, time
    from experiments.shared import interruption
    watch = interruption.begin()
    with interruption.ending():
        {body}
"""


def watched(body: str) -> "subprocess.Popen[str]":
    """A child with a watch of its own that runs `body`, and has said "ready" when it is busy."""
    inside = textwrap.indent(textwrap.dedent(body), " " * 4).strip()
    process = begun("-c", textwrap.dedent(WATCHED).replace("{body}", inside))
    wait_for(process, "ready")
    return process


# Nothing that a main thread may be at keeps the process: Python that swallows all it is
# interrupted by, C code that runs for minutes, a lock that nobody frees.
BUSY = {
    "swallowing": """
        print("ready")
        while True:
            try:
                time.sleep(1)
            except BaseException:
                pass
    """,
    "in C": """
        import hashlib
        print("ready")
        hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)
    """,
    "waiting": """
        lock = threading.Lock()
        lock.acquire()
        print("ready")
        lock.acquire()
    """,
}


@pytest.mark.parametrize("number", SIGNALS)
def test_every_signal_has_its_status_and_its_word(number: signal.Signals) -> None:
    words = {
        signal.SIGINT: "interrupted",
        signal.SIGTERM: "terminated",
        signal.SIGHUP: "hung up",
    }
    error = ended(watched(BUSY["waiting"]), number)
    assert error == f"{words[number]}: nothing was finished\n"


@pytest.mark.parametrize("at", BUSY)
def test_whatever_the_main_thread_is_at(at: str) -> None:
    error = ended(watched(BUSY[at]), signal.SIGINT)
    assert error == "interrupted: nothing was finished\n"


def test_a_report_is_told_first_and_one_that_hangs_is_cut_off() -> None:
    process = watched("""
        def found():
            print("found this")
            return "1 of\\n2"
        watch.report = found
        print("ready")
        time.sleep(1000)
    """)
    process.send_signal(signal.SIGINT)
    said, error = process.communicate(timeout=LONGEST_S)
    assert (said, error) == ("found this\n", "interrupted: 1 of 2\n")
    hanging = watched("""
        watch.report = lambda: time.sleep(1000)
        print("ready")
        time.sleep(1000)
    """)
    error = ended(hanging, signal.SIGINT)
    assert error.startswith("interrupted: in the midst of something")


def test_a_report_that_fails_is_no_traceback() -> None:
    process = watched("""
        watch.report = lambda: 1 / 0
        print("ready")
        time.sleep(1000)
    """)
    error = ended(process, signal.SIGINT)
    assert error.startswith("interrupted: in the midst") and error.count("\n") == 1


def test_half_written_files_and_children_go(tmp_path: pathlib.Path) -> None:
    (tmp_path / "figures.json").write_text("what was there before")
    process = watched(f"""
        import pathlib, sys
        from emu.early_end import child_process, undo_all, written_whole
        watch.undo = undo_all
        sleeping = [sys.executable, "-c", "import time; time.sleep(1000)"]
        with written_whole(pathlib.Path({str(tmp_path)!r}) / "figures.json") as part:
            part.write_text("half")
            with child_process(sleeping) as child:
                print(child.pid, "ready")
                time.sleep(1000)
    """)
    (child,) = [
        int(entry.name)
        for entry in pathlib.Path("/proc").iterdir()
        if entry.name.isdecimal() and f"\nPPid:\t{process.pid}\n" in status(entry)
    ]
    ended(process, signal.SIGTERM)
    assert [path.name for path in tmp_path.iterdir()] == ["figures.json"]
    assert (tmp_path / "figures.json").read_text() == "what was there before"
    while "State:\tS" in status(pathlib.Path(f"/proc/{child}")):
        time.sleep(0.01)


def status(entry: pathlib.Path) -> str:
    """What Linux tells of a process; nothing of one that is gone."""
    try:
        return (entry / "status").read_text()
    except OSError:
        return ""


def test_what_is_ignored_stays_ignored() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    process = watched("""
        print("ready")
        time.sleep(0.2)
        print("done")
    """)
    process.send_signal(signal.SIGINT)
    said, error = process.communicate(timeout=LONGEST_S)
    assert (said, error, process.returncode) == ("done\n", "", 0)


def test_without_a_signal_a_process_ends_by_its_own_status() -> None:
    for body, status_, told in (
        ("pass", 0, ""),
        ("raise SystemExit(2)", 2, ""),
        ("raise SystemExit('gone')", 1, "gone\n"),
        ("1 / 0", 1, "ZeroDivisionError: division by zero\n"),
    ):
        process = watched(f"print('ready'); {body}")
        _, error = process.communicate(timeout=LONGEST_S)
        assert process.returncode == status_ and error.endswith(told)


# --- the experiments ---


def test_the_quickstart_says_how_far_it_came(tmp_path: pathlib.Path) -> None:
    words = ("--model", "tiny", "--tokens", "40", "--out", str(tmp_path))
    process = begun("-m", "experiments.quickstart", *words)
    wait_for(process, "compiling the prefill")
    error = ended(process, signal.SIGINT)
    told = "the prompt of 2 tokens was not prefilled to its end"
    assert error == f"interrupted: {told}\n" and list(tmp_path.iterdir()) == []


def test_a_signal_during_the_imports_is_one_line() -> None:
    """The interpreter tells what it imports; JAX is in the midst of what is imported."""
    process = begun("-v", "-m", "experiments.kernel", "gemm")
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("import 'jax._src"):
            break
    error = ended(process, signal.SIGTERM)
    # A line of the interpreter may have been half told.
    assert error.count("terminated: nothing was finished\n") == 1
    assert "Traceback" not in error
