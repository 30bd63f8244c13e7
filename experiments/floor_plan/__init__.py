"""Where do a model's layers stand on wafers, and how full are their PEs?"""
