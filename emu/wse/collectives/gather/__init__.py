"""Every PE's block to the first PE of its line, and back."""
