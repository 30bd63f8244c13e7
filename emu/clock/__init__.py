"""What the clock is: prices, starts, branches, counts, and what a reading tells."""
