"""A model on both machines: prefill, hand-off, decode."""
