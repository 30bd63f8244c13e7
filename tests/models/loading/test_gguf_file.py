"""GGUF headers: what the gguf package reads, and no damage that passes."""

import pathlib
import struct
import time
from typing import Any

import gguf
import numpy as np
import pytest

from models.errors import ModelError
from models.loading.gguf_file import read_header
from models.loading.load import load
from tests.models.loading.files import LLAMA, REFERENCE, WriteGguf, refused


def test_our_header_is_what_the_gguf_package_reads(write_gguf: WriteGguf) -> None:
    path = write_gguf(LLAMA)
    ours, theirs = read_header(path), gguf.GGUFReader(path)
    names = [name for name in theirs.fields if not name.startswith("GGUF.")]
    assert list(ours.metadata) == names
    for name in names:
        assert ours.metadata[name] == theirs.fields[name].contents(), name
    for tensor in theirs.tensors:
        mine = ours.tensors[tensor.name]
        assert (mine.start, mine.size_bytes) == (tensor.data_offset, tensor.n_bytes)
        assert mine.shape == tuple(tensor.shape[::-1])
        np.testing.assert_array_equal(ours.read(tensor.name), tensor.data)


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_1", "BF16", "F16"])
def test_quantised_tensors_are_dequantised(kind: str, tmp_path: pathlib.Path) -> None:
    values = np.random.default_rng(0).standard_normal((4, 64), np.float32)
    code = gguf.GGMLQuantizationType[kind]
    stored = (
        values.astype(np.float16)
        if kind == "F16"
        else gguf.quants.quantize(values, code)
    )
    writer: Any = gguf.GGUFWriter(tmp_path / "q.gguf", "llama")
    writer.add_tensor("a", stored, raw_dtype=code)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    read = read_header(tmp_path / "q.gguf").read("a")
    assert read.dtype == np.float32
    # A step of the coarsest, Q4_1, is a block's range (about 5) over 15: half of it is 0.17.
    np.testing.assert_allclose(read, values, atol={"Q4_1": 0.25}.get(kind, 0.03))


def test_gguf_truncated_anywhere_is_refused(
    write_gguf: WriteGguf, tmp_path: pathlib.Path
) -> None:
    data, cut = write_gguf(LLAMA).read_bytes(), tmp_path / "cut.gguf"
    header = read_header(tmp_path / "llama_mha_untied.gguf")
    first = min(tensor.start for tensor in header.tensors.values())
    for length in (
        0,
        3,
        4,
        7,
        8,
        20,
        30,
        *range(40, first, 997),
        first,
        len(data) - 40,
    ):
        cut.write_bytes(data[:length])
        refused(cut, f"ends at byte {length}, but .* needs")


@pytest.mark.parametrize(
    ("name", "times"),
    [(LLAMA.name, 150), ("deepseek_v3", 40), ("gpt_oss", 40), ("gemma3", 40)],
)
def test_gguf_with_any_byte_changed_never_fails_from_inside(
    name: str, times: int, write_gguf: WriteGguf, tmp_path: pathlib.Path
) -> None:
    data = write_gguf(REFERENCE / name).read_bytes()
    changed = tmp_path / "changed.gguf"
    generator = np.random.default_rng(0)
    for _ in range(times):
        bad, place = bytearray(data), int(generator.integers(0, 6000))
        bad[place] = int(generator.integers(0, 256))
        changed.write_bytes(bad)
        try:
            load(changed)  # a changed letter of a name may do no harm
        except ModelError as error:
            assert "\n" not in str(error)


@pytest.mark.parametrize(
    ("place", "code", "value", "message"),
    [
        (0, "I", 0, "must start with b'GGUF'"),
        (4, "I", 1, r"version must be one of \(2, 3\), got 1"),
        (8, "Q", 1 << 62, "at most 65536 tensors, claims 4611686018427387904"),
        (16, "Q", 1 << 62, "at most 4096 fields, claims"),
        (24, "Q", 1 << 62, "the name of field 0 needs 4611686018427387936"),
    ],
)
def test_gguf_claims_are_bounded(
    place: int, code: str, value: int, message: str, write_gguf: WriteGguf
) -> None:
    path = write_gguf(LLAMA)
    data = bytearray(path.read_bytes())
    struct.pack_into(f"<{code}", data, place, value)
    path.write_bytes(data)
    started = time.monotonic()
    refused(path, message)
    assert time.monotonic() - started < 1


def one_tensor(
    shape: tuple[int, ...], kind: int, offset: int, again: bool = False
) -> bytes:
    """A GGUF file without fields that claims one tensor `x` (or two), and holds 4 KiB."""
    info = struct.pack("<Q", 1) + b"x" + struct.pack("<I", len(shape))
    info += b"".join(struct.pack("<Q", size) for size in shape) + struct.pack(
        "<IQ", kind, offset
    )
    count = 2 if again else 1
    second = info.replace(b"x", b"y", 1) if again else b""
    return b"GGUF" + struct.pack("<IQQ", 3, count, 0) + info + second + bytes(4096)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            one_tensor((1 << 40, 1 << 20), 0, 0),
            "ends at byte .*, but tensor x needs 46116860184",
        ),
        (one_tensor((64,), 0, 1 << 50), "tensor x needs"),
        (one_tensor((64,), 0, 3), "tensor x is not aligned to 32 bytes"),
        (one_tensor((64,), 250, 0), "tensor x has the unknown type 250"),
        (one_tensor((33,), 8, 0), "whole Q8_0 blocks of 32"),
        (one_tensor((0,), 0, 0), "whole F32 blocks"),
        (one_tensor((1,) * 5, 0, 0), "1 to 4 dimensions, claims 5"),
        (one_tensor((64,), 0, 0, again=True), "tensor y overlaps tensor x"),
    ],
)
def test_gguf_tensors_are_bounded(
    data: bytes, message: str, tmp_path: pathlib.Path
) -> None:
    (tmp_path / "bad.gguf").write_bytes(data)
    refused(tmp_path / "bad.gguf", message)
