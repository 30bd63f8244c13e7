"""Reads a GGUF file's header and tensors, every length checked before anything is allocated."""

import dataclasses
import math
import pathlib
import struct
from typing import Any, BinaryIO

import gguf
import numpy as np
from numpy.typing import NDArray

from models.errors import ModelError
from models.loading.untrusted import check_regular, unreadable
from models.plain.weights import check_finite

MAGIC = b"GGUF"
VERSIONS = (2, 3)
# Generous bounds: the largest published files have about 2,000 tensors and 60 fields.
MOST_TENSORS = 1 << 16
MOST_FIELDS = 1 << 12
MOST_DIMENSIONS = 4
LONGEST_ARRAY = 1 << 22  # values in one metadata field; vocabularies reach about 2^18
LONGEST_NAME = 1 << 16  # the format's limit on names, in bytes
ALIGNMENT_DEFAULT = 32
SCALARS = {
    0: "<u1",
    1: "<i1",
    2: "<u2",
    3: "<i2",
    4: "<u4",
    5: "<i4",
    6: "<f4",
    7: "?",
    10: "<u8",
    11: "<i8",
    12: "<f8",
}
STRING, ARRAY = 8, 9
UNQUANTISED = {
    gguf.GGMLQuantizationType.F32: np.float32,
    gguf.GGMLQuantizationType.F16: np.float16,
}


@dataclasses.dataclass(frozen=True)
class GgufTensor:
    """Where one tensor lies.

    Attributes:
        path: The file, of which a model may have several.
        name: Its name in the file.
        shape: Outermost dimension first (GGUF stores the reverse).
        kind: How its values are quantised.
        start: First byte in the file.
        size_bytes: Length in the file.
    """

    path: pathlib.Path
    name: str
    shape: tuple[int, ...]
    kind: gguf.GGMLQuantizationType
    start: int
    size_bytes: int


@dataclasses.dataclass(frozen=True)
class GgufFile:
    """A checked header: the metadata, and where each tensor lies."""

    path: pathlib.Path
    metadata: dict[str, Any]
    tensors: dict[str, GgufTensor]

    def read(self, name: str) -> NDArray[np.float32]:
        """One tensor, dequantised to float32 in its outermost-first shape."""
        tensor = self.tensors[name]
        with tensor.path.open("rb") as file:
            file.seek(tensor.start)
            raw = file.read(tensor.size_bytes)
        # Lengths were checked when the header was read, which may be long ago.
        if len(raw) != tensor.size_bytes:
            raise ModelError(
                f"{tensor.path}: changed while tensor {name} was read; load it again"
            )
        return dequantise(raw, tensor)


def dequantise(raw: bytes, tensor: GgufTensor) -> NDArray[np.float32]:
    """The float32 values of a tensor's bytes."""
    where = f"{tensor.path}: tensor {tensor.name}"
    if tensor.kind in UNQUANTISED:
        values = np.frombuffer(raw, UNQUANTISED[tensor.kind]).astype(np.float32)
    else:
        try:
            # A corrupt scale is reported below, in one line.
            with np.errstate(all="ignore"):
                values = gguf.quants.dequantize(
                    np.frombuffer(raw, np.uint8), tensor.kind
                )
        except NotImplementedError:
            raise ModelError(
                f"{where} is quantised as {tensor.kind.name}, which the gguf "
                "package cannot dequantise; use a Q4, Q5, Q6, Q8, F16 or BF16 file"
            ) from None
    return check_finite(values.reshape(tensor.shape), where)


class Cursor:
    """A position in an untrusted file that never reads past the file's end."""

    def __init__(self, file: BinaryIO, path: pathlib.Path) -> None:
        self.file, self.path = file, path
        self.size_bytes = path.stat().st_size
        self.position = 0

    def take(self, count: int, what: str) -> bytes:
        """The next `count` bytes; raises ModelError where the file is too short."""
        # Before anything is read: a string that claims 2**60 bytes must not be asked for.
        if count > self.size_bytes - self.position:
            raise ModelError(
                f"{self.path}: ends at byte {self.size_bytes}, but {what} needs "
                f"{self.position + count}; the file is truncated or corrupt, fetch it again"
            )
        self.position += count
        return self.file.read(count)

    def number(self, code: str, what: str) -> int:
        """The next little-endian integer of a `struct` code."""
        raw = self.take(struct.calcsize(f"<{code}"), what)
        (value,) = struct.unpack(f"<{code}", raw)
        return value

    def text(self, what: str) -> str:
        """The next length-prefixed UTF-8 string."""
        raw = self.take(self.number("Q", f"the length of {what}"), what)
        try:
            return raw.decode()
        except UnicodeDecodeError:
            raise self.error(f"{what} must be UTF-8, got {raw[:16]!r}") from None

    def error(self, message: str) -> ModelError:
        """An error about this file."""
        return ModelError(
            f"{self.path}: {message}; the file is corrupt or not a GGUF model"
        )


def read_header(path: pathlib.Path) -> GgufFile:
    """Reads and checks everything before the tensors' bytes.

    Args:
        path: A little-endian GGUF file of version 2 or 3.

    Raises:
        ModelError: The file is missing, truncated, corrupt, or of another format or version.
    """
    check_regular(path)
    try:
        with path.open("rb") as file:
            return parse(Cursor(file, path))
    except OSError as error:
        raise unreadable(path, error) from None


