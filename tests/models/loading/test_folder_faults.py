"""Wrong model folders: each is refused in one line that names what is wrong, and nothing hangs."""

import json
import os
import pathlib
import pickle
import shutil
import signal
import struct
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from models.errors import ModelError
from models.loading.load import load
from models.loading.tokenizer import TextTokenizer
from tests.models.loading.files import LLAMA, copy_of, edit_config

TINY_TOKENIZER = (
    pathlib.Path(__file__).parents[3] / "models" / "data" / "tiny_tokenizer.json"
)
LONGEST_S = 30  # a named pipe that is opened would be waited for without end
Damage = Callable[[pathlib.Path], Any]


@pytest.fixture(autouse=True)
def no_hang() -> Iterator[None]:
    """Ends a test that waits for something."""

    def end(*_: object) -> None:
        raise TimeoutError(f"the loader was still busy after {LONGEST_S} s")

    before = signal.signal(signal.SIGALRM, end)
    signal.alarm(LONGEST_S)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture
def folder(tmp_path: pathlib.Path) -> pathlib.Path:
    """A whole model, with a tokenizer."""
    copy = copy_of(tmp_path)
    shutil.copy(TINY_TOKENIZER, copy / "tokenizer.json")
    return copy


def assert_refused(
    path: pathlib.Path | str, message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """Loading fails with one printable line that matches, and prints nothing."""
    with pytest.raises(ModelError, match=message) as raised:
        load(path)
    line = str(raised.value)
    assert line.isprintable() and line.isascii() and len(line) < 1200
    assert capfd.readouterr() == ("", "")


def test_the_folder_itself_loads(folder: pathlib.Path) -> None:
    assert load(folder).tokenizer.eos_ids == {1}


# --- weights ---


def edit_header(change: Callable[[dict[str, Any]], None]) -> Damage:
    """Changes the JSON header of model.safetensors and leaves its values."""

    def damage(folder: pathlib.Path) -> None:
        path = folder / "model.safetensors"
        raw = path.read_bytes()
        (length,) = struct.unpack("<Q", raw[:8])
        header = json.loads(raw[8 : 8 + length])
        header.pop("__metadata__", None)
        change(header)
        text = json.dumps(header).encode()
        path.write_bytes(struct.pack("<Q", len(text)) + text + raw[8 + length :])

    return damage


def edit_tensors(change: Callable[[dict[str, np.ndarray]], Any]) -> Damage:
    """Changes the tensors of model.safetensors."""

    def damage(folder: pathlib.Path) -> None:
        path = folder / "model.safetensors"
        tensors = safetensors.numpy.load_file(path)
        change(tensors)
        safetensors.numpy.save_file(tensors, path)

    return damage


def replace(name: str, make: Damage) -> Damage:
    """Puts something else in the place of a file."""

    def damage(folder: pathlib.Path) -> None:
        (folder / name).unlink(missing_ok=True)
        make(folder / name)

    return damage


def write(name: str, contents: str | bytes) -> Damage:
    """Puts a file of these contents there."""
    raw = contents if isinstance(contents, bytes) else contents.encode()
    return replace(name, lambda path: path.write_bytes(raw))


def first_of(header: dict[str, Any]) -> dict[str, Any]:
    """The header's entry of its first tensor."""
    return header[sorted(header)[0]]


def overlap(header: dict[str, Any]) -> None:
    """The second tensor's bytes are the first's."""
    one, other = sorted(header)[:2]
    header[other] = dict(header[one])


def pickled(folder: pathlib.Path) -> None:
    """Weights that would run a program when they are opened."""

    class Program:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(folder / "ran"),)

    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Program()))


def not_a_number(tensors: dict[str, np.ndarray]) -> None:
    """One weight is NaN."""
    tensors[sorted(tensors)[0]].flat[3] = np.nan


def as_integers(tensors: dict[str, np.ndarray]) -> None:
    """One tensor is of integers."""
    name = sorted(tensors)[0]
    tensors[name] = tensors[name].astype(np.int32)


