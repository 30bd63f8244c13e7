"""Sums and maxima on every PE, chunk by chunk round a ring folded onto the line."""
