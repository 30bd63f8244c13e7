"""Where a measured kernel's source is among those that the user fetched, and what it is given.

Three layouts are known, each by what it looks like and not by its name:

- a kernel's file beside a folder `reference`, in which a file of the same name gives inputs as
  `get_inputs()` and brings them into the kernel's form by `transform_to_nki_inputs`;
- a tuner's trace, a file with a candidate after another, each as text (`code='''...'''`) with its
  measured latency (`score=`), by which a row's candidate is known; a harness beside it has
  `benchmark_nki(kernel)`, which launches a kernel as it was measured;
- any other file, with arguments written in the row: `x[4096,512] w[512]` of the row's dtype.
"""

import ast
import dataclasses
import pathlib
import re
from collections.abc import Callable, Iterator, Sequence
from types import ModuleType
from typing import Any

import jax
import numpy as np

from emu.trainium.nki import launch, load
from emu.trainium.nki.kernel import Kernel
from experiments.calibration.kernels import Measured
from experiments.kernel.own import DTYPES, array
from experiments.shared.errors import UsageError
from kernels import user_file

ARRAY = re.compile(r"\w+\s*\[([\d,\s]+)\]")  # lhsT[8192,4096]
SUBSTITUTE = re.compile(r"^# *SUBSTITUTE HERE.*$", re.MULTILINE)
# Instructions of the newer generation take their destination first, by name or not.
NEWER = re.compile(r"nisa\.\w+\(\s*dst\s*=|\bdma_copy\(")


class NotFound(Exception):
    """There is no source, or it does not say what the kernel is given; says which."""


@dataclasses.dataclass(frozen=True)
class Source:
    """A kernel that was found.

    Attributes:
      path: its file.
      kernel: decorated or not.
      api: of NKI.
      arguments: arrays by shape, and values.
      keywords: further ones by name.
      grid: of the launch.
    """

    path: pathlib.Path
    kernel: Callable[..., Any]
    api: str
    arguments: tuple[Any, ...]
    keywords: dict[str, Any]
    grid: tuple[int, ...] = ()


def find(measured: Measured, folder: pathlib.Path) -> Source:
    """The source of a measured kernel.

    Raises:
      NotFound: it is not there.
      EmulationError: its file cannot be imported.
    """
    path = _file(measured.source_file, folder)
    text = path.read_text(encoding="utf-8")
    candidates = _candidates(text)
    if candidates:
        return _of_trace(measured, path, candidates)
    module = load.load(path)
    kernel = _kernel(module, path)
    arguments = _from_reference(path)
    if arguments is None:
        arguments = _from_row(measured)
    return Source(path, kernel, load.api(module), arguments, {})


# --- files ---


def _file(source_file: str, folder: pathlib.Path) -> pathlib.Path:
    """The file below `folder` whose path ends as the row says, with the longest such end."""
    repository, _, place = re.sub(r"[: ]", " ", source_file.strip(), count=1).partition(
        " "
    )
    parts = pathlib.PurePath((place or repository).strip()).parts
    for first in range(len(parts)):
        pattern = "/".join(parts[first:])
        found = sorted(folder.rglob(pattern))
        if len(found) == 1:
            return found[0]
        if found:
            own = [
                path for path in found if repository.rpartition("/")[2] in path.parts
            ]
            return (own or found)[0]
    raise NotFound(f"no file {source_file!r} below {folder}")


def _kernel(module: ModuleType, path: pathlib.Path) -> Callable[..., Any]:
    """The file's kernel: `kernel` or `solution`, or the only decorated function."""
    decorated = [
        name for name, value in vars(module).items() if isinstance(value, Kernel)
    ]
    for name in ("kernel", "solution", "test"):
        if name in decorated:
            return getattr(module, name)
    if len(decorated) == 1:
        return getattr(module, decorated[0])
    has = ", ".join(decorated) or "none"
    raise NotFound(f"{path.name}: which kernel is meant is not said; it has {has}")


# --- inputs from a reference ---


def _from_reference(path: pathlib.Path) -> tuple[Any, ...] | None:
    """What `reference/` gives the kernel, as shapes; None where there is no such folder."""
    beside = path.parent.parent / "reference"
    stem = re.sub(r"_\d+$", "", path.stem)
    files = sorted(beside.glob(f"{stem}*.py"))
    if not files:
        return None
    reference = user_file.reference(str(files[0]))
    assert reference is not None  # it ends in .py
    with user_file.errors_in_one_line(reference):
        module = user_file.load(reference)
        inputs = module.get_inputs()
        transform = getattr(module, "transform_to_nki_inputs", tuple)
        return tuple(_shape(value) for value in transform(inputs))