def other_head(folder: pathlib.Path) -> None:
    """The flag says tied, and the file has another head."""
    edit_config(folder, tie_word_embeddings=True)


WHOLE = "not a whole safetensors file"
WEIGHTS: dict[str, tuple[Damage, str]] = {
    "header of 2^63 bytes": (
        lambda folder: write(
            "model.safetensors",
            struct.pack("<Q", 1 << 63) + (folder / "model.safetensors").read_bytes(),
        )(folder),
        WHOLE,
    ),
    "overlapping tensors": (edit_header(overlap), WHOLE),
    "negative offsets": (
        edit_header(lambda header: first_of(header).update(data_offsets=[-8, 0])),
        WHOLE,
    ),
    "shape 2^62 x 4": (
        edit_header(lambda header: first_of(header).update(shape=[1 << 62, 4])),
        WHOLE,
    ),
    "truncated": (
        lambda folder: os.truncate(folder / "model.safetensors", 5000),
        WHOLE,
    ),
    "empty": (write("model.safetensors", b""), WHOLE),
    "a directory": (
        replace("model.safetensors", pathlib.Path.mkdir),
        "regular file, got a directory",
    ),
    "a named pipe": (
        replace("model.safetensors", os.mkfifo),
        "regular file, got a named pipe",
    ),
    "a device": (
        replace("model.safetensors", lambda path: path.symlink_to("/dev/zero")),
        "regular file, got a device",
    ),
    "a link to nowhere": (
        replace("model.safetensors", lambda path: path.symlink_to("gone")),
        "cannot be read .No such file",
    ),
    "NaN": (edit_tensors(not_a_number), "must be finite, got infinity or NaN"),
    "integers": (edit_tensors(as_integers), "must be one of .*, got I32"),
    "a bias": (
        edit_tensors(
            lambda t: t.update(
                {"model.layers.0.self_attn.q_proj.bias": np.zeros(4, np.float32)}
            )
        ),
        "unsupported tensors .*q_proj.bias",
    ),
    "no head": (
        edit_tensors(lambda tensors: tensors.pop("lm_head.weight")),
        "lacks tensors .*lm_head.weight",
    ),
    "another head than the tied one": (
        other_head,
        "tie_word_embeddings is true, but lm_head.weight differs from model.embed_tokens",
    ),
    "pickled": (pickled, "pickled weights can run code and are never opened"),
}


@pytest.mark.parametrize("name", WEIGHTS)
def test_wrong_weights(
    name: str, folder: pathlib.Path, capfd: pytest.CaptureFixture[str]
) -> None:
    damage, message = WEIGHTS[name]
    damage(folder)
    assert_refused(folder, message, capfd)
    assert not (folder / "ran").exists()


# --- an index of shards ---

NAMES = list(safetensors.numpy.load_file(LLAMA / "model.safetensors"))
PLAIN_NAMES = "shards must be plain file names"
# The name of every shard, or what is written in place of the index.
INDICES: dict[str, tuple[Any, str]] = {
    "path traversal": ("../../etc/passwd", PLAIN_NAMES),
    "the folder above": ("..", PLAIN_NAMES),
    "no name": ("", PLAIN_NAMES),
    "an absolute path": ("/etc/passwd", PLAIN_NAMES),
    "NUL": ("a\0b", "no file can be named so"),
    "5000 characters": ("x" * 5000, "File name too long"),
    "a missing shard": ("missing.safetensors", "missing.safetensors: cannot be read"),
    "a number": (7, PLAIN_NAMES),
    "a lone surrogate": ("\ud800x", r"\\ud800x.*no file can be named so"),
    "backslashes": ("..\\..\\x", "cannot be read"),
    "another kind of file": ("config.json", WHOLE),
}


