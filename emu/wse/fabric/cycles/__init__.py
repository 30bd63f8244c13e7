"""Fabric programs stepped cycle by cycle, all PEs at once."""
