"""Many users on the machines: requests, the pipeline of regions that serves them, draft tokens."""
