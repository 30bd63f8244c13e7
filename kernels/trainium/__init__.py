"""Kernels of one NeuronCore, and of a ring of them."""
