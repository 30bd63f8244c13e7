"""Kernels of one PE in a region of the wafer."""
