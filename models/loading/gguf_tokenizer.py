"""The tokenizer that a GGUF file's metadata describes, by llama.cpp's rules.

`src/llama-vocab.cpp`, llama_vocab::impl::load, has what each kind of tokenizer puts before a text
unless the file says otherwise, and which tokens end an answer.
"""

from typing import Any

from tokenizers import AddedToken, Tokenizer

from models.errors import ModelError, shown
from models.loading.byte_level_bpe import byte_level_bpe
from models.loading.gguf_file import GgufFile
from models.loading.gguf_keys import field, string_list
from models.loading.sentencepiece_bpe import sentencepiece_bpe
from models.loading.tokenizer import TextTokenizer

PREFIX = "tokenizer.ggml"
# Token types of the format. Control and user-defined ones are matched whole; unknown and unused
# ones decode to nothing.
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = TOKEN_TYPES = range(1, 7)
# Other names of one pre-tokenizer, as llama.cpp groups them.
SAME_PRE_TOKENIZER = {
    "chatglm-bpe": "glm4",
    "dbrx": "smaug-bpe",
    "deepseek-r1-qwen": "qwen2",
    "llama-v3": "llama-bpe",
    "llama3": "llama-bpe",
    "llama4": "gpt-4o",
    "minimax-m2": "gpt-4o",
}
# Pre-tokenizers that put the start token first where the file does not say.
STARTS_BY_DEFAULT = frozenset({"llama-bpe"})
# Of Phi-3's special tokens those that leave the spaces behind them.
KEEP_SPACES = frozenset({"<unk>", "<s>", "<|endoftext|>"})
END_KEYS = ("eos", "eot", "eom", "fim_pad", "fim_rep", "fim_sep")
# Tokens that end an answer wherever a vocabulary has them, as control tokens whatever their type.
END_TOKENS = frozenset(
    {
        "<|eot_id|>",
        "<|im_end|>",
        "<|end|>",
        "<|return|>",
        "<|call|>",
        "<|flush|>",
        "<|calls|>",
        "<end_of_turn>",
        "<|endoftext|>",
        "</s>",
        "<|eom_id|>",
        "<EOT>",
        "_<EOT>",
        "[EOT]",
        "[EOS]",
        "<|end_of_text|>",
        "<end_of_utterance>",
        "<eos>",
        "<turn|>",
        "<|tool_response>",
        "<｜end▁of▁sentence｜>",
        "[e~[",
        # Of fill-in-the-middle, where the file has no ids for them: padding, repository, file.
        "<|fim_pad|>",
        "<fim-pad>",
        "<fim_pad>",
        "<PAD>",
        "[PAD]",
        "<|fim_repo|>",
        "<|repo_name|>",
        "<fim-repo>",
        "<REPO>",
        "<reponame>",
        "<|file_sep|>",
    }
)


def read_tokenizer(file: GgufFile, vocab_size: int) -> TextTokenizer:
    """The tokenizer that the metadata describes.

    Args:
        file: The header.
        vocab_size: How many ids the model can produce; the file may name fewer.

    Raises:
        ModelError: The tokenizer is of another kind, or its tables contradict each other.
    """
    model = field(file, f"{PREFIX}.model", str)
    builders = {"gpt2": over_bytes, "llama": over_pieces}
    if model not in builders:
        raise ModelError(
            f"{file.path}: {PREFIX}.model={shown(model)} is not supported; supported are 'gpt2' "
            "(byte-level BPE) and 'llama' (SentencePiece's)"
        )
    tokens = named_tokens(file, vocab_size)
    kinds = token_types(file, len(tokens))
    by_kind = list(zip(tokens, kinds, strict=True))
    # Some files give end tokens an ordinary type; in a chat template's text the merges would then
    # cut them into pieces.
    special = [t for t, kind in by_kind if kind == CONTROL or t in END_TOKENS]
    whole = [t for t, kind in by_kind if kind == USER_DEFINED and t not in special]
    tokenizer, starts = builders[model](file, tokens, kinds, special, whole)
    names = {
        f"{name}_token": tokens[file.metadata[f"{PREFIX}.{name}_token_id"]]
        for name in ("bos", "eos")
        if is_index(file.metadata.get(f"{PREFIX}.{name}_token_id"), len(tokens))
    }
    silent = [token for token, kind in enumerate(kinds) if kind in (UNUSED, UNKNOWN)]
    return TextTokenizer(
        tokenizer,
        eos_ids=end_ids(file, tokens),
        bos_ids=wrapping_token(file, "bos", default=starts),
        suffix_ids=wrapping_token(file, "eos", default=False),
        silent_ids=silent,
        vocab_size=vocab_size,
        chat_template=field(file, "tokenizer.chat_template", str, ""),
        special_tokens=names,
        wraps_chat=True,
    )


