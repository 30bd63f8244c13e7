"""Stages of a decoder layer that are programs of their own: projections, output, MLP."""