def write_index(folder: pathlib.Path, places: Any) -> None:
    """Replaces the weights by an index; they stay as real.safetensors."""
    (folder / "model.safetensors").rename(folder / "real.safetensors")
    index = {"weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


@pytest.mark.parametrize("name", INDICES)
def test_wrong_shard_names(
    name: str, folder: pathlib.Path, capfd: pytest.CaptureFixture[str]
) -> None:
    shard, message = INDICES[name]
    write_index(folder, dict.fromkeys(NAMES, shard))
    assert_refused(folder, message, capfd)


@pytest.mark.parametrize(
    ("places", "message"),
    [
        ([1, 2], "must hold a weight_map object"),
        (dict.fromkeys([*NAMES, "more"], "real.safetensors"), r"unsupported .*'more'"),
        (dict.fromkeys(NAMES[1:], "real.safetensors"), "lacks tensors"),
    ],
)
def test_wrong_indices(
    places: Any,
    message: str,
    folder: pathlib.Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    write_index(folder, places)
    assert_refused(folder, message, capfd)


def test_a_tensor_in_two_shards(
    folder: pathlib.Path, capfd: pytest.CaptureFixture[str]
) -> None:
    write_index(folder, {NAMES[0]: "second"} | dict.fromkeys(NAMES[1:], "real"))
    (folder / "real.safetensors").rename(folder / "real")
    shutil.copy(folder / "real", folder / "second")
    assert_refused(folder, "holds tensors .* that the index places elsewhere", capfd)


def test_a_tensor_that_its_shard_lacks(
    folder: pathlib.Path, capfd: pytest.CaptureFixture[str]
) -> None:
    edit_tensors(lambda tensors: tensors.pop(NAMES[0]))(folder)
    write_index(folder, dict.fromkeys(NAMES, "real.safetensors"))
    assert_refused(folder, "real.safetensors: .* and lacks", capfd)


def test_links_in_a_circle(
    folder: pathlib.Path, capfd: pytest.CaptureFixture[str]
) -> None:
    write_index(folder, dict.fromkeys(NAMES, "circle"))
    (folder / "circle").symlink_to("circle")
    assert_refused(folder, "Too many levels of symbolic links", capfd)


# --- config.json ---

NOT_A_NUMBER = float("nan")
CONFIGS: list[tuple[dict[str, Any], str]] = [
    ({"num_hidden_layers": 10**9}, "num_hidden_layers must be a whole number"),
    ({"num_hidden_layers": 1 << 24}, "claims 16777216 layers, but the weights hold"),
    ({"num_attention_heads": 3, "num_key_value_heads": 2}, "multiple of num_key_value"),
    ({"num_attention_heads": 0}, "num_attention_heads must be a whole number"),
    ({"hidden_size": -4}, "hidden_size must be a whole number"),
    ({"hidden_size": "64"}, "hidden_size must be a whole number .* got '64'"),
    ({"head_dim": 3}, "head_dim must be even"),
    ({"rms_norm_eps": 0.0}, "rms_norm_eps must be a positive number"),
    ({"vocab_size": 1 << 24}, r"must hold embed of \[16777216, 32\]"),
    ({"model_type": ["llama"]}, r"model_type \['llama'\] is not supported"),
    ({"model_type": "\x1b[2J\nowned"}, r"model_type '\\x1b\[2J\\nowned' is not"),
    ({"model_type": "gpt2"}, "model_type 'gpt2' is not supported"),
    ({"model_type": "\ud800"}, r"model_type '\\ud800' is not supported"),
    ({"architectures": 5}, "architectures 5 do not fit"),
    (
        {"tie_word_embeddings": "no"},
        "tie_word_embeddings must be true or false, got 'no'",
    ),
    ({"tie_word_embeddings": None}, "tie_word_embeddings must be true or false"),
    ({"attention_bias": "false"}, "attention_bias='false' is not supported"),
    ({"rope_scaling": "x"}, "rope_scaling must be an object, got 'x'"),
    ({"rope_parameters": [1]}, r"rope_parameters must be an object, got \[1\]"),
    ({"rope_parameters": {"rope_type": "default", "rope_theta": "1e4"}}, "rope_theta"),
    ({"text_config": {"hidden_size": 64}}, "text_config=.* is not supported"),
    ({"num_local_experts": 8}, "num_local_experts=8 is not supported"),
    (
        {"eos_token_id": [[1]]},
        r"eos_token_id must be a token id or a list .* \[\[1\]\]",
    ),
    ({"eos_token_id": {}}, "eos_token_id must be a token id or a list"),
    ({"eos_token_id": "1"}, "eos_token_id must be a token id or a list"),
    ({"eos_token_id": 10**9}, "tokenizer has no token 1000000000"),
    ({"eos_token_id": -1}, "tokenizer has no token -1"),
    ({"layer_types": ["full_attention"]}, "layer_types names 1 layers"),
]


@pytest.mark.parametrize(
    ("change", "message"), CONFIGS, ids=lambda value: str(value)[:40]
)
def test_wrong_configs(
    change: dict[str, Any],
    message: str,
    folder: pathlib.Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    edit_config(folder, **change)
    assert_refused(folder, message, capfd)


def test_a_dtype_of_any_kind_is_no_fault(folder: pathlib.Path) -> None:
    edit_config(folder, torch_dtype={}, dtype=[1])  # all arithmetic is float32 here
    assert load(folder).config.hidden_size == 32


TEXTS: dict[str, tuple[Damage, str]] = {
    "not JSON": (write("config.json", "{"), "not valid JSON"),
    "a list": (write("config.json", "[]"), "config.json must hold an object"),
    "null": (write("config.json", "null"), "config.json must hold an object"),
    "nested 10^6": (write("config.json", "[" * 10**6), "not valid JSON"),
    "10^5 digits": (
        write("config.json", '{"hidden_size": ' + "9" * 10**5 + "}"),
        "not valid JSON",
    ),
    "binary": (write("config.json", b"\x00\xff"), "not valid JSON"),
    "empty": (write("config.json", ""), "not valid JSON"),
    "NaN": (
        lambda folder: edit_config(folder, rope_theta=NOT_A_NUMBER),
        "not valid JSON .NaN is no number",
    ),
    "a key twice": (
        write("config.json", '{"model_type": "llama", "model_type": 3}'),
        "'model_type' must occur once, got 'llama' and 3",
    ),
    "missing": (lambda folder: (folder / "config.json").unlink(), "No such file"),
    "a pipe": (replace("config.json", os.mkfifo), "got a named pipe"),
    "300 MB": (
        lambda folder: os.truncate(folder / "config.json", 300 << 20),
        "314572800 bytes is too long",
    ),
    "tokenizer nested 10^7": (
        write("tokenizer.json", "[" * 10**7),
        "not a tokenizer.json",
    ),
    "tokenizer of objects nested 10^6": (
        write("tokenizer.json", '{"a":' * 10**6 + "1" + "}" * 10**6),
        "not a tokenizer.json",
    ),
    "tokenizer {}": (write("tokenizer.json", "{}"), "not a tokenizer.json"),
    "tokenizer of bytes": (
        write("tokenizer.json", b"\xff\xfe"),
        "not a tokenizer.json",
    ),
    "tokenizer a directory": (
        replace("tokenizer.json", pathlib.Path.mkdir),
        "tokenizer.json: cannot be read .*got a directory",
    ),
    "tokenizer a pipe": (replace("tokenizer.json", os.mkfifo), "got a named pipe"),
    "tokenizer_config a list": (
        write("tokenizer_config.json", "[]"),
        "tokenizer_config.json: must hold an object",
    ),
    "chat template a number": (
        write("tokenizer_config.json", '{"chat_template": 3}'),
        "chat_template must be text, got 3",
    ),
    "chat templates without a default": (
        write("tokenizer_config.json", '{"chat_template": [{"name": "tool"}]}'),
        r"chat_template names \['tool'\]; one must be named 'default'",
    ),
    "chat template a directory": (
        lambda folder: (folder / "chat_template.jinja").mkdir(),
        "chat_template.jinja: cannot be read .*got a directory",
    ),
    "chat template a pipe": (
        lambda folder: os.mkfifo(folder / "chat_template.jinja"),
        "chat_template.jinja: cannot be read .*got a named pipe",
    ),
    "chat template of bytes": (
        write("chat_template.jinja", b"\xff"),
        "chat_template.jinja: must be UTF-8",
    ),
    "a special token that is a lone surrogate": (
        write("tokenizer_config.json", '{"eos_token": "\\ud800"}'),
        "special tokens cannot be looked up",
    ),
}


@pytest.mark.parametrize("name", TEXTS)
def test_wrong_text_files(
    name: str, folder: pathlib.Path, capfd: pytest.CaptureFixture[str]
) -> None:
    damage, message = TEXTS[name]
    damage(folder)
    assert_refused(folder, message, capfd)


# --- what makes the tokenizers package panic ---

TEMPLATE_WITHOUT_TOKEN = {
    "type": "TemplateProcessing",
    "single": [
        {"SpecialToken": {"id": "X", "type_id": 0}},
        {"Sequence": {"id": "A", "type_id": 0}},
    ],
    "pair": [],
    "special_tokens": {},
}
PANICS: dict[str, dict[str, Any]] = {
    "a post-processor's token that is not there": {
        "post_processor": TEMPLATE_WITHOUT_TOKEN
    },
    "a character map that cannot be parsed": {
        "normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAA"}
    },
    "pieces of no length": {"pre_tokenizer": {"type": "FixedLength", "length": 0}},
}


def edit_tokenizer(folder: pathlib.Path, change: dict[str, Any]) -> None:
    """Changes fields of a folder's tokenizer.json."""
    values = json.loads((folder / "tokenizer.json").read_text())
    (folder / "tokenizer.json").write_text(json.dumps(values | change))


@pytest.mark.parametrize("name", PANICS)
def test_panics_are_refused_without_a_stack_trace(
    name: str, folder: pathlib.Path, capfd: pytest.CaptureFixture[str]
) -> None:
    edit_tokenizer(folder, PANICS[name])
    assert_refused(folder, "tokenizer.json: ", capfd)


def test_a_pattern_that_backtracks_without_end_is_refused_where_it_is_met(
    folder: pathlib.Path, capfd: pytest.CaptureFixture[str]
) -> None:
    pattern = {"Regex": "(a+)+$"}
    split = {
        "type": "Split",
        "pattern": pattern,
        "behavior": "Isolated",
        "invert": False,
    }
    edit_tokenizer(folder, {"pre_tokenizer": split})
    tokenizer = load(folder).tokenizer
    with pytest.raises(ModelError, match="cannot encode this text"):
        tokenizer.encode("a" * 40 + "b")
    assert capfd.readouterr() == ("", "")


def test_interrupts_are_not_taken_for_faults(
    folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    tokenizer = load(folder).tokenizer
    monkeypatch.setattr(TextTokenizer, "tokenizer", property(interrupt), raising=False)
    with pytest.raises(KeyboardInterrupt):
        tokenizer.encode("a")


# --- names ---


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("./nope.gguf", "nope.gguf: cannot be read .No such file"),
        ("x" * 5000, "x{10,}.*cannot be read .File name too long"),
        ("x" * 5000 + ".gguf", "cannot be read .File name too long"),
        ("a\0b", r"'a\\x00b': must be one of"),
        ("a\0b.gguf", "no file can be named so"),
        ("\ud800", r"'\\ud800': must be one of"),
        ("a\nb\x1b[2J", r"'a\\nb\\x1b\[2J': must be one of"),
    ],
    ids=["missing", "long", "long gguf", "NUL", "NUL gguf", "surrogate", "escapes"],
)
def test_wrong_names(
    name: str, message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert_refused(name, message, capfd)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (os.mkfifo, "model.gguf: cannot be read .*got a named pipe"),
        (lambda path: path.symlink_to("/dev/zero"), "got a device"),
        (pathlib.Path.mkdir, "config.json: cannot be read .No such file"),
    ],
    ids=["pipe", "device", "directory"],
)
def test_gguf_files_that_are_none(
    make: Damage,
    message: str,
    tmp_path: pathlib.Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    make(tmp_path / "model.gguf")
    assert_refused(tmp_path / "model.gguf", message, capfd)
