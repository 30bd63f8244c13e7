"""Unmodified NKI kernels: recorded from their source, analysed, and run as our instructions."""
