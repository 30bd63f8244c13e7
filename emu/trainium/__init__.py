"""The NeuronCore: datasheets, instructions, links."""
