"""The corner PE's tile to every PE of a rectangle, as one stream."""
