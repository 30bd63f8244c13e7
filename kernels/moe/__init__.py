"""Mixtures of experts on both machines."""
