"""What is known of each wafer generation, with sources and bands."""
