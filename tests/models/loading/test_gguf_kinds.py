"""Every way in which GGUF quantises: each block's values, or a refusal by name."""

import pathlib
import struct
from collections.abc import Callable, Iterator
from typing import Any

import gguf
import numpy as np
import pytest

from models.errors import ModelError
from models.loading.gguf_file import read_header
from tests.models.loading.files import refused

KINDS = [kind for kind in gguf.GGMLQuantizationType if kind in gguf.GGML_QUANT_SIZES]


def one_tensor(path: pathlib.Path, kind: Any, raw: np.ndarray) -> pathlib.Path:
    """A file of one tensor `a`, of these bytes, a row each."""
    writer: Any = gguf.GGUFWriter(path, "llama")
    writer.add_tensor("a", raw, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def read(path: pathlib.Path, kind: Any, raw: np.ndarray) -> np.ndarray:
    return read_header(one_tensor(path, kind, raw)).read("a")


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_each_kind_is_dequantised_or_refused_by_name(
    kind: Any, tmp_path: pathlib.Path
) -> None:
    values, size = gguf.GGML_QUANT_SIZES[kind]
    generator = np.random.default_rng(0)
    # As float16, scales are from 0.008 to 0.13.
    raw = generator.integers(0x20, 0x30, (3, 2 * size), np.uint8)
    if kind.name in ("F32", "F16"):
        raw = raw.view({"F32": np.float32, "F16": np.float16}[kind.name])
    path = tmp_path / "a.gguf"
    try:
        expected = gguf.quants.dequantize(raw, kind)
    except NotImplementedError:
        with pytest.raises(ModelError, match=f"quantised as {kind.name}, which"):
            read(path, kind, raw)
        return
    found = read(path, kind, raw)
    assert found.dtype == np.float32 and found.shape == (3, 2 * values)
    np.testing.assert_array_equal(found, expected.reshape(found.shape))


# --- values, from the layout of a block (ggml-common.h, ggml-quants.c) ---

Block = Iterator[float]


def half(raw: bytes) -> float:
    return struct.unpack("<e", raw)[0]


def q5_0(raw: bytes) -> Block:
    """A scale, 32 fifth bits, 16 bytes of which the first half of the values are the low bits."""
    scale, fifth, low = half(raw[:2]), int.from_bytes(raw[2:6], "little"), raw[6:]
    for place in range(32):
        nibble = low[place] & 15 if place < 16 else low[place - 16] >> 4
        yield scale * ((nibble | (fifth >> place & 1) << 4) - 16)


def iq4_nl(raw: bytes) -> Block:
    """A scale, and 16 bytes of places in a table."""
    table = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)
    for place in range(32):
        byte = raw[2 + place % 16]
        yield half(raw[:2]) * table[byte & 15 if place < 16 else byte >> 4]


def q4_k(raw: bytes) -> Block:
    """Two scales of eight pairs of 6 bits, a scale and a minimum of 32 values each."""
    scale, least, packed, low = half(raw[:2]), half(raw[2:4]), raw[4:16], raw[16:]
    for place in range(256):
        part = place // 32
        if part < 4:
            own, minimum = packed[part] & 63, packed[part + 4] & 63
        else:
            own = packed[part + 4] & 15 | packed[part - 4] >> 6 << 4
            minimum = packed[part + 4] >> 4 | packed[part] >> 6 << 4
        byte = low[32 * (part // 2) + place % 32]
        nibble = byte >> 4 if part % 2 else byte & 15
        yield scale * own * nibble - least * minimum


def q6_k(raw: bytes) -> Block:
    """Four low bits of 256 values, two high ones, 16 signed scales of 16 values, and one of all."""
    low, high, scales, scale = raw[:128], raw[128:192], raw[192:208], half(raw[208:])
    for place in range(256):
        part, quarter, column = place // 128, place % 128 // 32, place % 32
        byte = low[64 * part + 32 * (quarter % 2) + column]
        nibble = byte >> 4 if quarter > 1 else byte & 15
        above = high[32 * part + column] >> 2 * quarter & 3
        (own,) = struct.unpack("<b", scales[place // 16 : place // 16 + 1])
        yield scale * own * ((nibble | above << 4) - 32)


@pytest.mark.parametrize(
    ("name", "values_of"),
    [("Q5_0", q5_0), ("IQ4_NL", iq4_nl), ("Q4_K", q4_k), ("Q6_K", q6_k)],
)
def test_values_are_those_of_the_layout(
    name: str, values_of: Callable[[bytes], Block], tmp_path: pathlib.Path
) -> None:
    kind = gguf.GGMLQuantizationType[name]
    _, size = gguf.GGML_QUANT_SIZES[kind]
    raw = np.random.default_rng(1).integers(0, 256, (4, 3 * size), np.uint8)
    blocks = raw.reshape(-1, size)
    # The high bytes of scales: float16 of a random one could be no number.
    for place in {"Q4_K": (1, 3), "Q6_K": (209,)}.get(name, (1,)):
        blocks[:, place] = 0x2A
    expected = [value for block in blocks for value in values_of(block.tobytes())]
    found = read(tmp_path / "a.gguf", kind, raw).ravel()
    # The package multiplies in float32, two products of which each rounds to 2^-24.
    np.testing.assert_allclose(found, expected, rtol=3e-7, atol=1e-4)


def test_a_scale_that_is_no_number_is_refused(tmp_path: pathlib.Path) -> None:
    raw = np.zeros((1, 34), np.uint8)
    raw[0, :2] = 0xFF
    path = one_tensor(tmp_path / "a.gguf", gguf.GGMLQuantizationType.Q8_0, raw)
    with pytest.raises(ModelError, match="tensor a: weights must be finite"):
        read_header(path).read("a")


def test_a_file_of_one_tensor_is_no_model(tmp_path: pathlib.Path) -> None:
    raw = np.zeros((1, 34), np.uint8)
    kind = gguf.GGMLQuantizationType.Q8_0
    refused(one_tensor(tmp_path / "a.gguf", kind, raw), "metadata lacks llama.")
