"""Kernels that work row by row: norms, softmax, element by element."""
