"""Text to token ids and back, for BPE over bytes (GPT-2's) or over characters (SentencePiece's)."""

import codecs
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tokenizers import Tokenizer

from models.errors import ModelError, shown
from models.loading import chat_template
from models.loading.panics import refused
from models.loading.sentencepiece_bpe import SPACE, bytes_of_piece


def byte_of_character() -> dict[str, int]:
    """GPT-2's alphabet: a printable character for each byte."""
    # What is not printable comes behind 255 in order: the space, byte 32, is character 288, Ġ, and
    # the line feed 266, Ċ. So no token has a space in it, at which the two of a merge are told
    # apart.
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    table = {chr(byte): byte for byte in printable}
    return table | {chr(256 + n): byte for n, byte in enumerate(others)}


BYTES = byte_of_character()


# SentencePiece's decoder, step by step: the last is there where a text is given a space.
OF_PIECES = (
    {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
    {"type": "ByteFallback"},
    {"type": "Fuse"},
)
STRIP = {"type": "Strip", "content": " ", "start": 1, "stop": 0}


def is_of_pieces(decoder: Any) -> bool:
    """Whether a tokenizer's decoder is SentencePiece's."""
    if not isinstance(decoder, dict) or decoder.get("type") != "Sequence":
        return False
    steps = decoder["decoders"]
    return steps in ([*OF_PIECES], [*OF_PIECES, STRIP])


class TextStream:
    """Turns ids into text as they come, holding back the bytes of an unfinished character."""

    def __init__(self, tokenizer: "TextTokenizer") -> None:
        self.tokenizer = tokenizer
        # A character may lie across tokens: of é, bytes C3 A9, the first token shows nothing.
        self.decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self.drops_space = tokenizer.drops_first_space

    def push(self, token: int) -> str:
        """The text that this id completes; may be empty."""
        text = self.decoder.decode(self.tokenizer.token_bytes(token))
        if text and self.drops_space:
            self.drops_space = False
            return text.removeprefix(" ")
        return text

    def finish(self) -> str:
        """What is left: a replacement character where the last character never ended."""
        return self.decoder.decode(b"", final=True)


class TextTokenizer:
    """A BPE tokenizer with what generation needs to know about it.

    Args:
        tokenizer: The `tokenizers` object; its decoder must be byte-level, or SentencePiece's with
            pieces for bytes.
        eos_ids: Ids that end a text.
        bos_ids: Ids that `encode` puts first.
        suffix_ids: Ids that `encode` puts last.
        silent_ids: Ids that decode to nothing besides the special ones and the unknown ones.
        vocab_size: How many ids the model can produce. Embeddings are often padded to a round
            number: ids that the tokenizer does not know are the model's all the same. By default
            the tokenizer's highest id and 1.
        chat_template: The model's own Jinja template, or empty: `chat` then encodes the prompt as
            it is, which is what a base model continues.
        special_tokens: Texts that templates know by name: `bos_token`, `eos_token`, ….
        wraps_chat: Whether `chat` puts `bos_ids` and `suffix_ids` around what the template gives,
            unless they are there. llama.cpp does; transformers leaves them to the template.

    Raises:
        ModelError: The tokenizer is of another kind, or an id is outside the vocabulary.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        eos_ids: Iterable[Any] = (),
        bos_ids: Iterable[Any] = (),
        suffix_ids: Iterable[Any] = (),
        silent_ids: Iterable[int] = (),
        vocab_size: int | None = None,
        chat_template: str = "",
        special_tokens: Mapping[str, str] | None = None,
        wraps_chat: bool = False,
    ) -> None:
        with refused("tokenizer: cannot be described", "fetch it again"):
            description = json.loads(tokenizer.to_str())
            known = tokenizer.get_vocab(with_added_tokens=True)
        decoder = description["decoder"]
        self.has_pieces = is_of_pieces(decoder)
        if not self.has_pieces and "ByteLevel" not in json.dumps(decoder):
            raise ModelError(
                "tokenizer must be byte-level BPE or SentencePiece's, got another decoder; not "
                "supported"
            )
        self.drops_first_space = self.has_pieces and STRIP in decoder["decoders"]
        """Whether a text begins with a space that `encode` has put there."""
        self.tokenizer = tokenizer
        self.vocab_size = vocab_size or max(known.values(), default=-1) + 1
        """Number of token ids, those included that the tokenizer does not know."""
        self.chat_template = chat_template
        self.special_tokens = dict(special_tokens or {})
        self.wraps_chat = wraps_chat
        added = description["added_tokens"]
        self.added_ids = {token["id"] for token in added}
        self.special_ids = {token["id"] for token in added if token["special"]}
        self.silent_ids = self.special_ids | set(silent_ids)
        self.bos_ids = tuple(self._checked(bos_ids))
        self.suffix_ids = tuple(self._checked(suffix_ids))
        self.eos_ids = frozenset(self._checked(eos_ids))

    def _checked(self, ids: Iterable[Any]) -> list[int]:
        """The ids, each a whole number of the vocabulary."""
        checked = list(ids)
        for token in checked:
            whole = isinstance(token, int) and not isinstance(token, bool)
            if not whole or not 0 <= token < self.vocab_size:
                raise ModelError(
                    f"tokenizer has no token {shown(token)}, which the model names as start or end "
                    f"of text; ids go from 0 to {self.vocab_size - 1}; model and tokenizer must "
                    "belong together"
                )
        return checked

    def encode(self, text: str) -> list[int]:
        """The ids of a text; a special token written out becomes its one id."""
        return [*self.bos_ids, *self._ids_of(text), *self.suffix_ids]

    def _ids_of(self, text: str) -> list[int]:
        """The ids of a text alone."""
        with refused("tokenizer: cannot encode this text", "change the text"):
            return self.tokenizer.encode(text, add_special_tokens=False).ids

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids; special tokens are left out, broken UTF-8 is replaced."""
        text = b"".join(map(self.token_bytes, ids)).decode(errors="replace")
        return text.removeprefix(" ") if self.drops_first_space else text

    def stream(self) -> TextStream:
        """Decodes ids one by one; the pieces join to what `decode` gives for all of them."""
        return TextStream(self)

    def token_bytes(self, token: int) -> bytes:
        """The bytes that one id stands for; none for a special token, or one not known here."""
        if not 0 <= token < self.vocab_size:
            raise ModelError(
                f"token id {token} is outside the vocabulary of {self.vocab_size}; decode with the "
                "tokenizer of the model that made it"
            )
        text = self.tokenizer.id_to_token(token)
        if text is None or token in self.silent_ids:
            return b""
        if self.has_pieces:
            return bytes_of_piece(text)
        # Added tokens are written as they are, not in the alphabet of bytes, in which é is the one
        # byte E9.
        if token in self.added_ids or not all(c in BYTES for c in text):
            return text.encode()
        return bytes(BYTES[c] for c in text)

    def rendered(self, prompt: str, thinking: bool | None = None) -> str:
        """One user message in the form that the model was trained on, as text.

        Args:
            prompt: What the user says.
            thinking: Switches Qwen3's thinking on or off; None leaves it to the template.

        Returns:
            What the model's chat template gives; the prompt itself where it has none.
        """
        if not self.chat_template and thinking is None:
            return prompt
        return chat_template.render(
            self.chat_template, prompt, self.special_tokens, thinking
        )

    def chat(self, prompt: str, thinking: bool | None = None) -> list[int]:
        """The ids of one user message, ready for the model's answer.

        Those of `rendered`; of a base model, which has no template, those of `encode`.
        """
        text = self.rendered(prompt, thinking)
        if not self.chat_template:
            return self.encode(text)
        ids = self._ids_of(text)
        if not self.wraps_chat:
            return ids
        # A template that writes the start token out has it among the ids; twice it would be another
        # prompt than the model was trained on.
        starts = tuple(ids[: len(self.bos_ids)]) == self.bos_ids
        # Not `ids[-n:]`, which for no suffix, n = 0, is all of them.
        ends = tuple(ids[len(ids) - len(self.suffix_ids) :]) == self.suffix_ids
        return [
            *([] if starts else self.bos_ids),
            *ids,
            *([] if ends else self.suffix_ids),
        ]
