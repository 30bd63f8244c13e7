"""SentencePiece's BPE built from its table of pieces and scores, as GGUF files hold it.

The pieces of a text are its characters; of two neighbours that are a piece together those with the
highest score are joined, the leftmost first, until none are (llama.cpp, `llm_tokenizer_spm`). A
character that is no piece becomes its bytes.
"""

import re
from collections.abc import Sequence

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers

from models.errors import ModelError

SPACE = "▁"  # what a space is written as in pieces
BYTE_PIECE = re.compile(r"<0x([0-9A-F]{2})>")
LONGEST_PIECE = 512  # characters; of published vocabularies none exceeds 93


def sentencepiece_bpe(
    *,
    pieces: Sequence[str],
    scores: Sequence[float],
    merged: Sequence[int],
    unknown: str | None,
    starts_with_space: bool,
    special: Sequence[AddedToken],
    whole: Sequence[AddedToken],
    name: str,
) -> Tokenizer:
    """Builds the tokenizer.

    Args:
        pieces: The text of each id, a space as `▁`; index is id.
        scores: Of each piece.
        merged: Ids of the pieces that text is cut into; others are bytes, or matched whole.
        unknown: What stands for a character without a piece where there are none for bytes.
        starts_with_space: Whether a text, and what follows a special token, is given a space.
        special: Tokens matched whole and left out when decoding.
        whole: Tokens matched whole and kept when decoding.
        name: What errors call the file.

    Raises:
        ModelError: The tables contradict each other.
    """
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    if len(vocabulary) != len(pieces) or len(scores) != len(pieces):
        raise ModelError(
            f"{name}: pieces must be distinct and each have a score, got {len(pieces)} of which "
            f"{len(vocabulary)} are distinct and {len(scores)} scores; the file is corrupt"
        )
    known = {pieces[index] for index in merged}
    # Pairs in the order in which they are joined; of pairs that make one piece that of lower ids.
    pairs: list[tuple[float, int, int, int, str, str]] = []
    for index in merged:
        piece = pieces[index]
        if len(piece) > LONGEST_PIECE:
            raise ModelError(
                f"{name}: pieces must have at most {LONGEST_PIECE} characters, got one of "
                f"{len(piece)}; the file is corrupt"
            )
        for cut in range(1, len(piece)):
            left, right = piece[:cut], piece[cut:]
            if left in known and right in known:
                order = -scores[index], index, vocabulary[left], vocabulary[right]
                pairs.append((*order, left, right))
    pairs.sort(key=lambda pair: pair[:4])
    tokenizer = Tokenizer(
        models.BPE(
            vocabulary,
            [(pair[4], pair[5]) for pair in pairs],
            unk_token=unknown,
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    spaces = normalizers.Replace(" ", SPACE)
    steps = [normalizers.Prepend(SPACE), spaces] if starts_with_space else [spaces]
    tokenizer.normalizer = normalizers.Sequence(steps)  # pyright: ignore[reportAttributeAccessIssue, reportArgumentType]
    ends = [decoders.Strip(" ", 1, 0)] if starts_with_space else []
    tokenizer.decoder = decoders.Sequence(  # pyright: ignore[reportAttributeAccessIssue]
        [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), *ends]
    )
    tokenizer.add_special_tokens(list(special))
    tokenizer.add_tokens(list(whole))
    return tokenizer


def bytes_of_piece(piece: str) -> bytes:
    """What a piece stands for: `▁he` is ` he`, `<0xC3>` the one byte C3."""
    byte = BYTE_PIECE.fullmatch(piece)
    if byte is not None:
        return bytes([int(byte[1], 16)])
    return piece.replace(SPACE, " ").encode()


__all__ = ["SPACE", "bytes_of_piece", "sentencepiece_bpe"]
