"""SentencePiece's BPE: against the algorithm written out, through GGUF files and folders."""

import pathlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken

from models.errors import ModelError
from models.loading.byte_level_bpe import pre_tokenizer
from models.loading.hf_tokenizer import read_tokenizer
from models.loading.load import load
from models.loading.sentencepiece_bpe import sentencepiece_bpe
from models.loading.tokenizer import TextTokenizer
from tests.models.loading.files import LLAMA, WriteGguf, refused

CONTROLS = ["<unk>", "<s>", "</s>"]
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
# Scores are drawn once: which of two pieces is joined first is theirs to say.
WORDS = ["▁", *"abc", "ab", "bc", "ca", "abc", "cab", "▁a", "▁ab", "▁▁", "bca", "aa"]
PIECES = [*CONTROLS, *BYTES, *WORDS]
FIRST = len(CONTROLS) + len(BYTES)
SCORES = [
    *[0.0] * FIRST,
    *(float(x) for x in -np.random.default_rng(0).permutation(len(WORDS))),
]


def built(starts_with_space: bool = True, **changes: Any) -> TextTokenizer:
    tables: dict[str, Any] = {
        "pieces": PIECES,
        "scores": SCORES,
        "merged": range(FIRST, len(PIECES)),
        "unknown": "<unk>",
        "special": [AddedToken(t, special=True, normalized=False) for t in CONTROLS],
        "whole": [],
        "name": "a test",
    }
    tokenizer = sentencepiece_bpe(
        starts_with_space=starts_with_space, **tables | changes
    )
    return TextTokenizer(tokenizer)


WITH_SPACE, WITHOUT = built(), built(starts_with_space=False)


def joined(text: str) -> list[int]:
    """Characters, of which the best pair is joined until there is none, the leftmost first."""
    parts = list(text.replace(" ", "▁"))
    ids = {piece: FIRST + place for place, piece in enumerate(WORDS)}
    while True:
        pairs = [
            (-SCORES[ids[a + b]], place)
            for place, (a, b) in enumerate(zip(parts, parts[1:], strict=False))
            if a + b in ids and a in ids and b in ids
        ]
        if not pairs:
            break
        place = min(pairs)[1]
        parts[place : place + 2] = ["".join(parts[place : place + 2])]
    found: list[int] = []
    for part in parts:
        own = [len(CONTROLS) + byte for byte in part.encode()]
        found += [ids[part]] if part in ids else own
    return found


@given(st.text(alphabet="abc é\n"))
def test_the_best_pair_is_joined_first(text: str) -> None:
    assert WITHOUT.encode(text) == joined(text)
    assert WITH_SPACE.encode(text) == (joined(f" {text}") if text else [])


@given(st.text(alphabet="abc é\n€"))
def test_any_text_of_pieces_comes_back(text: str) -> None:
    for tokenizer in (WITHOUT, WITH_SPACE):
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == text == tokenizer.tokenizer.decode(ids)
        stream = tokenizer.stream()
        pieces = "".join(stream.push(token) for token in ids)
        assert pieces + stream.finish() == text


def test_special_tokens_are_whole_and_a_space_follows_them() -> None:
    ids = WITH_SPACE.encode("a</s>a")
    assert ids == [*joined(" a"), 2, *joined(" a")]
    assert WITH_SPACE.decode(ids) == "a a"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scores": SCORES[1:]}, "each have a score, got .* and .* scores"),
        ({"pieces": [*PIECES[:-1], "a"]}, "pieces must be distinct"),
        (
            {"pieces": [*PIECES[:-1], "a" * 600]},
            "at most 512 characters, got one of 600",
        ),
    ],
)
def test_tables_that_contradict_each_other_are_refused(
    changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ModelError, match=message):
        built(**changes)


# --- in files ---


