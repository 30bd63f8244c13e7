"""A text whose perplexity tells what a precision costs; written for this purpose."""

TEXT = (
    "A library keeps its oldest maps in a cellar below the reading room. Every spring a keeper "
    "carries them upstairs, one drawer at a time, and lays them on long tables so that the paper "
    "can breathe. Visitors are allowed to look, but not to touch. Some of the maps show a coast "
    "that has since moved; others show a river with a name that nobody uses any more. The keeper "
    "likes to tell how a fisherman once found a mistake in a chart that was two hundred years old, "
    "and how the library thanked him with a small printed card. When the weather turns warm again, "
    "the drawers go back to the cellar, the tables are folded, and the room is quiet until the "
    "next year. What remains is a list of repairs, written in pencil, and a few new questions."
)
"""About 150 tokens of a tokenizer of English."""

MOST_TOKENS = 128
"""That are gone through: of a small vocabulary the text has more."""

PREFILLED = 64
"""Tokens that are prefilled; those behind are fed to decode one by one."""

__all__ = ["MOST_TOKENS", "PREFILLED", "TEXT"]
