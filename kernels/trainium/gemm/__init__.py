"""Matrix products on one NeuronCore."""
