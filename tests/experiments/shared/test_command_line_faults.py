"""Wrong command lines: each is refused by name in one line, with status 2, in little memory."""

import os
import pathlib
import re
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from experiments import __main__ as command
from experiments.bench.work import peak_bytes

ROOT = pathlib.Path(__file__).parents[3]
MOST_BYTES = 1_000_000_000  # that a refusal may take
LONGEST_S = 60  # a named pipe that is opened would be waited for without end
MILLION = 10**12  # of millions: more than any machine has of anything
DIGITS = "9" * 5000  # more than Python reads
TORN = "torn\udcff"  # how Python tells of a byte that is no UTF-8

QUICK = "quickstart", "--model", "tiny"
LINE = "fabric", "reduce", "pes=4", "words=4"
FOLDER = "cannot be written .*; name a folder you can write to"
NO_MODEL = r"must be one of \('tiny', 'smollm2', 'gemma3'\), a .gguf file or a Hugging Face folder"

FAULTS: list[tuple[tuple[str, ...], str]] = [
    # --- which experiment ---
    (("nothing",), "no experiment 'nothing', must be one of bench, calibration"),
    (("--bogus",), "no experiment '__bogus', must be one of bench"),
    (("completion", "fish"), "completion is of 'fish', must be of one of bash, zsh"),
    # --- the quickstart ---
    (("quickstart", "--bogus"), "unrecognized arguments: --bogus; see .* --help"),
    (("quickstart", "extra"), "unrecognized arguments: extra"),
    (("quickstart", "--tokens"), "--tokens: expected one argument"),
    (("quickstart", "--tokens", "0"), "--tokens is 0, must be at least 1"),
    (("quickstart", "--tokens", "-5"), "--tokens is -5, must be at least 1"),
    (("quickstart", "--tokens", "3.5"), "--tokens is '3.5', must be a whole number"),
    (("quickstart", "--tokens", "nan"), "--tokens is 'nan', must be a whole number"),
    (("quickstart", "--tokens", ""), "--tokens is '', must be a whole number"),
    (("quickstart", "--tokens", DIGITS), r"--tokens is '9+\.\.\., .* at most 30 digits"),
    (
        (*QUICK, "--tokens", str(MILLION)),
        f"{MILLION} are to be generated, but the context of tiny is 1024; .*lower",
    ),
    (
        (*QUICK, "--prompt", "a " * 60_000),
        "the prompt has .* tokens .* context of tiny is 1024; shorten the prompt",
    ),
    ((*QUICK, "--prompt", ""), "--prompt is empty; give at least one character"),
    ((*QUICK, "--prompt", TORN), r"'torn\\udcff': character 5 is no text .*give UTF-8"),
    (("quickstart", "--chips", "0"), "--chips is 0, must be at least 1"),
    (("quickstart", "--chips", "145"), "--chips is 145, Trn3 Gen2 UltraServer has 144 chips"),
    (("quickstart", "--chips", str(10**9)), "--chips is 1000000000, Trn3 Gen2"),
    (("quickstart", "--chips", DIGITS), r"--chips is '9+\.\.\., .* at most 30 digits"),
    (
        ("quickstart", "--system", "trn3-gen1-ultraserver", "--chips", "65"),
        "--chips is 65, .* has 64 chips; as many has --system trn3-gen2-ultraserver",
    ),
    (("quickstart", "--system", "trn4"), "--system is 'trn4', must be one of trn3"),
    (("quickstart", "--cores", "3"), "--cores is 3, must be one of 1, 2, 4, 8"),
    (("quickstart", "--placement", "round"), "--placement is 'round', must be one of"),
    (("quickstart", "--dtype", "float8"), "--dtype is 'float8': there is no format 'float8'"),
    (("quickstart", "--thinking", "hard"), "--thinking is 'hard', must be one of on, off"),
    (("quickstart", "--model", ""), f"'': {NO_MODEL}; no name was given"),
    (("quickstart", "--model", "nowhere"), f"'nowhere': {NO_MODEL}; no such file"),
    (("quickstart", "--model", "text"), f"'text': {NO_MODEL}; other files"),
    (("quickstart", "--model", "pipe"), f"'pipe': {NO_MODEL}"),
    (("quickstart", "--model", "/dev/zero"), f"'/dev/zero': {NO_MODEL}"),
    (("quickstart", "--model", "folder"), "folder/config.json: cannot be read"),
    (("quickstart", "--model", "nowhere.gguf"), "nowhere.gguf: cannot be read .No such"),
    (("quickstart", "--model", "pipe.gguf"), "pipe.gguf: .* regular file, got a named pipe"),
    (("quickstart", "--model", "loop.gguf"), "loop.gguf: .*Too many levels"),
    (("quickstart", "--model", "empty.gguf"), "empty.gguf: ends at byte 0"),
    (("quickstart", "--model", "binary.gguf"), "binary.gguf: must start with b'GGUF'"),
    (("quickstart", "--model", f"{TORN}.gguf"), "character 5 is no text"),
    # --- where files go, of every experiment ---
    *(
        ((name, "--out", where), f"--out {where}: {FOLDER}")
        for name, where in zip(command.experiments(), 3 * ["text", "text/in", "loop", "pipe"])
    ),
    (("kernel", "--out", ""), "--out is empty; name a folder"),
    (("kernel", "--out", "/dev/null/x"), f"--out /dev/null/x: {FOLDER}"),
    (("kernel", "--out", "/proc/x"), f"--out /proc/x: {FOLDER}"),
    (("kernel", "--out", "x" * 300), f"--out x+: .*File name too long.*{FOLDER[-9:]}"),
    # --- calibration ---
    (("calibration", "extra"), "unrecognized arguments: extra"),
    (("calibration", "--points", ""), "--points is empty; name a CSV file"),
    (("calibration", "--points", "nowhere.csv"), "--points nowhere.csv: .*No such file"),
    (("calibration", "--points", "folder"), "folder: .*got a directory.; name a CSV file"),
    (("calibration", "--points", "pipe"), "pipe: .*got a named pipe.; name a CSV file"),
    (("calibration", "--points", "/dev/zero"), "/dev/zero: .*got a device.; name a CSV"),
    (("calibration", "--points", "loop.csv"), "--points loop.csv: .*Too many levels"),
    (("calibration", "--points", "empty.csv"), "empty.csv: no column id, device"),
    (("calibration", "--points", "binary.csv"), "binary.csv: cannot be read .*utf-8"),
    (("calibration", "--points", "text"), "text: no column id, .*must have id,device,case"),
    # --- bench, the rings, the wafer, training ---
    (("bench", "nothing"), "no section 'nothing', must be one of clock, values, model"),
    (("bench", "--repeats", "0"), "--repeats is 0, must be at least 1"),
    (("bench", "--repeats", str(MILLION)), f"--repeats is {MILLION}, must be at most 1000"),
    (("bench", "model", "--model", "nowhere.gguf"), "nowhere.gguf: cannot be read"),
    (("ring_scaling", "all"), "no part 'all', must be one of sweep, thresholds, schemes"),
    (("ring_scaling", "--tokens", "3"), "--tokens is 3, must be at least 4"),
    (("ring_scaling", "--tokens", str(MILLION)), f"--tokens is {MILLION}, .* at most 14913"),
    (("ring_scaling", "--ranks", "0"), "--ranks is 0, must be at least 1"),
    (("ring_scaling", "--ranks", "145"), "--ranks is 145, Trn3 Gen2 UltraServer has 144"),
    (("ring_precision", "float64"), "no dtype 'float64', must be one of float32, bfloat16"),
    (("ring_precision", "--mask", "none"), "--mask is 'none', must be one of full, causal"),
    (("ring_precision", "--tokens", str(MILLION)), f"--tokens is {MILLION}, .*at most 65536"),
    (("ring_precision", "--ranks", str(MILLION)), f"--ranks is {MILLION}, must be at most"),
    (("whole_wafer", "--size", "0"), "--size is 0, must be at least 1"),
    (
        ("whole_wafer", "--size", "100000", "--pes", "4x4"),
        "PE .*: 1250154456 bytes of code and buffers, its SRAM has 49152.*use more PEs",
    ),
    (("whole_wafer", "--size", str(MILLION)), "bytes of code and buffers, its SRAM has 49152"),
    (("whole_wafer", "--pes", "4"), "--pes is '4', must be columns x rows such as 755x1170"),
    (("whole_wafer", "--pes", "0x4"), "--pes is '0x4', must be columns x rows"),
    (("whole_wafer", "--pes", "²x²"), "--pes is '²x²', must be columns x rows"),
    (("whole_wafer", "--pes", f"4x{DIGITS}"), r"--pes is '4x9+\.\.\., must be columns x rows"),
    (("whole_wafer", "--pes", "4x1171"), "--pes is '4x1171', WSE-3 has at most 755x1170"),
    (("whole_wafer", "--path", "short"), "--path is 'short', must be one of auto, trains"),
    (("train_tiny", "--seed", "-1"), "--seed is -1, must be at least 0"),
    (("train_tiny", "--seed", "1.5"), "--seed is '1.5', must be a whole number"),
    # --- fabric programs ---
    (("fabric", "nothing"), "no program 'nothing'; name one of reduce"),
    (("fabric", "pes=4"), "name a program before 'pes=4': reduce"),
    (("fabric", "reduce", "--device", "trn2"), "--device is 'trn2', must be one of wse2"),
    (("fabric", "gemm", "q=3"), "'q=3': gemm takes KEY=VALUE for p, tile"),
    (("fabric", "gemm", "p"), "'p': gemm takes KEY=VALUE for p, tile"),
    (("fabric", "gemm", "p=4", "p=5"), "p is given twice, as 4 and 5; give one"),
    (("fabric", "gemm", "p=0"), "p is 0, must be a whole number from 1 to 755"),
    (("fabric", "gemm", "p=3.5"), "'p=3.5': p is '3.5', must be a whole number"),
    (("fabric", "gemm", "p=100000"), "p is 100000, must be a whole number from 1 to 755"),
    (("fabric", "gemm", f"p={DIGITS}"), r"p is '9+\.\.\., must be a whole number"),
    (("fabric", "gemm", f"tile={MILLION}"), f"tile is {MILLION}, must be a whole number"),
    (("fabric", "gemm", "tile=1000"), "10006656 bytes of code and buffers, .* has 49152"),
    (("fabric", "reduce", f"pes={MILLION}"), f"pes is {MILLION}, .* from 1 to 755"),
    (("fabric", "reduce", "pes=4", f"words={MILLION}"), f"words is {MILLION}, must be"),
    (("fabric", "reduce", "tree=oak"), "tree is 'oak', must be one of chain, star"),
    (("fabric", "broadcast_2d", "height=1171"), "height is 1171, .* from 1 to 1170"),
    (("fabric", "send", "hops=755"), "hops is 755, must be a whole number from 1 to 754"),
    (("fabric", "gemv", "k=1000000", "n=1000000"), "1953316956 bytes .* SRAM has 49152"),
    ((*LINE, "--watch"), "--watch: expected at least one argument"),
    ((*LINE, "--watch", "a,b"), "--watch 'a,b': must be x,y such as 3,0"),
    ((*LINE, "--watch", "9,9"), "--watch 9,9: the program has 4 x 1 PEs"),
    ((*LINE, "--watch", f"{DIGITS},0"), r"--watch '9+\.\.\.: must be x,y such as 3,0"),
    # --- kernels ---
    (("kernel", "nothing"), "no kernel 'nothing'; name one of gemm"),
    (("kernel", "m=3"), "name a kernel first: gemm"),
    (("kernel", "gemm", "--device", "wse3"), "--device is 'wse3', must be one of trn1"),
    (("kernel", "gemm", "q=3"), "'q=3': gemm takes KEY=VALUE for variant, buffers, m, k"),
    (("kernel", "gemm", "m=256", "m=512"), "m is given twice, as 256 and 512; give one"),
    (("kernel", "gemm", "m=0"), "'m=0': m is 0, must be at least 1"),
    (("kernel", "gemm", "m=129"), "m is 129, must be a multiple of 128; pad it"),
    (("kernel", "gemm", f"m={DIGITS}"), r"m is '9+\.\.\., must be .*at most 30 digits"),
    (("kernel", "gemm", f"m={MILLION}"), f"m is {MILLION}, must be .*from 1 to 2147483647"),
    (("kernel", "gemm", f"m={10**9}"), "arrays take 4,096,.* bytes of hbm, .*smaller sizes"),
    (("kernel", "flash_causal", f"tokens={MILLION}"), f"tokens is {MILLION}, must be"),
    (("kernel", "flash_causal", f"tokens={10**9}"), "arrays take .* bytes of hbm, has 103,"),
    (("kernel", "gemm", "dtype=fp4"), "dtype is 'fp4', must be one of bfloat16, float16"),
    (("kernel", "gemm", "dtype=float64"), "dtype is 'float64', must be one of bfloat16"),
    (("kernel", "gemm", "variant=none"), "no variant 'none', must be one of tiled"),
    (("kernel", "gemm", "buffers=0"), "'buffers=0': buffers is 0, must be at least 1"),
    (("kernel", "gemm", "vs", "m=0"), "'m=0': m is 0, must be at least 1"),
    (("kernel", "vs", "gemm"), "name a kernel first: gemm"),
    (("kernel", "matmul_mx"), "device is Trainium2, must be Trainium3"),
    (("kernel", "tune"), "name a kernel first: gemm"),
    (("tune", "gemm", "variant=none"), "none of 3 settings can run; .* buffers=2: .*no variant"),
    (("tune", "gemm", "variant=tiled", "buffers=2"), "nothing is left to tune; give fewer"),
    # --- a user's file ---
    *(
        ((name, f"{file}.py:f", *more), told)
        for name in ("kernel", "fabric")
        for file, more, told in (
            ("nowhere", (), "nowhere.py: no such file; name a Python file of your own"),
            ("folder", (), "folder.py: no such file"),
            ("pipe", (), "pipe.py: no such file"),
            ("loop", (), "loop.py: no such file"),
            ("empty", (), "empty.py: no (kernel|function) 'f'"),
            ("binary", (), r"SyntaxError: .*null bytes \(binary.py:1\)"),
            ("latin", (), r"SyntaxError: .*utf-8.* \(latin.py:1\)"),
            ("syntax", (), r"syntax.py:f: SyntaxError: invalid syntax \(syntax.py:1\)"),
            ("raises", (), r"raises.py:f: ValueError: of mine \(raises.py:2\)"),
            ("exits", (), r"exits.py:f: SystemExit: 3 \(exits.py:2\)"),
            ("leaves", (), r"leaves.py:f: GeneratorExit: no message \(leaves.py:1\)"),
            ("full", (), r"full.py:f: OSError: .*No space left.* \(full.py:2\)"),
            ("late", ("n=1",), r"late.py:f: SystemExit: bye \(late.py:3\)"),
            ("endless", ("n=1",), r"RecursionError: .* \(endless.py:2\)"),
            (TORN, (), "character 5 is no text"),
        )
    ),
    (("kernel", "late.py:f"), r"late.py:f: give n=DTYPE\[SIZES\], .*or a number"),
    (("kernel", "late.py:f", "n="), "'n=': give n an array such as .*, or a number"),
    (("kernel", "late.py:f", "n=nan"), "n is 'nan', must be a finite number"),
    (("kernel", "late.py:f", "n=bf17[3]"), "no dtype 'bf17', must be one of bf16"),
    (("kernel", "late.py:f", "n=bf16[0]"), r"sizes of 'bf16\[0\]' must be whole numbers"),
    (("kernel", "late.py:f", f"n=bf16[{DIGITS}]"), "must be whole numbers of at least 1"),
    (("kernel", "late.py:f", f"n=bf16[{MILLION}]"), "arrays take 2,000,000,.* bytes of hbm"),
]  # fmt: skip


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A folder of things that are not what a command line wants."""
    folder = tmp_path_factory.mktemp("faulty")
    for ending in ("", ".py", ".gguf", ".csv"):
        (folder / f"folder{ending}").mkdir()
        (folder / f"empty{ending}").touch()
        (folder / f"binary{ending}").write_bytes(bytes(range(255, -1, -1)) * 4)
        os.mkfifo(folder / f"pipe{ending}")
        # What no user may read, not even root.
        (folder / f"loop{ending}").symlink_to(folder / f"loop{ending}")
    (folder / "text").write_text("some words\n")
    for name, text in (
        ("syntax", "def f(:\n"),
        ("raises", "# of mine\nraise ValueError('of mine')\n"),
        ("exits", "import sys\nsys.exit(3)\n"),
        ("leaves", "raise GeneratorExit\n"),
        (
            "full",
            "with open('/dev/full', 'w') as file:\n    file.write('x' * 100000)\n",
        ),
        ("late", "import sys\ndef f(n):\n    sys.exit('bye')\n"),
        ("endless", "def f(n):\n    return f(n)\n"),
    ):
        (folder / f"{name}.py").write_text(text)
    (folder / "latin.py").write_bytes(b"name = '\xe9'\n")
    return folder


@pytest.fixture
def no_hang() -> Iterator[None]:
    """Ends a test that waits for something."""

    def end(*_: object) -> None:
        raise TimeoutError(f"still busy after {LONGEST_S} s")

    before = signal.signal(signal.SIGALRM, end)
    signal.alarm(LONGEST_S)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def resident_bytes() -> int:
    """Of this process now; its peak counts from here on, where Linux can be told so."""
    clear = pathlib.Path("/proc/self/clear_refs")
    if clear.exists():
        clear.write_text("5")
    return peak_bytes()


def shortened(words: tuple[str, ...]) -> str:
    return " ".join(word if len(word) < 40 else f"{word[:20]}..." for word in words)


def test_the_table_is_long_and_says_nothing_twice() -> None:
    commands = [words for words, _ in FAULTS]
    assert len(FAULTS) >= 150 and len(set(commands)) == len(commands)


@pytest.mark.parametrize(
    ("words", "told"), FAULTS, ids=[ascii(shortened(words)) for words, _ in FAULTS]
)
@pytest.mark.usefixtures("no_hang")
def test_a_wrong_command_line_is_refused_by_name(
    words: tuple[str, ...],
    told: str,
    faulty: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(faulty)
    # Each command imports a user's file anew.
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = resident_bytes()
    with pytest.raises(SystemExit) as stopped:
        command.do(words)
    said = capsys.readouterr()
    assert stopped.value.code == 2
    assert said.err.startswith("error: ") and said.err.count("\n") == 1
    assert re.search(told, said.err), said.err
    # Of what goes before, at most that a model is being loaded.
    assert not said.out.strip() or said.out.startswith("loading ")
    assert len(said.err) < 1200
    assert peak_bytes() - before < MOST_BYTES


# --- as processes of their own ---


MEASURED = """
import os, sys
child = os.spawnv(os.P_NOWAIT, sys.argv[1], sys.argv[1:])
_, status, used = os.wait4(child, 0)
print(os.waitstatus_to_exitcode(status), used.ru_maxrss, file=sys.stderr)
"""


def run(
    folder: pathlib.Path, *command: str, stdout: int = subprocess.DEVNULL
) -> tuple[int, str, int]:
    """Status, complaints and peak bytes of a process in a folder."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    # A process counts what it was forked from among its peaks, and the tests are large by now: so
    # it is begun by a small one.
    with subprocess.Popen(
        [sys.executable, "-I", "-c", MEASURED, sys.executable, *command],
        cwd=folder,
        env=environment,
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        *lines, measured = process.stderr.read().splitlines(keepends=True)
    status, peak_kib = map(int, measured.split())
    return status, "".join(lines), peak_kib * 1024


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("experiments", "nothing"), "no experiment 'nothing'"),
        (("experiments.quickstart", "--chips", str(10**9)), "--chips is 1000000000"),
        (("experiments.fabric", "gemm", "p=100000"), "p is 100000"),
        (("experiments.kernel", "exits.py:f"), "exits.py:f: SystemExit: 3"),
        (("experiments.calibration", "--points", "pipe"), "got a named pipe"),
    ],
)
def test_a_process_exits_2_in_little_memory(
    words: tuple[str, ...], told: str, faulty: pathlib.Path
) -> None:
    status, complaints, used_bytes = run(faulty, "-m", *words)
    assert status == 2 and complaints.count("\n") == 1
    assert complaints.startswith("error: ") and told in complaints
    assert used_bytes < MOST_BYTES


