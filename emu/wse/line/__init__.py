"""Collectives along a line of PEs as instructions: meaning, cost and arrival."""
