"""Text to token ids and back, for byte-level BPE tokenizers."""

import codecs
import json
import pathlib
import re
from collections.abc import Iterable, Sequence

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
)

from models.errors import ModelError

# How text is cut before merging, by GGUF's name; each as in the family's tokenizer.json.
CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+"
REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
PATTERNS = {
    "llama-bpe": rf"{CONTRACTIONS}|\p{{N}}{{1,3}}|{REST}",
    "qwen2": rf"{CONTRACTIONS}|\p{{N}}|{REST}",
}
CHATML = "<|im_start|>"
# The system message that a template adds itself is plain text between these two markers.
DEFAULT_SYSTEM = re.compile(r"<\|im_start\|>system(?:\n|\\n)([^'\"{}<>]+)<\|im_end\|>")


def byte_of_character() -> dict[str, int]:
    """GPT-2's alphabet: a printable character for each byte."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    table = {chr(byte): byte for byte in printable}
    return table | {chr(256 + n): byte for n, byte in enumerate(others)}


BYTES = byte_of_character()


class TextStream:
    """Turns ids into text as they come, holding back the bytes of an unfinished character."""

    def __init__(self, tokenizer: "TextTokenizer") -> None:
        self.tokenizer = tokenizer
        self.decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, token: int) -> str:
        """The text that this id completes; may be empty."""
        return self.decoder.decode(self.tokenizer.token_bytes(token))

    def finish(self) -> str:
        """What is left: a replacement character where the last character never ended."""
        return self.decoder.decode(b"", final=True)


class TextTokenizer:
    """A byte-level BPE tokenizer with what generation needs to know about it.

    Args:
        tokenizer: The `tokenizers` object; its decoder must be byte-level.
        eos_ids: Ids that end a text.
        bos_ids: Ids that `encode` puts first.
        chat_template: The model's own template, or empty. Templates are programs (Jinja), which
            are not run: where one holds `<|im_start|>` the ChatML form is used with the system
            message it spells out, else `chat` encodes the prompt as it is.

    Raises:
        ModelError: The tokenizer is of another kind, or an id is outside its vocabulary.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        eos_ids: Iterable[int] = (),
        bos_ids: Iterable[int] = (),
        chat_template: str = "",
    ) -> None:
        description = json.loads(tokenizer.to_str())
        if "ByteLevel" not in json.dumps(description["decoder"]):
            raise ModelError(
                "tokenizer must be byte-level BPE, got another decoder; not supported"
            )
        self.tokenizer = tokenizer
        self.eos_ids = frozenset(eos_ids)
        self.bos_ids = tuple(bos_ids)
        self.chat_template = chat_template
        self.special_ids = {
            t["id"] for t in description["added_tokens"] if t["special"]
        }
        self.added_ids = {t["id"] for t in description["added_tokens"]}
        for token in (*self.eos_ids, *self.bos_ids):
            if not isinstance(token, int) or not 0 <= token < self.vocab_size:
                raise ModelError(
                    f"tokenizer has no token {token!r}, which the model names as start or end of "
                    "text; model and tokenizer must belong together"
                )

    @property
    def vocab_size(self) -> int:
        """Number of token ids, added tokens included."""
        return self.tokenizer.get_vocab_size()

    def encode(self, text: str) -> list[int]:
        """The ids of a text; a special token written out becomes its one id."""
        return [
            *self.bos_ids,
            *self.tokenizer.encode(text, add_special_tokens=False).ids,
        ]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids; special tokens are left out, broken UTF-8 is replaced."""
        return b"".join(map(self.token_bytes, ids)).decode(errors="replace")

    def stream(self) -> TextStream:
        """Decodes ids one by one; the pieces join to what `decode` gives for all of them."""
        return TextStream(self)

    def token_bytes(self, token: int) -> bytes:
        """The bytes that one id stands for; none for a special token."""
        text = (
            self.tokenizer.id_to_token(token) if 0 <= token < self.vocab_size else None
        )
        if text is None:
            raise ModelError(
                f"token id {token} is outside the vocabulary of {self.vocab_size}; decode with the "
                "tokenizer of the model that made it"
            )
        if token in self.special_ids:
            return b""
        if token in self.added_ids or not all(c in BYTES for c in text):
            return text.encode()
        return bytes(BYTES[c] for c in text)

    def chat(self, prompt: str) -> list[int]:
        """The ids of one user message, ready for the model's answer.

        ChatML where the model's template uses it (`<|im_start|>role … <|im_end|>`), with the
        system message that the template spells out; otherwise the prompt as it is.
        """
        if CHATML not in self.chat_template:
            return self.encode(prompt)
        turns = [("user", prompt)]
        default = DEFAULT_SYSTEM.search(self.chat_template)
        if default:
            turns.insert(0, ("system", default.group(1)))
        text = "".join(
            f"<|im_start|>{role}\n{said}<|im_end|>\n" for role, said in turns
        )
        return self.tokenizer.encode(
            text + "<|im_start|>assistant\n", add_special_tokens=False
        ).ids


def byte_level_bpe(
    *,
    tokens: Sequence[str],
    merges: Sequence[str],
    pre: str,
    special: Sequence[str],
    whole: Sequence[str],
    name: str,
) -> Tokenizer:
    """Builds a byte-level BPE tokenizer from its tables.

    Args:
        tokens: The text of each id, in GPT-2's byte alphabet; index is id.
        merges: Pairs joined by one space, most frequent first.
        pre: How text is cut first: `smollm`, `gpt-2`, `llama-bpe` or `qwen2`.
        special: Tokens matched whole and left out when decoding.
        whole: Tokens matched whole and kept when decoding.
        name: What errors call the file.

    Raises:
        ModelError: The tables contradict each other, or `pre` is another.
    """
    vocabulary = {token: index for index, token in enumerate(tokens)}
    pairs = [tuple(merge.split(" ")) for merge in merges]
    wrong = [
        pair
        for pair in pairs
        if len(pair) != 2
        or "".join(pair) not in vocabulary
        or pair[0] not in vocabulary
        or pair[1] not in vocabulary
    ]
    if wrong or len(vocabulary) != len(tokens):
        raise ModelError(
            f"{name}: tokens must be distinct and merges must join two of them, got "
            f"{len(tokens) - len(vocabulary)} duplicates and {len(wrong)} wrong merges; "
            "the file is corrupt"
        )
    cut = pre_tokenizer(pre, name)
    tokenizer = Tokenizer(
        models.BPE(
            vocabulary, [(p[0], p[1]) for p in pairs], ignore_merges=pre == "llama-bpe"
        )
    )
    tokenizer.pre_tokenizer = cut  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer.decoder = decoders.ByteLevel()  # pyright: ignore[reportAttributeAccessIssue]
    if pre == "qwen2":
        tokenizer.normalizer = normalizers.NFC()  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer.add_special_tokens(
        [AddedToken(t, special=True, normalized=False) for t in special]
    )
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in whole])
    return tokenizer


def pre_tokenizer(pre: str, name: str) -> pre_tokenizers.PreTokenizer:
    """How `pre` cuts text before merging."""
    if pre == "gpt-2":
        return pre_tokenizers.ByteLevel(add_prefix_space=False)
    if pre == "smollm":
        digits = pre_tokenizers.Digits(individual_digits=True)
        byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
        return pre_tokenizers.Sequence([digits, byte_level])  # pyright: ignore[reportArgumentType]
    if pre in PATTERNS:
        split = pre_tokenizers.Split(Regex(PATTERNS[pre]), "isolated")
        byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        return pre_tokenizers.Sequence([split, byte_level])  # pyright: ignore[reportArgumentType]
    raise ModelError(
        f"{name}: pre-tokenizer {pre!r} is not supported; supported are "
        f"{['gpt-2', 'smollm', *PATTERNS]}"
    )


def read_tokenizer_file(path: pathlib.Path) -> Tokenizer:
    """Reads a `tokenizer.json`; ModelError where it is missing or malformed."""
    if not path.is_file():
        raise ModelError(
            f"{path}: not found; the folder must hold the model's tokenizer.json"
        )
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # the tokenizers package raises nothing more specific
        raise ModelError(
            f"{path}: not a tokenizer.json ({error}); fetch it again"
        ) from None
