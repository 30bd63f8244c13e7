"""The fastest tile, block and buffer sizes of a Trainium kernel, by the emulated clock."""
