"""Every PE's tile to the next place of a ring folded onto the line."""
