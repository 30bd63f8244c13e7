"""A transformer layer on a NeuronCore, and its parts."""