def over_bytes(
    file: GgufFile,
    tokens: list[str],
    kinds: list[int],
    special: list[str],
    whole: list[str],
) -> tuple[Tokenizer, bool]:
    """A byte-level BPE, and whether it puts the start token first unless told otherwise."""
    key = f"{PREFIX}.add_space_prefix"
    if field(file, key, bool, False):
        raise ModelError(
            f"{file.path}: {key}=True is not supported with byte-level BPE; supported is False"
        )
    stated: str = field(file, f"{PREFIX}.pre", str)
    pre = SAME_PRE_TOKENIZER.get(stated, stated)
    tokenizer = byte_level_bpe(
        tokens=tokens,
        merges=string_list(file, f"{PREFIX}.merges"),
        pre=pre,
        special=special,
        whole=whole,
        name=str(file.path),
    )
    return tokenizer, pre in STARTS_BY_DEFAULT


def over_pieces(
    file: GgufFile,
    tokens: list[str],
    kinds: list[int],
    special: list[str],
    whole: list[str],
) -> tuple[Tokenizer, bool]:
    """SentencePiece's BPE, which puts the start token first unless told otherwise."""
    scores = field(file, f"{PREFIX}.scores", list)
    if not all(isinstance(score, float) and score == score for score in scores):
        raise ModelError(
            f"{file.path}: {PREFIX}.scores must be numbers; the file is corrupt"
        )
    unknown = field(file, f"{PREFIX}.unknown_token_id", int, 0)
    # Phi-3's special tokens swallow the spaces behind them; llama.cpp goes by the model's name.
    called = str(file.metadata.get("general.name", "")).lower()
    swallow = any(name in called for name in ("phi-3", "phi3"))

    def added(token: str, **more: Any) -> AddedToken:
        return AddedToken(token, normalized=False, **more)

    tokenizer = sentencepiece_bpe(
        pieces=tokens,
        scores=scores,
        merged=[index for index, kind in enumerate(kinds) if kind == NORMAL],
        unknown=tokens[unknown] if is_index(unknown, len(tokens)) else None,
        starts_with_space=field(file, f"{PREFIX}.add_space_prefix", bool, True),
        special=[
            added(t, special=True, rstrip=swallow and t not in KEEP_SPACES)
            for t in special
        ],
        whole=[added(token) for token in whole],
        name=str(file.path),
    )
    return tokenizer, True


def named_tokens(file: GgufFile, vocab_size: int) -> list[str]:
    """The text of each id; one without any is given a name, as llama.cpp does."""
    tokens = string_list(file, f"{PREFIX}.tokens")
    if len(tokens) > vocab_size:
        raise ModelError(
            f"{file.path}: tokens must not outnumber the embedding's rows, got {len(tokens)} and "
            f"{vocab_size}; the file is corrupt"
        )
    return [token or f"[EMPTY_{index}]" for index, token in enumerate(tokens)]


def token_types(file: GgufFile, count: int) -> list[int]:
    """The type of each token; ordinary ones where the file does not say."""
    kinds = field(file, f"{PREFIX}.token_type", list, [1] * count)
    if len(kinds) != count or not all(kind in TOKEN_TYPES for kind in kinds):
        raise ModelError(
            f"{file.path}: {PREFIX}.token_type must have {count} types from 1 to 6, one a token, "
            f"got {len(kinds)}; the file is corrupt"
        )
    return kinds


def is_index(value: object, count: int) -> bool:
    """Whether a metadata value is a whole number from 0 to `count - 1`."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < count


def wrapping_token(file: GgufFile, name: str, default: bool) -> list[int]:
    """The id that `add_bos_token` or `add_eos_token` puts around a text; none where it is false."""
    if not field(file, f"{PREFIX}.add_{name}_token", bool, default):
        return []
    return [field(file, f"{PREFIX}.{name}_token_id", int)]


def end_ids(file: GgufFile, tokens: list[str]) -> list[int]:
    """The ids that end an answer: those the file names, and those known by their text."""
    field(file, f"{PREFIX}.eos_token_id", int)  # a whole model names its end
    keys = [f"{PREFIX}.{name}_token_id" for name in END_KEYS]
    stated = [field(file, key, int) for key in keys if key in file.metadata]
    known = [index for index, token in enumerate(tokens) if token in END_TOKENS]
    return stated + known
