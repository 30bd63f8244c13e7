"""GGUF models in several files: `name-00001-of-00003.gguf` and its two brothers are one model."""

import dataclasses
import pathlib
import re

from models.errors import ModelError, shown
from models.loading.gguf_file import GgufFile, read_header

# llama.cpp, src/llama.cpp, llama_split_path: counted from 1 in names, from 0 in `split.no`.
PART_NAME = re.compile(r"(?P<stem>.*)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf")


def read_parts(path: pathlib.Path) -> GgufFile:
    """A model's header: of its one file, or of all its parts together.

    Args:
        path: The file; of several the first, which holds the metadata.

    Raises:
        ModelError: A part is missing, corrupt, or belongs to another model.
    """
    first = read_header(path)
    named = PART_NAME.fullmatch(path.name)
    name_count = int(named["count"]) if named else 1
    count = first.metadata.get("split.count", name_count)
    if count != name_count:
        raise ModelError(
            f"{path}: split.count is {shown(count)}, but the name says {name_count}; name the "
            "parts as they were made, NAME-00001-of-0000N.gguf"
        )
    if named is None or count == 1:
        return first
    check_number(first, number=1, stated=int(named["number"]))
    tensors = dict(first.tensors)
    for number in range(2, count + 1):
        part = read_header(part_path(path, named["stem"], number, count))
        check_number(part, number, stated=number)
        twice = sorted(tensors.keys() & part.tensors.keys())
        if twice:
            raise ModelError(
                f"{part.path}: tensor {twice[0]} is in an earlier part too; "
                "fetch the parts of one model"
            )
        tensors |= part.tensors
    # The number of parts is in the name, which anybody can change; this was written with them.
    expected = first.metadata.get("split.tensors.count", len(tensors))
    if expected != len(tensors):
        raise ModelError(
            f"{path}: split.tensors.count is {shown(expected)}, but its {count} parts hold "
            f"{len(tensors)} tensors; fetch the parts of one model"
        )
    return dataclasses.replace(first, tensors=tensors)


def part_path(first: pathlib.Path, stem: str, number: int, count: int) -> pathlib.Path:
    """Where another part stands: beside the first."""
    return first.with_name(f"{stem}-{number:05}-of-{count:05}.gguf")


def check_number(part: GgufFile, number: int, stated: int) -> None:
    """Raises ModelError unless the part is the one that its name and its metadata say."""
    counted = part.metadata.get("split.no", number - 1)
    if stated != number or counted != number - 1:
        raise ModelError(
            f"{part.path}: must be part {number} (split.no {number - 1}), got part {stated} with "
            f"split.no {shown(counted)}; give the first part, 00001, with the others beside it"
        )
