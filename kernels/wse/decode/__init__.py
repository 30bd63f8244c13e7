"""A decode step on a wafer."""
