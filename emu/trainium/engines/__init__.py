"""The instructions of a NeuronCore by engine, with their costs."""
