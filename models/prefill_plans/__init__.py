"""Plans of a whole model's prefill: over which chips, in which chunks, and what that takes."""
