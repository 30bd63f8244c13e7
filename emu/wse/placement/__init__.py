"""Where a model's regions lie: rectangles on wafers, and the ways over wafers' edges."""