def parse(cursor: Cursor) -> GgufFile:
    """Reads a header from its first byte."""
    magic = cursor.take(4, "the magic")
    if magic != MAGIC:
        raise cursor.error(f"must start with {MAGIC!r}, got {magic!r}")
    version = cursor.number("I", "the version")
    if version not in VERSIONS:
        raise cursor.error(f"version must be one of {VERSIONS}, got {version}")
    tensor_count = cursor.number("Q", "the tensor count")
    check_count(cursor, tensor_count, MOST_TENSORS, "tensors")
    field_count = cursor.number("Q", "the field count")
    check_count(cursor, field_count, MOST_FIELDS, "fields")
    metadata: dict[str, Any] = {}
    for index in range(field_count):
        name = cursor.text(f"the name of field {index}")
        if name in metadata:
            raise cursor.error(f"field {name!r} must occur once, got it twice")
        kind = cursor.number("I", f"the type of {name}")
        metadata[name] = field_value(cursor, kind, name)
    infos = [tensor_info(cursor, index) for index in range(tensor_count)]
    alignment = metadata.get("general.alignment", ALIGNMENT_DEFAULT)
    # A power of two has one bit, which subtracting 1 clears: 32 & 31 is 0, 48 & 47 is 32.
    if not isinstance(alignment, int) or alignment < 1 or alignment & (alignment - 1):
        raise cursor.error(
            f"general.alignment must be a power of two, got {alignment!r}"
        )
    # The first tensor's byte: the header's end, rounded up to the alignment.
    data_start = math.ceil(cursor.position / alignment) * alignment
    placed = [
        dataclasses.replace(info, start=data_start + info.start) for info in infos
    ]
    check_places(cursor, placed, alignment)
    return GgufFile(cursor.path, metadata, {tensor.name: tensor for tensor in placed})


def check_count(cursor: Cursor, count: int, most: int, what: str) -> None:
    """Raises ModelError where `count` exceeds `most`."""
    if count > most:
        raise cursor.error(f"must hold at most {most} {what}, claims {count}")


def field_value(cursor: Cursor, kind: int, name: str) -> Any:
    """One metadata value: a number, a string, or a list of either."""
    if kind == STRING:
        return cursor.text(name)
    if kind in SCALARS:
        dtype = np.dtype(SCALARS[kind])
        return np.frombuffer(cursor.take(dtype.itemsize, name), dtype)[0].item()
    if kind != ARRAY:
        raise cursor.error(f"field {name!r} has the unknown type {kind}")
    kind = cursor.number("I", f"the element type of {name}")
    count = cursor.number("Q", f"the length of {name}")
    check_count(cursor, count, LONGEST_ARRAY, f"values in {name}")
    if kind in SCALARS:
        dtype = np.dtype(SCALARS[kind])
        return np.frombuffer(cursor.take(count * dtype.itemsize, name), dtype).tolist()
    if kind != STRING:
        raise cursor.error(f"field {name!r} is an array of the unsupported type {kind}")
    return [cursor.text(f"{name}[{index}]") for index in range(count)]


def tensor_info(cursor: Cursor, index: int) -> GgufTensor:
    """One tensor's entry; `start` still counts from the first tensor's byte."""
    name = cursor.text(f"the name of tensor {index}")
    if len(name) > LONGEST_NAME:
        raise cursor.error(f"tensor {index} has a name of {len(name)} characters")
    dimensions = cursor.number("I", f"the dimensions of {name}")
    if not 1 <= dimensions <= MOST_DIMENSIONS:
        raise cursor.error(
            f"tensor {name} must have 1 to 4 dimensions, claims {dimensions}"
        )
    reverse = [cursor.number("Q", f"the shape of {name}") for _ in range(dimensions)]
    code = cursor.number("I", f"the type of {name}")
    try:
        kind = gguf.GGMLQuantizationType(code)
    except ValueError:
        raise cursor.error(f"tensor {name} has the unknown type {code}") from None
    # Q4_1 packs 32 values into 20 bytes: 16 of nibbles, a scale and a minimum in float16.
    block, block_bytes = gguf.GGML_QUANT_SIZES[kind]
    # GGUF's first dimension is the row, along which blocks lie: none reaches into the next row.
    if min(reverse) < 1 or reverse[0] % block:
        raise cursor.error(
            f"tensor {name} must have a row of whole {kind.name} blocks of {block}, "
            f"got shape {reverse[::-1]}"
        )
    size_bytes = math.prod(reverse) // block * block_bytes
    start = cursor.number("Q", f"the place of {name}")
    shape = tuple(reverse[::-1])
    return GgufTensor(cursor.path, name, shape, kind, start, size_bytes)


def check_places(cursor: Cursor, tensors: list[GgufTensor], alignment: int) -> None:
    """Raises ModelError unless the tensors are named once, aligned, inside and apart."""
    if len({tensor.name for tensor in tensors}) < len(tensors):
        raise cursor.error("two tensors have the same name")
    # By start, so that each need be compared with the one before alone. Two tensors over the same
    # bytes would load without an error, and one of them as something else.
    end, previous = 0, ""
    for tensor in sorted(tensors, key=lambda tensor: tensor.start):
        stop = tensor.start + tensor.size_bytes
        if stop > cursor.size_bytes:
            raise ModelError(
                f"{cursor.path}: ends at byte {cursor.size_bytes}, but tensor {tensor.name} needs "
                f"{stop}; the file is truncated or corrupt, fetch it again"
            )
        if tensor.start % alignment:
            raise cursor.error(
                f"tensor {tensor.name} is not aligned to {alignment} bytes"
            )
        if tensor.start < end:
            raise cursor.error(f"tensor {tensor.name} overlaps tensor {previous}")
        end, previous = stop, tensor.name
