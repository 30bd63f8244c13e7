"""A GEMV over every PE of a WSE-3, stepped: values against float64, cycles against the timeline."""
