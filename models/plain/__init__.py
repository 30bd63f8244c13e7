"""The plain float32 model: the oracle."""
