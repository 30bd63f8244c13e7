"""Lines of PEs as a fabric program sees them: what the collectives' programs share."""
