"""What one PE can do: vector operations, scalar code, and what they cost."""
