"""Text: ids and back, character by character, and the chat form."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models

from models.errors import ModelError
from models.loading.byte_level_bpe import byte_level_bpe, pre_tokenizer
from models.loading.load import load
from models.loading.packages import GEMMA3, SMOLLM2
from models.loading.tokenizer import BYTES, TextTokenizer
from models.plain.oracle import generate
from models.plain.transformer import from_weights

SPECIAL = ["<|im_start|>", "<|im_end|>"]


def bytes_only(template: str = "", **settings: Any) -> TextTokenizer:
    """A tokenizer of two special tokens, the 256 bytes, and the pair `he`."""
    built = byte_level_bpe(
        tokens=[*SPECIAL, *BYTES, "he"],
        merges=["h e"],
        pre="smollm",
        special=SPECIAL,
        whole=[],
        name="a test",
    )
    return TextTokenizer(built, chat_template=template, **settings)


PLAIN = bytes_only()


def id_of(character: str) -> int:
    """The id of one ASCII character."""
    return 2 + list(BYTES.values()).index(ord(character))


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"])))
def test_any_text_comes_back(text: str) -> None:
    if not any(token in text for token in SPECIAL):
        assert PLAIN.decode(PLAIN.encode(text)) == text


@settings(max_examples=300)
@given(st.lists(st.integers(0, PLAIN.vocab_size - 1), max_size=12))
def test_any_ids_stream_to_what_they_decode_to(ids: list[int]) -> None:
    stream = PLAIN.stream()
    pieces = [stream.push(token) for token in ids]
    assert "".join(pieces) + stream.finish() == PLAIN.decode(ids)
    # The tokenizers package is the second opinion, on broken UTF-8 too.
    assert PLAIN.decode(ids) == PLAIN.tokenizer.decode(ids)


def test_stream_holds_back_part_of_a_character() -> None:
    stream = PLAIN.stream()
    assert [stream.push(token) for token in PLAIN.encode("é!")] == ["", "é", "!"]
    assert stream.push(PLAIN.encode("é")[0]) == ""
    assert stream.finish() == "\ufffd"


def test_merges_and_special_tokens_are_single_ids() -> None:
    assert PLAIN.encode("he") == [258]
    assert PLAIN.encode("<|im_end|>he") == [1, 258]
    assert PLAIN.decode([1, 258, 0]) == "he"


def test_start_tokens_come_first() -> None:
    assert bytes_only(bos_ids=[0]).encode("he") == [0, 258]


def test_suffix_tokens_come_last() -> None:
    assert bytes_only(bos_ids=[0], suffix_ids=[1]).encode("he") == [0, 258, 1]


def test_ids_that_the_tokenizer_does_not_know_decode_to_nothing() -> None:
    # The embedding is padded from 259 rows to 272.
    padded = bytes_only(vocab_size=272)
    assert padded.vocab_size == 272
    assert padded.decode([258, 270, 258]) == "hehe"
    stream = padded.stream()
    assert [stream.push(token) for token in (258, 270, 258)] == ["he", "", "he"]
    with pytest.raises(ModelError, match="token id 272 is outside the vocabulary"):
        padded.decode([272])


def test_a_vocabulary_with_holes_reaches_to_its_highest_id() -> None:
    words = {"h": 0, "e": 1, "he": 7}
    tokenizer = Tokenizer(models.BPE(words, [("h", "e")]))
    tokenizer.decoder = decoders.ByteLevel()  # pyright: ignore[reportAttributeAccessIssue]
    read = TextTokenizer(tokenizer)
    assert read.vocab_size == 8
    assert read.decode(read.encode("he")) == "he"
    assert read.decode([0, 5, 7]) == "hhe"


# Each as the family's own tokenizer cuts it: digits singly, singly, in threes.
@pytest.mark.parametrize(
    ("pre", "pieces"),
    [
        ("gpt-2", ["It", "'s", "Ġ12345", "ĠItems", "Ċ"]),
        ("smollm", ["It", "'s", "Ġ", "1", "2", "3", "4", "5", "ĠItems", "Ċ"]),
        ("qwen2", ["It", "'s", "Ġ", "1", "2", "3", "4", "5", "ĠItems", "Ċ"]),
        ("llama-bpe", ["It", "'s", "Ġ", "123", "45", "ĠItems", "Ċ"]),
    ],
)
def test_text_is_cut_as_the_family_cuts_it(pre: str, pieces: list[str]) -> None:
    cut = pre_tokenizer(pre, "a test").pre_tokenize_str("It's 12345 Items\n")
    assert [piece for piece, _ in cut] == pieces


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"merges": ["he"]}, "1 wrong merges"),
        ({"merges": ["h q"]}, "1 wrong merges"),
        ({"tokens": ["h", "h", "e", "he"]}, "1 duplicates"),
        ({"pre": "tekken"}, "pre-tokenizer 'tekken' is not supported"),
    ],
)
def test_wrong_tables_are_refused(change: dict[str, list[str]], message: str) -> None:
    tables = {"tokens": ["h", "e", "he"], "merges": ["h e"], "pre": "gpt-2"}
    with pytest.raises(ModelError, match=message):
        byte_level_bpe(**(tables | change), special=[], whole=[], name="a test")  # type: ignore


def test_other_kinds_of_tokenizer_are_refused() -> None:
    words = Tokenizer(models.WordLevel({"a": 0}, unk_token="a"))
    with pytest.raises(ModelError, match="must be byte-level BPE"):
        TextTokenizer(words)


def test_ids_outside_the_vocabulary_are_refused() -> None:
    with pytest.raises(
        ModelError, match="token id 259 is outside the vocabulary of 259"
    ):
        PLAIN.decode([259])
    with pytest.raises(ModelError, match="tokenizer has no token 999"):
        bytes_only(eos_ids=[999])
    for wrong in ([1], {}, -1, True, "1"):
        with pytest.raises(ModelError, match="tokenizer has no token"):
            bytes_only(eos_ids=[wrong])


def test_text_that_cannot_be_encoded_is_refused() -> None:
    with pytest.raises(ModelError, match="cannot encode this text") as raised:
        PLAIN.encode("\ud800")
    assert str(raised.value).isprintable()


def test_tiny_writes_docstrings() -> None:
    loaded = load("tiny")
    tokenizer = loaded.tokenizer
    model = from_weights(loaded.config, loaded.weights)
    tokens, _ = generate(model, tokenizer.chat("Return the"), 12, tokenizer.eos_ids)
    text = tokenizer.decode(tokens)
    assert text.startswith(" ") and text.isascii()
    assert len(set(tokens)) > len(tokens) // 2  # it does not repeat itself


@pytest.mark.smollm2
@pytest.mark.skipif(SMOLLM2.cached is None, reason="SmolLM2 is not in the cache")
def test_smollm2_knows_the_capital_of_france() -> None:
    loaded = load("smollm2")
    tokenizer = loaded.tokenizer
    ids = tokenizer.chat("What is the capital of France?")
    assert ids[0] == 1 and ids.count(1) == 3 and ids.count(2) == 2
    ends = {tokenizer.tokenizer.id_to_token(token) for token in tokenizer.eos_ids}
    assert {"<|im_end|>", "<|endoftext|>"} <= ends
    model = from_weights(loaded.config, loaded.weights)
    tokens, logits = generate(model, ids, 16, tokenizer.eos_ids)
    assert tokenizer.decode(tokens) == "The capital of France is Paris."
    assert tokens[-1] in tokenizer.eos_ids and len(logits) == len(tokens)


@pytest.mark.slow
@pytest.mark.smollm2
@pytest.mark.skipif(GEMMA3.cached is None, reason="Gemma 3 is not in the cache")
def test_gemma3_goes_on_with_a_story() -> None:
    """Its start token is added; greedy tokens are those of transformers 5's model of this file."""
    loaded = load("gemma3")
    tokenizer = loaded.tokenizer
    ids = tokenizer.encode("Once upon a time, there was a little")
    assert ids == [2, 14946, 3324, 496, 990, 236764, 993, 691, 496, 2268]
    model = from_weights(loaded.config, loaded.weights)
    tokens, _ = generate(model, ids, 10, tokenizer.eos_ids)
    assert tokenizer.decode(tokens) == " girl named Lily. She was a very smart girl"
