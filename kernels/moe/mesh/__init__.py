"""Mixtures of experts on Trainium: experts dealt over the cores and chips of a mesh."""
