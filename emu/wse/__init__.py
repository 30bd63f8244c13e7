"""The wafer: datasheets, PE instructions, fabric operations, placement."""
