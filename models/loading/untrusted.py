"""Files of unknown origin: regular ones of sensible length are opened, the rest refused."""

import json
import os
import pathlib
import stat
from typing import Any

from models.errors import ModelError, shown

LARGEST_TEXT_BYTES = 1 << 28  # tokenizer files reach tens of MB
LONGEST_PATH_SHOWN = 500


def present(path: pathlib.Path) -> bool:
    """Whether there is something of this name: also a link to nowhere, which then is refused."""
    try:
        return os.path.lexists(path)
    except ValueError:  # a name that no file can have
        return False


def check_regular(
    path: pathlib.Path, remedy: str = "put the model's own file there"
) -> int:
    """The length in bytes of a regular file.

    A named pipe would be waited for without end, and a device read without end.

    Raises:
        ModelError: There is no such file, or it is a directory, a pipe, a device.
    """
    try:
        found = path.stat()
    except OSError as error:
        raise unreadable(path, error) from None
    except ValueError as error:
        raise ModelError(
            f"{shown(str(path))}: no file can be named so ({error})"
        ) from None
    if not stat.S_ISREG(found.st_mode):
        raise ModelError(
            f"{path}: cannot be read (must be a regular file, got {kind_of(found.st_mode)}); "
            f"{remedy}"
        )
    return found.st_size


def kind_of(mode: int) -> str:
    """What a file that is not regular is, in words."""
    kinds = {
        stat.S_IFDIR: "a directory",
        stat.S_IFIFO: "a named pipe",
        stat.S_IFSOCK: "a socket",
        stat.S_IFCHR: "a device",
        stat.S_IFBLK: "a device",
    }
    return kinds.get(stat.S_IFMT(mode), "something else")


def unreadable(path: pathlib.Path, error: OSError) -> ModelError:
    """What to say of a file that the system does not give."""
    name = str(path)
    if len(name) > LONGEST_PATH_SHOWN:
        name = shown(name)
    return ModelError(f"{name}: cannot be read ({error.strerror}); check the path")


def read_bytes(
    path: pathlib.Path, remedy: str = "put the model's own file there"
) -> bytes:
    """All of a small file; `remedy` is for what is no regular one."""
    size_bytes = check_regular(path, remedy)
    if size_bytes > LARGEST_TEXT_BYTES:
        raise ModelError(
            f"{path}: {size_bytes} bytes is too long, at most {LARGEST_TEXT_BYTES} are read; "
            "fetch it again"
        )
    try:
        return path.read_bytes()
    except OSError as error:
        raise unreadable(path, error) from None


def read_text(path: pathlib.Path) -> str:
    """All of a small UTF-8 file."""
    try:
        return read_bytes(path).decode()
    except UnicodeDecodeError as error:
        raise ModelError(f"{path}: must be UTF-8 ({error}); fetch it again") from None


def read_json(path: pathlib.Path) -> Any:
    """The parsed contents of a JSON file.

    Raises:
        ModelError: It is missing or malformed, holds NaN or infinity (which JSON has not), or says
            one key twice, so that one of the two values would be overruled.
    """

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for key, value in pairs:
            if key in values:
                raise ModelError(
                    f"{path}: {shown(key)} must occur once, got {shown(values[key])} and "
                    f"{shown(value)}; correct the file"
                )
            values[key] = value
        return values

    def no_number(text: str) -> Any:
        raise ModelError(
            f"{path}: not valid JSON ({text} is no number); correct the file"
        )

    text = read_bytes(path)
    try:
        return json.loads(text, object_pairs_hook=once, parse_constant=no_number)
    except ModelError:
        raise
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path}: not valid JSON ({error}); fetch it again") from None
