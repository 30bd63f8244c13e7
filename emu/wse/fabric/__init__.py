"""Fabric programs, and the two ways of stepping them."""
