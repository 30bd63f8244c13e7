"""Byte-level BPE tokenizers built from their tables, as GGUF files hold them."""

from collections.abc import Sequence

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
)

from models.errors import ModelError, shown

# How text is cut before merging, by GGUF's name; each as in the family's tokenizer.json (llama.cpp,
# `src/llama-vocab.cpp`, llm_tokenizer_bpe, has all of them).
# Digits are what differs: Llama 3 cuts 12345 into 123 and 45, Qwen 2 into five, GPT-2 not at all. A
# cut in another place gives other tokens than the model was trained on, and no error.
CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+"
REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
GPT_4 = rf"{CONTRACTIONS}|\p{{N}}{{1,3}}|{REST}"
# Of GPT-4o: capitals begin a word, and contractions end one.
UPPER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"
LOWER = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
ENDING = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
GPT_4O = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{UPPER}*{LOWER}+{ENDING}|"
    rf"[^\r\n\p{{L}}\p{{N}}]?{UPPER}+{LOWER}*{ENDING}|"
    r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
DEEPSEEK_WORDS = (
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|"""
    r"[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|"
    r"\s*[\r\n]+|\s+(?!\S)|\s+"
)
# Several are gone through one behind the other, each cutting the pieces of the last.
PATTERNS: dict[str, tuple[str, ...]] = {
    "llama-bpe": (GPT_4,),
    "smaug-bpe": (GPT_4,),
    "glm4": (GPT_4,),
    "qwen2": (rf"{CONTRACTIONS}|\p{{N}}|{REST}",),
    "gpt-4o": (GPT_4O,),
    "deepseek-v3": (r"\p{N}{1,3}", "[一-龥぀-ゟ゠-ヿ]+", DEEPSEEK_WORDS),
}


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
        pre: How text is cut first: `smollm`, `gpt-2`, or one of `PATTERNS`.
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
    # Llama 3 takes a word that is a token as a whole, even where merges would build it otherwise.
    tokenizer = Tokenizer(
        models.BPE(
            vocabulary, [(p[0], p[1]) for p in pairs], ignore_merges=pre == "llama-bpe"
        )
    )
    tokenizer.pre_tokenizer = cut  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer.decoder = decoders.ByteLevel()  # pyright: ignore[reportAttributeAccessIssue]
    # An accented letter may be one character or a letter and its accent: both become the former.
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
        splits = [
            pre_tokenizers.Split(Regex(pattern), "isolated")
            for pattern in PATTERNS[pre]
        ]
        # Without the pattern of its own, GPT-2's, which would cut the pieces once more.
        byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        return pre_tokenizers.Sequence([*splits, byte_level])  # pyright: ignore[reportArgumentType]
    raise ModelError(
        f"{name}: pre-tokenizer {shown(pre)} is not supported; supported are "
        f"{['gpt-2', 'smollm', *PATTERNS]}"
    )
