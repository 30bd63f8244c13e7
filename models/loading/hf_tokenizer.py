"""The tokenizer of a Hugging Face folder: tokenizer.json, and what other files say of tokens."""

import pathlib
from typing import Any

from tokenizers import Tokenizer

from models.errors import ModelError, shown
from models.loading.panics import refused
from models.loading.tokenizer import TextTokenizer
from models.loading.untrusted import present, read_bytes, read_json, read_text

SPECIAL_TOKENS = (
    "bos_token",
    "eos_token",
    "unk_token",
    "sep_token",
    "pad_token",
    "cls_token",
    "mask_token",
)


def read_tokenizer(folder: pathlib.Path) -> TextTokenizer:
    """The tokenizer with its end tokens and chat template, from the folder's files.

    A text ends where any of config.json, generation_config.json and tokenizer_config.json says so.

    Args:
        folder: Holds tokenizer.json; untrusted. How many ids the model can produce is what its
            config.json says.

    Raises:
        ModelError: A file is malformed, or names a token that there is not.
    """
    tokenizer = read_tokenizer_file(folder / "tokenizer.json")
    config, generation, chosen, token_map = (
        optional_object(folder / name)
        for name in (
            "config.json",
            "generation_config.json",
            "tokenizer_config.json",
            "special_tokens_map.json",
        )
    )
    special_tokens = named_tokens(token_map) | named_tokens(chosen)
    end_ids = [
        *id_list(config.get("eos_token_id"), folder / "config.json"),
        *id_list(generation.get("eos_token_id"), folder / "generation_config.json"),
    ]
    path = folder / "tokenizer.json"
    with refused(f"{path}: its special tokens cannot be looked up", "correct the file"):
        named_end = tokenizer.token_to_id(special_tokens.get("eos_token", ""))
    if named_end is not None:
        end_ids.append(named_end)
    prefix, suffix = added_around(tokenizer, path)
    return TextTokenizer(
        tokenizer,
        eos_ids=end_ids,
        bos_ids=prefix,
        suffix_ids=suffix,
        vocab_size=config.get("vocab_size"),
        chat_template=read_template(folder, chosen),
        special_tokens=special_tokens,
    )


def read_tokenizer_file(path: pathlib.Path) -> Tokenizer:
    """Reads a `tokenizer.json`; ModelError where it is missing or malformed.

    The file can also carry how a training run cut its batches: truncation, padding and merges left
    out at random. Those are not the tokenizer's, and are switched off, as transformers does.
    """
    text = read_bytes(path)
    with refused(f"{path}: not a tokenizer.json", "fetch it again"):
        tokenizer = Tokenizer.from_buffer(text)
        tokenizer.no_truncation()
        tokenizer.no_padding()
        if getattr(tokenizer.model, "dropout", None):
            tokenizer.model.dropout = None  # pyright: ignore[reportAttributeAccessIssue]
    return tokenizer


def added_around(
    tokenizer: Tokenizer, path: pathlib.Path
) -> tuple[list[int], list[int]]:
    """The ids that the file's post-processor puts before a text and behind it.

    Raises:
        ModelError: It does anything else, or it fails.
    """
    with refused(f"{path}: cannot encode with it", "correct the file"):
        whole = tokenizer.encode("a", add_special_tokens=True)
        bare = tokenizer.encode("a", add_special_tokens=False).ids
    # A post-processor is known by what it does. Llama 3's makes 128000 and the id of `a`, with the
    # mask 1 0: one id before the text, none behind.
    first = 0
    while first < len(whole.ids) and whole.special_tokens_mask[first]:
        first += 1
    prefix, suffix = whole.ids[:first], whole.ids[first + len(bare) :]
    # Otherwise it puts tokens within the text, or changes them, which no prefix and suffix can say.
    if whole.ids != [*prefix, *bare, *suffix]:
        raise ModelError(
            f"{path}: its post-processor must put tokens before and behind a text, but makes "
            f"{whole.ids} of {bare}; others are not supported"
        )
    return prefix, suffix


def optional_object(path: pathlib.Path) -> dict[str, Any]:
    """The contents of a JSON file that a folder may lack; empty then."""
    if not present(path):
        return {}
    values = read_json(path)
    if not isinstance(values, dict):
        raise ModelError(f"{path}: must hold an object; fetch it again")
    return values


def named_tokens(values: dict[str, Any]) -> dict[str, str]:
    """Name -> text of the special tokens that a file names, as strings or as objects."""
    texts = {}
    for name in SPECIAL_TOKENS:
        token = values.get(name)
        text = token.get("content") if isinstance(token, dict) else token
        if isinstance(text, str):
            texts[name] = text
    return texts


def id_list(value: Any, path: pathlib.Path) -> list[Any]:
    """The ids of an `eos_token_id`, which may be one, a list, or absent."""
    if value is None:
        return []
    ids = value if isinstance(value, list) else [value]
    if not all(isinstance(token, int) for token in ids):
        raise ModelError(
            f"{path}: eos_token_id must be a token id or a list of them, got {shown(value)}; "
            "correct the file"
        )
    return ids


def read_template(folder: pathlib.Path, chosen: dict[str, Any]) -> str:
    """The chat template: a file of its own, or one that tokenizer_config.json holds; or empty.

    The file comes first, as in transformers. Of several named templates the one named `default`
    is meant for a conversation without tools.
    """
    own_file = folder / "chat_template.jinja"
    if present(own_file):
        return read_text(own_file)
    template = chosen.get("chat_template")
    if isinstance(template, list) and all(isinstance(one, dict) for one in template):
        named = {str(one.get("name")): one.get("template") for one in template}
        template = named.get("default")
        if template is None:
            raise ModelError(
                f"{folder / 'tokenizer_config.json'}: chat_template names {sorted(named)}; "
                "one must be named 'default'"
            )
    if template is None:
        return ""
    if not isinstance(template, str):
        raise ModelError(
            f"{folder / 'tokenizer_config.json'}: chat_template must be text, got "
            f"{shown(template)}; correct the file"
        )
    return template
