"""Trains the tiny model that ships with the project, on the standard library's docstrings.

The same seed gives the same bits on the same machine with the same Python, JAX and tokenizers;
another Python version has other docstrings, and so other weights.
"""
