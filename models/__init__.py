"""Whole transformers: their sizes, their weights, their text, and the float32 oracle."""
