"""Experiments: one question and one table each."""
