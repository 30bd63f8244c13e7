"""Lines of PEs as the timeline sees them: what meanings and arrival formulas share."""
