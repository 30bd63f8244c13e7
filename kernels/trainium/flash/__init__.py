"""Flash attention on one NeuronCore."""
