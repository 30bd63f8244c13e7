"""What makes loops fast: jumps over periods, and one walk per class of cores."""