@pytest.mark.parametrize("words", [("experiments",), ("experiments.kernel",)])
def test_a_full_disk_under_standard_output_is_one_line(
    words: tuple[str, ...], tmp_path: pathlib.Path
) -> None:
    with open("/dev/full", "w") as full:
        status, complaints, _ = run(tmp_path, "-m", *words, stdout=full.fileno())
    assert status == 2 and complaints.count("\n") == 1
    assert "cannot be written (No space left on device); free some space" in complaints


@pytest.mark.parametrize("name", ["emu", "kernels", "models"])
def test_what_shadows_a_package_is_named(name: str, tmp_path: pathlib.Path) -> None:
    """A folder of that name in the working directory, where `python -m` looks first."""
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").touch()
    status, complaints, _ = run(tmp_path, "-m", "experiments.kernel")
    assert status == 2 and complaints.count("\n") == 1
    told = f"error: {tmp_path / name} shadows the package '{name}' of {ROOT / name}"
    assert complaints.startswith(told) and "run trn-wse" in complaints


def test_the_command_does_not_look_in_the_working_directory(
    tmp_path: pathlib.Path,
) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "__init__.py").touch()
    (tmp_path / "experiments.py").touch()
    script = tmp_path / "bin" / "trn-wse"
    script.parent.mkdir()
    script.write_text("from experiments.__main__ import main; main()\n")
    assert run(tmp_path, str(script), "kernel")[:2] == (0, "")
