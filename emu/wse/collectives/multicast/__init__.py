"""One PE's tile to every PE of its line."""
