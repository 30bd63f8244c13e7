"""What your attention variant costs on machines you don't have, and whether it is right there."""