def of_pieces(**changes: Any) -> Any:
    """Replaces a GGUF file's tokenizer: 96 ids, of which 14 are ordinary pieces."""
    pieces = [*CONTROLS, *BYTES[: 96 - len(CONTROLS) - len(WORDS)], *WORDS]
    kinds = [2, 3, 3] + [6] * (96 - len(CONTROLS) - len(WORDS)) + [1] * len(WORDS)
    scores = [0.0] * (96 - len(WORDS)) + SCORES[FIRST:]

    def change(writer: Any) -> None:
        keys = writer.kv_data[0]
        for key in ("model", "pre", "tokens", "token_type", "merges", "add_bos_token"):
            del keys[f"tokenizer.ggml.{key}"]
        writer.add_tokenizer_model("llama")
        writer.add_tokenizer_pre("default")
        writer.add_token_list(pieces)
        writer.add_token_types(kinds)
        writer.add_bos_token_id(1)
        del keys["tokenizer.ggml.eos_token_id"]
        writer.add_eos_token_id(2)
        writer.add_unk_token_id(0)
        writer.add_token_scores(changes.get("scores", scores))
        if "space" in changes:
            writer.add_add_space_prefix(changes["space"])
        if "name" in changes:
            writer.add_name(changes["name"])

    return change


def ids_of(words: list[str]) -> list[int]:
    return [96 - len(WORDS) + WORDS.index(word) for word in words]


def test_gguf_files_with_pieces_load(write_gguf: WriteGguf) -> None:
    usual = load(write_gguf(LLAMA, change=of_pieces())).tokenizer
    # A start token, and a space, unless the file says otherwise.
    first, *rest = usual.encode("a")
    assert first == 1 and rest == ids_of(["▁a"])
    assert usual.eos_ids == {2} and usual.decode([*rest, 0, 2]) == "a"
    gemma = load(write_gguf(LLAMA, change=of_pieces(space=False))).tokenizer
    assert gemma.encode("a") == [1, *ids_of(["a"])]


@pytest.mark.parametrize(("name", "swallows"), [("Phi-3 mini", True), ("x", False)])
def test_special_tokens_of_phi_3_swallow_spaces(
    name: str, swallows: bool, write_gguf: WriteGguf
) -> None:
    tokenizer = load(write_gguf(LLAMA, change=of_pieces(name=name))).tokenizer
    # Its own space, and the one that a text is given.
    behind = [WORDS[index - FIRST] for index in joined(" a" if swallows else "  a")]
    assert tokenizer.encode("</s> a")[1:] == [2, *ids_of(behind)]


def test_scores_that_are_no_numbers_are_refused(write_gguf: WriteGguf) -> None:
    path = write_gguf(LLAMA, change=of_pieces(scores=[float("nan")] * 96))
    refused(path, "scores must be numbers")


def test_folders_with_pieces_load(tmp_path: pathlib.Path) -> None:
    WITH_SPACE.tokenizer.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "config.json").write_text('{"eos_token_id": 2}')
    read = read_tokenizer(tmp_path)
    assert read.eos_ids == {2}
    assert read.decode(read.encode("ab é")) == "ab é"


# --- how byte-level BPE cuts text ---

CUTS = {
    "glm4": ("It's 12345 €!\n", ["It", "'s", "Ġ", "123", "45", "ĠâĤ¬!Ċ"]),
    "smaug-bpe": ("a  b", ["a", "Ġ", "Ġb"]),
    "gpt-4o": ("HelloWorld it's 12345", ["Hello", "World", "Ġit's", "Ġ", "123", "45"]),
    "deepseek-v3": ("a12345中文 b.c", ["a", "123", "45", "ä¸Ńæĸĩ", "Ġb", ".c"]),
}


@pytest.mark.parametrize("pre", CUTS)
def test_text_is_cut_as_the_family_does(pre: str) -> None:
    text, expected = CUTS[pre]
    pieces = pre_tokenizer(pre, "a test").pre_tokenize_str(text)
    assert [piece for piece, _ in pieces] == expected
