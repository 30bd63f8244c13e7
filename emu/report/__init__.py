"""What readings mean: where time went, bounds, critical paths, reasons, traces."""
