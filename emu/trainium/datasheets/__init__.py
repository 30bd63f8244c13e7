"""What is known of each Trainium generation, with sources and bands."""