def _shape(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return jax.ShapeDtypeStruct(value.shape, value.dtype)
    return value


# --- a step of a tuner's trace ---


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A step of a trace: its text, the text's first line, and the latency measured of it."""

    text: str
    line: int
    score: float


def _candidates(text: str) -> Sequence[Candidate]:
    """The candidates of a trace, the first step first; empty for another file."""
    if "CodeCandidate(" not in text:
        return ()
    # Not run: only the texts are taken. A step holds the one before it as its parent.
    tree = ast.parse(text)
    return list(_steps(tree.body[0])) if tree.body else ()


def _steps(node: ast.AST) -> Iterator[Candidate]:
    while isinstance(node, ast.Expr):
        node = node.value
    if not isinstance(node, ast.Call):
        return
    named = {keyword.arg: keyword.value for keyword in node.keywords}
    if "parent" in named:
        yield from _steps(named["parent"])
    code, score = named.get("code"), named.get("score")
    if (
        isinstance(code, ast.Constant)
        and isinstance(code.value, str)
        and isinstance(score, ast.Constant)
        and isinstance(score.value, int | float)
    ):
        yield Candidate(code.value, code.lineno, score.value)


def _of_trace(
    measured: Measured, path: pathlib.Path, candidates: Sequence[Candidate]
) -> Source:
    own = [each for each in candidates if each.score == measured.latency_ms]
    if not own:
        raise NotFound(
            f"{path.name}: none of {len(candidates)} candidates was measured at "
            f"{measured.latency_ms:g} ms"
        )
    text = own[0].text
    is_newer = NEWER.search(text) is not None
    harness = _harness(path, is_newer)
    # What the harness imports before the kernel's place is what the step relies on.
    head, *_ = SUBSTITUTE.split(harness.read_text(encoding="utf-8"), 1)
    step = load.load_text(text, file=str(path), line=own[0].line, usual=head)
    around = load.load(harness)
    kernel = _kernel(step, path)

    def launches() -> None:
        around.benchmark_nki(kernel)

    with load.present(getattr(kernel, "func", kernel)):
        launched = launch.first_launch(launches)
    if launched is None:
        raise NotFound(f"{harness.name}: benchmark_nki launches no kernel")
    arguments = tuple(_shape(value) for value in launched.arguments)
    keywords = {name: _shape(value) for name, value in launched.keywords.items()}
    api = getattr(kernel, "api", "nki" if is_newer else "neuronxcc.nki")
    return Source(path, kernel, api, arguments, keywords, launched.grid)


def _harness(path: pathlib.Path, is_newer: bool) -> pathlib.Path:
    """The harness of a trace: of the same number and name, in the folders of its generation."""
    number, _, name = path.stem.partition("_")
    wanted = _letters(name.removesuffix("_trace"))
    top = path.parent.parent.parent
    folders = f"harnesses/{path.parent.name}*"
    found = [
        each
        for each in sorted(top.glob(f"{folders}/{number}_*.py"))
        if _letters(each.stem.partition("_")[2].removesuffix("_test")) == wanted
    ]
    if not found:
        raise NotFound(f"{path.name}: no harness below {top}/{folders}")
    ends = "nki2" if is_newer else "nki1"
    own = [each for each in found if each.parent.name.endswith(ends)]
    return (own or found)[0]


def _letters(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


# --- arguments from the row ---


def _from_row(measured: Measured) -> tuple[Any, ...]:
    found = ARRAY.findall(measured.shapes)
    if not found:
        raise NotFound(
            f"{measured.id}: shapes are {measured.shapes!r}, which names no arrays such as "
            "x[4096,512], and the source has neither a reference nor a harness"
        )
    short = {long: short for short, long in DTYPES.items()}
    try:
        return tuple(
            array(f"{short.get(measured.dtype, measured.dtype)}[{sizes}]")
            for sizes in found
        )
    except ValueError as error:
        raise UsageError(f"{measured.id}: {error}") from None


__all__ = ["NotFound", "Source", "find"]
