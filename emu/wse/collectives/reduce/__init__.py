"""Sums and maxima along a line of PEs, by any tree."""
