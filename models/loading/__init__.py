"""Weights, configurations and tokenizers from files."""
