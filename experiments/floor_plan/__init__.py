"""Where a model's layers stand on wafers, and how full their PEs are."""
